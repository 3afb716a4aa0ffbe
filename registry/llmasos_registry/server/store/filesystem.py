"""Blobs as files: ``blobs/sha256/ab/cd/abcd...``, written under another name, fsynced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from llmasos_registry.server.store.blobs import PIECE, BlobMissing, Stored
from llmasos_registry.server.store.temporary import TemporaryBlob

#: Bytes of the disk that uploads leave free: with a full disk nothing can be written at all, not even an answer to it.
RESERVE = 1 << 30


class LocalFolders:
    """What every store has on this machine: temporary files, and parts of uploads under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.parts = folder / "staging"
        for place in (self.temporary, self.parts):
            place.mkdir(parents=True, exist_ok=True)

    def staging(self, upload: str) -> Path:
        """The folder of an upload's parts."""
        place = self.parts / upload
        place.mkdir(parents=True, exist_ok=True)
        return place

    def free(self) -> int:
        """Bytes of the disk that are left beyond what databases and logs need to go on."""
        return shutil.disk_usage(self.temporary).free - RESERVE

    def recover(self) -> int:
        """What a killed server left half-written is removed; parts of uploads stay, their senders may go on. How many.

        Only while no other server uses the folder.
        """
        left = list(os.scandir(self.temporary))
        for entry in left:
            os.unlink(entry.path)
        return len(left)

    def sweep_temporary(self, before: datetime, keep: Callable[[str], bool] = lambda name: False) -> int:
        """Remove what uploads that never ended left, but not the staging folders that ``keep`` names. How many."""
        removed = 0
        for folder in (self.temporary, self.parts):
            for entry in list(os.scandir(folder)):
                if folder == self.parts and keep(entry.name):
                    continue
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before.timestamp():
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)
                        removed += 1
        return removed


class FileStore(LocalFolders):
    """The store in a folder. ``temporary`` lies in the same file system, or rename would copy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.quarantined = folder / "quarantine"
        #: Folders whose names this process knows to be on disk.
        self._durable: set[Path] = set()

    def place(self, sha256: str) -> Path:
        """Where a blob lies, or would."""
        return self.blobs / sha256[:2] / sha256[2:4] / sha256

    def check(self) -> None:
        """Files are there or the folder could not have been opened."""

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
            return open(self.place(sha256), "rb")
        except FileNotFoundError:
            raise BlobMissing(sha256) from None

    def pieces(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` in pieces. Raises BlobMissing."""
        return read_pieces(self.open(sha256), start, stop)

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        return self.place(sha256).is_file()

    def path(self, sha256: str) -> Path | None:
        """The file, if it is there."""
        place = self.place(sha256)
        return place if place.is_file() else None

    def url(self, sha256: str, filename: str, lifetime: int) -> str | None:
        """Files have no address but this server's."""
        return None

    def discard(self, sha256: str, before: datetime) -> bool:
        """Remove a blob, unless it was written again since; whether it is gone.

        It is moved away first and its age is read then: a writer that finds the same bytes renews their age in place
        (``FileWriter``), so either this sees the new age and moves the file back, or the writer finds no file and
        writes its own.
        """
        place, aside = self.place(sha256), self.temporary / f"discard.{sha256}.{os.urandom(4).hex()}"
        try:
            if place.stat().st_mtime >= before.timestamp():
                return False
            os.rename(place, aside)
        except FileNotFoundError:
            return True
        if aside.stat().st_mtime >= before.timestamp():
            os.rename(aside, place)
            return False
        aside.unlink()
        return True

    def quarantine(self, sha256: str) -> None:
        """Move it to ``quarantine``."""
        self.quarantined.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.replace(self.place(sha256), self.quarantined / sha256)

    def walk(self) -> Iterator[tuple[str, int, datetime]]:
        """Every blob, in order of its digest."""
        for first in _folders(self.blobs):
            for second in _folders(first):
                for entry in sorted(os.scandir(second), key=lambda item: item.name):
                    with suppress(FileNotFoundError):
                        facts = entry.stat()
                        yield entry.name, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC)

    def make_durable(self, folder: Path) -> None:
        """Make a folder of blobs so that it survives a power cut: its name is synced in its parent.

        Once in each process, also for folders that are there: another process may have made one and not come to its
        sync yet.
        """
        if folder in self._durable:
            return
        if folder != self.blobs:
            self.make_durable(folder.parent)
            folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
        self._durable.add(folder)


class FileWriter(TemporaryBlob):
    """One blob on its way into a folder."""

    def __init__(self, store: FileStore) -> None:
        super().__init__(store.temporary)
        self._store = store

    def _keep(self, sha256: str) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        place = self._store.place(sha256)
        self._store.make_durable(place.parent)
        try:
            # The same bytes may be there. Their age is renewed, so that a sweep under way leaves them alone.
            os.utime(place)
        except FileNotFoundError:
            os.replace(self._path, place)
        # Also when the file was there: whoever wrote it may not have come to this line.
        sync_folder(place.parent)


def read_pieces(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """An open file from ``start`` to ``stop`` in pieces; closed at the end."""
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


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
