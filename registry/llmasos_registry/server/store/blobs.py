"""The content store's contract: blobs by sha256, written once, true to their name or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import sqlalchemy as sa

from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_store import blobs

#: Blobs are read and written in pieces of this many bytes.
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is in the store, durable."""

    sha256: str
    size: int


class BlobMissing(Exception):
    """The store does not hold this blob."""


class DigestMismatch(Exception):
    """The bytes sent are not those announced."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected sha256 {expected}, found {found}")
        self.expected = expected
        self.found = found


class BlobWriter(Protocol):
    """Takes bytes in pieces, hashes them once on the way; nothing is visible before ``commit``."""

    size: int

    def write(self, piece: bytes) -> None:
        """Append."""

    def commit(self, expected: str | None = None) -> Stored:
        """Make durable and visible: fsync, rename, fsync of the folder. Raises DigestMismatch and keeps nothing."""

    def file(self) -> Path:
        """The temporary file with everything written so far, flushed: to look at it before ``commit``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without ``commit``, throw the bytes away."""


class BlobStore(Protocol):
    """Where blobs lie. Every method may block; call from a worker thread, or for files in pieces."""

    def check(self) -> None:
        """Whether it can be used at all. Raises EnvironmentProblem."""

    def writer(self) -> BlobWriter:
        """A new blob."""

    def put(self, data: bytes) -> Stored:
        """A blob from memory."""

    def open(self, sha256: str) -> BinaryIO:
        """A seekable reader. Raises BlobMissing."""

    def pieces(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (exclusive) in pieces. Raises BlobMissing before the first."""

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""

    def path(self, sha256: str) -> Path | None:
        """The file, where blobs are files of this machine: servers send it without reading it in Python."""

    def url(self, sha256: str, filename: str, lifetime: int) -> str | None:
        """An address that serves the bytes without this server, where there is one."""

    def discard(self, sha256: str, before: datetime) -> bool:
        """Remove a blob, unless it was written at that moment or later; whether it is gone."""

    def quarantine(self, sha256: str) -> None:
        """Take it out of service without destroying it."""

    def walk(self) -> Iterator[tuple[str, int, datetime]]:
        """(sha256, size, when it was written) of every blob."""

    def staging(self, upload: str) -> Path:
        """A folder for the parts of an upload under way; made when asked for."""

    def free(self) -> int:
        """Bytes that temporary files and parts of uploads may still take on this machine."""

    def recover(self) -> int:
        """Remove what a killed server left half-written; how many. Only while no other server uses the store."""

    def sweep_temporary(self, before: datetime, keep: Callable[[str], bool] = ...) -> int:
        """Remove temporary files and staging folders older than that, but not the folders ``keep`` names; how many."""


def record_blob(conn: sa.Connection, stored: Stored) -> None:
    """Note a blob in the database, or touch it: in the transaction that references it, after it is durable."""
    now = utcnow()
    touched = conn.execute(
        blobs.update().where(blobs.c.sha256 == stored.sha256).values(touched_at=now, quarantined=None)
    )
    if touched.rowcount == 0:
        values = {
            "sha256": stored.sha256,
            "size": stored.size,
            "created_at": now,
            "touched_at": now,
        }
        if conn.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as pg_insert

            conn.execute(pg_insert(blobs).values(values).on_conflict_do_nothing())
        else:
            conn.execute(blobs.insert().values(values))
