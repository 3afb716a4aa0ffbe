"""When tokens were last used, written to the database now and then: a read of the registry must not become a write."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from anyio import to_thread

from llmasos_registry.server.db.tables_accounts import tokens

if TYPE_CHECKING:
    from llmasos_registry.server.context import Registry
    from llmasos_registry.server.db.engine import Database

#: Seconds between writes.
INTERVAL = 60


class TokenActivity:
    """Tokens seen since the last write."""

    def __init__(self) -> None:
        self._seen: dict[int, datetime] = {}

    def note(self, token: int, now: datetime) -> None:
        """A token was used."""
        self._seen[token] = now

    def write(self, db: Database) -> int:
        """Put what was seen into the database; how many tokens."""
        seen, self._seen = self._seen, {}
        if seen:
            with db.write() as conn:
                for token, moment in sorted(seen.items()):
                    conn.execute(tokens.update().where(tokens.c.id == token).values(last_used_at=moment))
        return len(seen)

    async def run(self, registry: Registry) -> None:
        """Write once a minute, and when the server stops."""
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                await to_thread.run_sync(self.write, registry.db)
        finally:
            self.write(registry.db)
