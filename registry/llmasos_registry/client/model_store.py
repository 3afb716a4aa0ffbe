"""Models and datasets of registries on this disk: one folder a commit, complete and checked, or not there at all.

Below ``cache_dir/registry/<host>/``: ``models/org/name/<commit>/`` holds the files, ``<commit>.json`` beside it what is known
of them, ``requests.json`` what was asked for and which commit answered. A file that is still arriving lies in ``partial/`` under
its digest, and the next attempt goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from llmasos.errors import RunError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.connection import RegistryError
from llmasos_registry.client.locked import LockedModel, ModelFile, model_files, release_range
from llmasos_registry.client.sources import Source
from llmasos_registry.client.verify import Verifier

_FACTS_LIMIT = 64 << 20


def is_code(path: str) -> bool:
    """Whether a file of a repository is Python code, which is never fetched: nothing here could want it."""
    return path.lower().endswith((".py", ".pyc", ".pyd", ".so"))


class ModelStore:
    """What was pulled from one registry."""

    def __init__(self, cache_dir: Path, registry: str) -> None:
        parts = urlsplit(registry)
        host = f"{parts.hostname}{f'-{parts.port}' if parts.port else ''}"
        self._root = cache_dir / "registry" / host

    def folder(self, kind: str, name: str, commit: str) -> Path:
        """Where the files of a commit lie once they are here."""
        return self._root / f"{kind}s" / name / commit

    def read(self, kind: str, name: str, commit: str) -> LockedModel | None:
        """What is here at a commit; None unless it is complete."""
        folder = self.folder(kind, name, commit)
        if not folder.is_dir():
            return None
        return _read_facts(folder.with_name(f"{commit}.json"))

    def remembered(self, kind: str, name: str, asked: str) -> LockedModel | None:
        """What answered this request before, or the newest release here that would; for when nothing may be fetched."""
        home = self._root / f"{kind}s" / name
        commit = _read_json(home / "requests.json").get(asked)
        if isinstance(commit, str) and (found := self.read(kind, name, commit)) is not None:
            return found
        here = [
            one for path in sorted(home.glob("*.json")) if (one := self._at(kind, name, path)) is not None
        ]
        exact = [one for one in here if one.commit == asked]
        return exact[0] if exact else _newest(here, asked)

    def _at(self, kind: str, name: str, path: Path) -> LockedModel | None:
        return self.read(kind, name, path.stem) if len(path.stem) == 40 else None

    def remember(self, model: LockedModel, asked: str) -> None:
        """Note which commit answered a request."""
        path = self._root / f"{model.kind}s" / model.id / "requests.json"
        table = _read_json(path)
        if table.get(asked) != model.commit:
            write_atomic(path, json.dumps({**table, asked: model.commit}, indent=1, sort_keys=True).encode())

    def missing(self, model: LockedModel) -> int:
        """Bytes that would have to be fetched; 0 when the commit is here."""
        if self.read(model.kind, model.id, model.commit) is not None:
            return 0
        return sum(file.size for file in model.files if not is_code(file.path))

    def put(
        self,
        model: LockedModel,
        source: Source,
        verifier: Verifier,
        read: Callable[[int], None] | None = None,
    ) -> Path:
        """Fetch what is missing, check every byte, and let the whole commit appear at once; the folder.

        Raises DigestMismatch, RunError, and what the source raises. What arrived stays for the next attempt.
        """
        folder = self.folder(model.kind, model.id, model.commit)
        if self.read(model.kind, model.id, model.commit) is not None:
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = folder.with_name(f".{model.commit}.{os.getpid()}.{os.urandom(4).hex()}")
        placed: dict[str, Path] = {}
        try:
            for file in model.files:
                if is_code(file.path):
                    continue
                target = scratch / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.sha256 in placed:
                    shutil.copyfile(placed[file.sha256], target)
                else:
                    self._place(target, model, file, source, verifier, read)
                    placed[file.sha256] = target
            scratch.mkdir(exist_ok=True)
            write_atomic(folder.with_name(f"{model.commit}.json"), _facts(model))
            with suppress(OSError):
                os.rename(scratch, folder)
            if self.read(model.kind, model.id, model.commit) is None:
                raise RunError(f"{folder} cannot be written", hint="remove it, and try again")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def _place(
        self,
        target: Path,
        model: LockedModel,
        file: ModelFile,
        source: Source,
        verifier: Verifier,
        read: Callable[[int], None] | None,
    ) -> None:
        partial = self._root / "partial" / file.sha256
        partial.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(partial.with_suffix(".lock")):
            arrive(partial, model, file, source, verifier, read)
            os.replace(partial, target)
        partial.with_suffix(".lock").unlink(missing_ok=True)


def arrive(
    partial: Path,
    model: LockedModel,
    file: ModelFile,
    source: Source,
    verifier: Verifier,
    read: Callable[[int], None] | None,
) -> None:
    """Bring one file to ``partial``, going on with what is there, and check it. A file that is wrong is removed."""
    start = partial.stat().st_size if partial.exists() else 0
    if start > file.size:
        partial.unlink()
        start = 0
    name = f"{model.id}/{file.path}"
    if start < file.size or file.size == 0:
        with source.model_file(model, file.path, file.sha256, start) as (begin, pieces):
            if begin not in (0, start):
                raise RegistryError(f"{source.title} sent another part of {name} than was asked for")
            with open(partial, "r+b" if begin else "wb") as out:
                out.seek(begin)
                size = begin
                for piece in pieces:
                    size += len(piece)
                    if size > file.size:
                        break
                    out.write(piece)
                    if read is not None:
                        read(len(piece))
                out.flush()
                os.fsync(out.fileno())
        if size > file.size:
            partial.unlink()
            raise RegistryError(f"{name} is longer than the {file.size} bytes that were announced")
        if size < file.size:
            raise RegistryError(
                f"{source.title} sent {size} of the {file.size} bytes of {name}",
                hint="run it again: it goes on there",
            )
    try:
        verifier.verify_file(partial, file.sha256, name=name, size=file.size)
    except RunError:
        partial.unlink()
        raise


def _newest(here: list[LockedModel], asked: str) -> LockedModel | None:
    """The newest release in a range, among what is here; any commit when nothing in particular was asked for."""
    wanted = release_range(asked) if asked else SpecifierSet()
    if wanted is None:
        return None
    found: list[tuple[Version, LockedModel]] = []
    for one in here:
        with suppress(InvalidVersion):
            version = Version(one.version or "")
            if wanted.contains(version, prereleases=True):
                found.append((version, one))
    if found:
        return max(found, key=lambda pair: pair[0])[1]
    return here[0] if not asked and len(here) == 1 else None


def _facts(model: LockedModel) -> bytes:
    table = asdict(model)
    table["files"] = [file._asdict() for file in model.files]
    return json.dumps(table, indent=1).encode()


def _read_facts(path: Path) -> LockedModel | None:
    table = _read_json(path)
    try:
        table["files"] = model_files(table["files"])
        table["requires"] = tuple(table["requires"])
        return LockedModel(**table)
    except (KeyError, TypeError, ValueError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            table = json.loads(file.read(_FACTS_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Two processes that want one file: the second waits, and finds it complete."""
    with open(path, "a+b") as file:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
