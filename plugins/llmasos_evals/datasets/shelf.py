"""The shelf: data of the user's own under a name, with digests that say whether it is still what it was.

A name on the shelf stands for ``dataset_path`` of a task, with ``dataset_name`` as its configuration, so that a stock task
file runs unmodified and without network on files the user has.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmasos.api import InputError, canonical_digest

SCHEMA = "llmasos-shelf/1"
NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
SPLIT = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class ShelfFile:
    """A file of a split, as it was when it was added."""

    path: Path
    bytes: int
    sha256: str

    def state(self) -> str:
        """``ok``, ``missing`` or ``changed``; reads the whole file."""
        try:
            if self.path.stat().st_size != self.bytes:
                return "changed"
            return "ok" if file_digest(self.path) == self.sha256 else "changed"
        except OSError:
            return "missing"


@dataclass(frozen=True, slots=True)
class ShelfEntry:
    """A data set on the shelf: one configuration of a name."""

    name: str
    config: str | None
    files: Mapping[str, tuple[ShelfFile, ...]]
    #: Format of all files, None: each by its ending; and what its reader is told.
    format: str | None
    options: Mapping[str, Any]
    rows: Mapping[str, int]
    columns: Mapping[str, tuple[str, ...]]
    added: str
    copied: bool = False
    features: Any = None

    @property
    def title(self) -> str:
        """For messages."""
        return self.name if self.config is None else f"{self.name} ({self.config})"

    @property
    def digest(self) -> str:
        """Over everything that decides the rows: the bytes of the files and how they are read."""
        return canonical_digest(
            {
                "files": {split: [file.sha256 for file in files] for split, files in self.files.items()},
                "format": self.format,
                "options": dict(self.options),
                "features": self.features,
            }
        )


@dataclass
class ShelfPlace:
    """The splits of an entry, which are refused when a file is no longer what it was."""

    entry: ShelfEntry
    format: str | None = field(init=False)
    options: Mapping[str, Any] = field(init=False)
    features: Any = field(init=False)
    origin: Mapping[str, str | None] = field(init=False)
    splits: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        entry = self.entry
        self.format, self.options, self.features = entry.format, entry.options, entry.features
        self.splits = list(entry.files)
        self.origin = {"kind": "shelf", "name": entry.name, "config": entry.config, "revision": entry.digest}

    def paths(self, split: str) -> Sequence[Path]:
        """The files of a split. Raises InputError for a file that is missing or was changed."""
        for file in self.entry.files[split]:
            state = file.state()
            if state != "ok":
                again = f"llmasos data add {self.entry.name}"
                if self.entry.config is not None:
                    again += f" --config {self.entry.config}"
                raise InputError(
                    f"the data {self.entry.title} is not what was added: {file.path} is {state}",
                    hint=f"put the file back, or take it as it is now: {again} --split {split}={file.path} --replace",
                )
        return [file.path for file in self.entry.files[split]]


class Shelf:
    """Entries in a folder, a file each."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "shelf"

    def entries(self) -> Iterator[ShelfEntry]:
        """All entries, by name and configuration. Raises InputError for a damaged one."""
        found = [self._read(path) for path in self.folder.glob("*.json")]
        yield from sorted(found, key=lambda entry: (entry.name, entry.config or ""))

    def find(self, name: str, config: str | None) -> ShelfEntry | None:
        """The entry of a name and configuration; None for another configuration than any there is."""
        path = self._path(name, config)
        return self._read(path) if path.is_file() else None

    def configs(self, name: str) -> list[str | None]:
        """Configurations there are of a name."""
        return [entry.config for entry in self.entries() if entry.name == name]

    def put(self, entry: ShelfEntry) -> ShelfEntry:
        """Write an entry, its files copied first when it says so."""
        if entry.copied:
            entry = self._copied(entry)
        value = {
            "schema": SCHEMA,
            "name": entry.name,
            "config": entry.config,
            "added": entry.added,
            "copied": entry.copied,
            "format": entry.format,
            "options": dict(entry.options),
            "features": entry.features,
            "splits": {
                split: {
                    "rows": entry.rows[split],
                    "columns": list(entry.columns[split]),
                    "files": [
                        {"path": str(file.path), "bytes": file.bytes, "sha256": file.sha256} for file in files
                    ],
                }
                for split, files in entry.files.items()
            },
        }
        _write(self._path(entry.name, entry.config), json.dumps(value, indent=2, ensure_ascii=False).encode())
        return entry

    def remove(self, entry: ShelfEntry) -> None:
        """Take an entry off the shelf, with the copies that were made for it. Files that it only names stay."""
        self._path(entry.name, entry.config).unlink()
        shutil.rmtree(self._copies(entry), ignore_errors=True)

    def _copied(self, entry: ShelfEntry) -> ShelfEntry:
        folder = self._copies(entry)
        files = {}
        for split, given in entry.files.items():
            made = []
            for file in given:
                target = folder / f"{file.sha256[:16]}-{file.path.name}"
                if file.path != target:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _copy(file.path, target)
                made.append(ShelfFile(target, file.bytes, file.sha256))
            files[split] = tuple(made)
        return replace(entry, files=files)

    def _copies(self, entry: ShelfEntry) -> Path:
        return self.folder / "files" / self._path(entry.name, entry.config).stem

    def _path(self, name: str, config: str | None) -> Path:
        # Readable, and distinct whatever the names hold and however the file system treats capitals.
        readable = re.sub(r"[^\w.-]", "-", name if config is None else f"{name}--{config}")[:80]
        key = hashlib.sha256(json.dumps([name, config]).encode()).hexdigest()[:12]
        return self.folder / f"{readable}-{key}.json"

    def _read(self, path: Path) -> ShelfEntry:
        try:
            value = json.loads(path.read_bytes())
            if value["schema"] != SCHEMA:
                raise ValueError(f"its schema is {value['schema']!r}")
            splits = value["splits"]
            return ShelfEntry(
                name=str(value["name"]),
                config=None if value["config"] is None else str(value["config"]),
                files={
                    split: tuple(
                        ShelfFile(Path(file["path"]), int(file["bytes"]), str(file["sha256"]))
                        for file in told["files"]
                    )
                    for split, told in splits.items()
                },
                format=value["format"],
                options=dict(value["options"]),
                rows={split: int(told["rows"]) for split, told in splits.items()},
                columns={split: tuple(map(str, told["columns"])) for split, told in splits.items()},
                added=str(value["added"]),
                copied=bool(value["copied"]),
                features=value.get("features"),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"the shelf's note {path} cannot be read: {error}",
                hint="remove the file, and add the data again",
            ) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with source.open("rb") as given, temporary.open("wb") as made:
            shutil.copyfileobj(given, made, 1 << 20)
            made.flush()
            os.fsync(made.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
