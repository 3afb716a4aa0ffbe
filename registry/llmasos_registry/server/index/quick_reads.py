"""Single rows out of SQLite in microseconds, for the event loop: no pool, no transaction, no worker thread."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any
from urllib.parse import quote

from llmasos_registry.server.db.engine import Database


class QuickReads:
    """A read-only connection to the file of a SQLite database, which sees every commit as soon as it is made."""

    def __init__(self, db: Database) -> None:
        if not db.sqlite:
            raise ValueError("only SQLite is read on the event loop")
        self._address = f"file:{quote(db.url.database or '')}?mode=ro"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def version(self) -> int:
        """A number that moves with every commit by anybody (``PRAGMA data_version``)."""
        row = self.row("PRAGMA data_version")
        return int(row[0]) if row else 0

    def row(self, query: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
        """The first row of a query."""
        with self._lock:
            if self._connection is None:
                # Autocommit: a transaction that stays open would hide what others commit.
                self._connection = sqlite3.connect(
                    self._address, uri=True, check_same_thread=False, isolation_level=None
                )
                self._connection.execute("PRAGMA mmap_size=268435456")
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
            return found
