"""Whether the audit log is whole: each line carries the sha256 of the line before it."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from llmasos_registry.server.accounts.audit import line_digest
from llmasos_registry.server.db.tables_api import audit_log

#: Lines read at a time.
BATCH = 1000


def verify_chain(conn: sa.Connection, advance: Callable[[int], None]) -> tuple[int, str, list[str]]:
    """(lines, digest of the last one, faults). Keep the digest elsewhere: it also tells whether the end was cut off."""
    lines, last, digest = 0, 0, ""
    faults: list[str] = []
    while True:
        query = sa.select(audit_log).where(audit_log.c.id > last).order_by(audit_log.c.id).limit(BATCH)
        batch = conn.execute(query).all()
        for row in batch:
            line = {
                "at": row.at.isoformat(),
                "actor": row.actor,
                "token": row.token_id,
                "address": row.address,
                "action": row.action,
                "target": row.target,
                "detail": row.detail,
            }
            if line_digest(digest, line) != row.digest:
                faults.append(
                    f"line {row.id} ({row.at:%Y-%m-%d %H:%M:%S}, {row.action}) does not follow line {last}"
                )
            last, digest = row.id, row.digest
        lines += len(batch)
        advance(len(batch))
        if len(batch) < BATCH:
            return lines, digest, faults
