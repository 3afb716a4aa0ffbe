"""The store of finished work under ``.work`` in the output folder: results by the digest of everything that decides them.

A result is a folder ``ab/abcd.../`` with files and ``result.json``. It is written elsewhere, synced, and renamed into place, so
it is either whole or absent; whoever comes second finds the same bytes and throws his own away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llmasos.errors import UsageError

_CHUNK = 2**20
RESULT = "result.json"


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and nothing to choose: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest_of(value: Any) -> str:
    """sha256 over the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_range(path: Path, start: int, end: int | None) -> str:
    """sha256 over a byte range of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = None if end is None else end - start
        while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
            digest.update(chunk)
            if left is not None:
                left -= len(chunk)
    return digest.hexdigest()


class Workshop:
    """Finished results by key. Safe for any number of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the result of a key lies or would lie."""
        return self.folder / key[:2] / key

    def result(self, key: str) -> dict[str, Any] | None:
        """The ``result.json`` of a finished key, or None when it is not finished or a file is not of the size it had."""
        folder = self.path(key)
        try:
            found = json.loads((folder / RESULT).read_bytes())
            if all(
                (folder / name).stat().st_size == entry["bytes"] for name, entry in found["files"].items()
            ):
                return found if isinstance(found, dict) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None

    def commit(self, key: str, make: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Let ``make`` write files into a folder and return facts; publish both under ``key``. Returns the result.

        The facts gain ``files``: name -> sha256 and bytes.
        """
        target = self.path(key)
        temporary = self.folder / "tmp" / f"{key[:16]}-{os.getpid()}-{os.urandom(4).hex()}"
        temporary.mkdir(parents=True)
        try:
            facts = dict(make(temporary))
            files = {}
            for path in sorted(temporary.iterdir()):
                files[path.name] = {"sha256": digest_range(path, 0, None), "bytes": path.stat().st_size}
                path.chmod(
                    0o444
                )  # published files are hard links to these: editing one in place would poison the store
                _sync(path)
            written = canonical({**facts, "files": files})
            (temporary / RESULT).write_bytes(written)
            _sync(temporary / RESULT)
            _sync(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(temporary, target)
            except OSError:
                if self.result(key) is None:  # what is there is damaged, not a twin
                    shutil.rmtree(target)
                    os.rename(temporary, target)
            _sync(target.parent)
            # As a later run will read it, so that nothing can depend on who did the work.
            result: dict[str, Any] = json.loads(written)
            return result
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed runs left half done. Only with the lock held."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time. Raises UsageError when another holds the output folder; the lock ends with its process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("wb") as file:
            if not _lock(file):
                raise UsageError(
                    f"another run is writing to {self.folder.parent}",
                    hint="wait for it, or give another --output",
                )
            yield


def publish(source: Path, target: Path) -> None:
    """Make ``target`` the file ``source``: a hard link where the file system has them, else a copy. Atomic."""
    try:
        if target.samefile(source):
            return
    except OSError:
        pass
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        _sync(temporary)
    os.replace(temporary, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: its file sharing rules already keep a second writer out of most files
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
