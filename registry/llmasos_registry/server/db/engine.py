"""One database, two dialects. Reads see a snapshot; a write is one short transaction.

SQLite: WAL, ``synchronous=FULL`` (with NORMAL the last commits may be lost with the power), one writer at a time
through ``BEGIN IMMEDIATE``. PostgreSQL: psycopg, READ COMMITTED, row locks where a handler asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.types import TypeDecorator

#: How long a SQLite writer waits for another, milliseconds.
BUSY_TIMEOUT = 30_000


def utcnow() -> datetime:
    """Now, with its time zone, to the microsecond."""
    return datetime.now(UTC)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps text without a zone; this puts the zone back."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuses a moment without a zone: it would be read back as another moment."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """UTC, always."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """Connections to one database."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": not self.sqlite}
        if self.sqlite:
            options["connect_args"] = {"timeout": BUSY_TIMEOUT / 1000, "check_same_thread": False}
        else:
            options |= {"pool_size": 10, "max_overflow": 20}
        self.engine = sa.create_engine(self.url, **options)
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin)

    @classmethod
    def of_folder(cls, folder: Path) -> Database:
        """The SQLite database of a data folder."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made here, because SQLite would let everybody read it; its other files get the mode of this one.
        os.close(os.open(cls.file_of(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return cls(f"sqlite:///{cls.file_of(folder)}")

    @staticmethod
    def file_of(folder: Path) -> Path:
        """The file of that database."""
        return folder / "registry.sqlite"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as conn:
            yield conn
            conn.rollback()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits at the end, or leaves nothing when an exception ends it. Keep it short."""
        with self.engine.connect() as conn:
            if self.sqlite:
                conn.execution_options(llmasos_write=True)
            with conn.begin():
                yield conn

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # The driver would begin transactions on its own, too late for BEGIN IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT}",
        "cache_size=-65536",
        "mmap_size=268435456",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(conn: sa.Connection) -> None:
    # IMMEDIATE: two writers that both read first would otherwise end in "database is locked", which no waiting cures.
    write = conn.get_execution_options().get("llmasos_write", False)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
