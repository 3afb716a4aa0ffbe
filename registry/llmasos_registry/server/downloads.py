"""Download counts, kept in memory and written now and then: a download must not become a write to the database.

What a killed process had not written (at most INTERVAL seconds of counts) is lost; counts are no accounts.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING

import sqlalchemy as sa
from anyio import to_thread
from sqlalchemy.dialects import postgresql, sqlite

from llmasos_registry.server.db.engine import Database, utcnow
from llmasos_registry.server.db.tables_api import documents, downloads
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.db.tables_index import projects

if TYPE_CHECKING:
    from llmasos_registry.server.context import Registry

#: Seconds between writes.
INTERVAL = 15
#: Different (kind, name, day) kept at most between writes; what comes on top is not counted.
MAX_KEPT = 100_000


class Downloads:
    """Counts since the last write. Safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, date]] = Counter()

    def count(self, kind: str, name: str) -> None:
        """One download. ``kind``: model, dataset (name ``owner/name``) or package (normalised name)."""
        key = (kind, name.lower(), utcnow().date())
        with self._lock:
            if key in self._counts or len(self._counts) < MAX_KEPT:
                self._counts[key] += 1

    def write(self, db: Database) -> int:
        """Add what was counted to the database; how many downloads."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return 0
        try:
            with db.write() as conn:
                # In order: two processes that write the same rows must not wait for each other in a circle.
                for (kind, name, day), number in sorted(counts.items()):
                    _add(conn, kind, name, day, number)
        except BaseException:
            with self._lock:
                self._counts.update(counts)
            raise
        return counts.total()

    async def run(self, registry: Registry) -> None:
        """Write every INTERVAL seconds, and when the server stops."""
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                await to_thread.run_sync(self.write, registry.db)
        finally:
            self.write(registry.db)


def _add(conn: sa.Connection, kind: str, name: str, day: date, number: int) -> None:
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    statement = insert(downloads).values(kind=kind, subject=name, day=day, count=number)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["kind", "subject", "day"],
            set_={"count": downloads.c.count + statement.excluded["count"]},
        )
    )
    table = projects if kind == "package" else repos
    same = table.c.key == name
    if kind != "package":
        same &= repos.c.kind == kind
    conn.execute(table.update().where(same).values(downloads=table.c.downloads + number))
    kinds = ("plugin", "package") if kind == "package" else (kind,)
    conn.execute(
        documents.update()
        .where(documents.c.kind.in_(kinds), documents.c.key == name)
        .values(downloads=documents.c.downloads + number)
    )


async def write_downloads(registry: Registry) -> None:
    """The task beside the requests."""
    await registry.downloads.run(registry)
