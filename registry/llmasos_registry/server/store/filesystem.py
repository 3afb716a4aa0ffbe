"""Blobs as files: ``blobs/sha256/ab/cd/abcd...``, written under another name, fsynced, renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from llmasos_registry.server.store.blobs import PIECE, BlobMissing, DigestMismatch, Stored


class FileStore:
    """The store in a folder. ``temporary`` lies in the same file system, or rename would copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.temporary = folder / "tmp"
        self.parts = folder / "staging"
        self.quarantined = folder / "quarantine"
        for place in (self.blobs, self.temporary, self.parts):
            place.mkdir(parents=True, exist_ok=True)

    def _place(self, sha256: str) -> Path:
        return self.blobs / sha256[:2] / sha256[2:4] / sha256

    def writer(self) -> FileWriter:
        """A new blob."""
        return FileWriter(self)

    def put(self, data: bytes) -> Stored:
        """A blob from memory."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def open(self, sha256: str) -> BinaryIO:
        """A seekable reader. Raises BlobMissing."""
        try:
            return open(self._place(sha256), "rb")
        except FileNotFoundError:
            raise BlobMissing(sha256) from None

    def pieces(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` in pieces. Raises BlobMissing."""
        return _pieces(self.open(sha256), start, stop)

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        return self._place(sha256).is_file()

    def path(self, sha256: str) -> Path | None:
        """The file, if it is there."""
        place = self._place(sha256)
        return place if place.is_file() else None

    def url(self, sha256: str, filename: str, lifetime: int) -> str | None:
        """Files have no address but this server's."""
        return None

    def delete(self, sha256: str) -> None:
        """Remove; nothing when it is not there."""
        with suppress(FileNotFoundError):
            self._place(sha256).unlink()

    def quarantine(self, sha256: str) -> None:
        """Move it to ``quarantine``."""
        self.quarantined.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.replace(self._place(sha256), self.quarantined / sha256)

    def walk(self) -> Iterator[tuple[str, int, datetime]]:
        """Every blob, in order of its digest."""
        for first in _folders(self.blobs):
            for second in _folders(first):
                for entry in sorted(os.scandir(second), key=lambda item: item.name):
                    with suppress(FileNotFoundError):
                        facts = entry.stat()
                        yield entry.name, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC)

    def staging(self, upload: str) -> Path:
        """The folder of an upload's parts."""
        place = self.parts / upload
        place.mkdir(parents=True, exist_ok=True)
        return place

    def recover(self) -> int:
        """What a killed server left half-written is removed; parts of uploads stay, their senders may go on. How many.

        Only while no other server uses the folder.
        """
        left = list(os.scandir(self.temporary))
        for entry in left:
            os.unlink(entry.path)
        return len(left)

    def sweep_temporary(self, before: datetime) -> int:
        """Remove what was left by uploads that never ended."""
        removed = 0
        for folder in (self.temporary, self.parts):
            for entry in list(os.scandir(folder)):
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before.timestamp():
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)
                        removed += 1
        return removed


class FileWriter:
    """One blob on its way in."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._path = store.temporary / f"{os.getpid()}.{os.urandom(12).hex()}"
        self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115 - closed in commit or __exit__
        self._digest = hashlib.sha256()
        self._done = False
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Append and hash."""
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(piece)
        self.size += len(piece)

    def commit(self, expected: str | None = None) -> Stored:
        """fsync, rename to its digest, fsync of the folder. Raises DigestMismatch."""
        found = self._digest.hexdigest()
        if expected is not None and found != expected:
            raise DigestMismatch(expected, found)
        os.fsync(self._file.fileno())
        self._file.close()
        place = self._store._place(found)
        if place.is_file():
            # The same bytes are there. Its age is renewed, so that a sweep under way leaves it alone.
            with suppress(FileNotFoundError):
                os.utime(place)
                self._path.unlink()
                self._done = True
                return Stored(found, self.size)
        _make_durable_folder(place.parent, self._store.blobs)
        os.replace(self._path, place)
        _sync_folder(place.parent)
        self._done = True
        return Stored(found, self.size)

    def file(self) -> Path:
        """The temporary file."""
        return self._path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self._done:
            with suppress(FileNotFoundError):
                self._path.unlink()


def _pieces(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = None if stop is None else stop - start
        while left is None or left > 0:
            piece = file.read(PIECE if left is None else min(PIECE, left))
            if not piece:
                return
            if left is not None:
                left -= len(piece)
            yield piece


def _folders(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        if entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _make_durable_folder(folder: Path, root: Path) -> None:
    """Make a folder below ``root`` so that it survives a power cut: each new name is synced in its parent."""
    if folder.is_dir():
        return
    if folder.parent != root:
        _make_durable_folder(folder.parent, root)
    with suppress(FileExistsError):
        folder.mkdir()
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
