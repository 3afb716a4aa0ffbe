"""The audit log and the events that webhooks are told of, written in the transaction of the change they describe."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_api import audit_log, events


def audit(
    conn: sa.Connection, caller: Caller, action: str, target: str, detail: dict[str, Any] | None = None
) -> None:
    """Append one line. Each line carries the sha256 of the line before it, so a changed or missing line shows."""
    # PostgreSQL: one appender at a time, or two lines would follow the same line. SQLite has one writer anyway.
    if conn.dialect.name == "postgresql":
        conn.execute(sa.text("SELECT pg_advisory_xact_lock(7301)"))
    last = conn.execute(
        sa.select(audit_log.c.digest).order_by(audit_log.c.id.desc()).limit(1)
    ).scalar_one_or_none()
    at = utcnow()
    line = {
        "at": at.isoformat(),
        "actor": caller.name,
        "token": caller.token,
        "address": caller.address,
        "action": action,
        "target": target,
        "detail": detail or {},
    }
    conn.execute(
        audit_log.insert().values(
            at=at,
            actor=caller.name,
            token_id=caller.token,
            address=caller.address,
            action=action,
            target=target,
            detail=detail or {},
            digest=line_digest(last or "", line),
        )
    )


def line_digest(before: str, line: dict[str, Any]) -> str:
    """Hex sha256 over the digest of the line before and the canonical JSON of this line."""
    text = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def emit(conn: sa.Connection, event: str, subject: str, payload: dict[str, Any]) -> None:
    """Note an event such as ``model.commit`` for the webhooks that want it."""
    conn.execute(events.insert().values(at=utcnow(), event=event, subject=subject, payload=payload))
