"""How far a published record has been verified, by what others sent in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from llmasos_registry.server.api.answers import AttestationEntry
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_results import eval_attestations, eval_records

#: Records that one statement asks about.
BATCH = 500


def attestations_of(conn: sa.Connection, records: Sequence[str]) -> dict[str, list[AttestationEntry]]:
    """The attestations of each record, oldest first."""
    found: dict[str, list[AttestationEntry]] = {digest: [] for digest in records}
    for start in range(0, len(records), BATCH):
        rows = conn.execute(
            sa.select(eval_attestations, accounts.c.name, eval_records.c.owner_id)
            .join(accounts, accounts.c.id == eval_attestations.c.account_id)
            .join(eval_records, eval_records.c.digest == eval_attestations.c.record)
            .where(eval_attestations.c.record.in_(records[start : start + BATCH]))
            .order_by(eval_attestations.c.created_at, eval_attestations.c.digest)
        )
        for row in rows:
            found[row.record].append(_entry(row))
    return found


def state_of(attestations: Iterable[AttestationEntry]) -> str:
    """``refuted``, ``fully re-run``, ``spot-checked`` or ``self-reported``.

    A confirmation counts when another account than the publisher's sent it; a refutation always, since anybody can check it.
    """
    verdicts = set()
    kinds = set()
    for entry in attestations:
        verdicts.add(entry["verdict"])
        if entry["verdict"] == "confirmed" and entry["independent"]:
            kinds.add(entry["kind"])
    if "refuted" in verdicts:
        return "refuted"
    if "full" in kinds:
        return "fully re-run"
    return "spot-checked" if kinds else "self-reported"


def _entry(row: sa.Row[Any]) -> AttestationEntry:
    return {
        "digest": row.digest,
        "by": row.name,
        "keyid": row.keyid,
        "verdict": row.verdict,
        "kind": row.kind,
        "documents": row.documents,
        "sample": row.sample,
        "agreed": row.agreed,
        "refuted": row.refuted,
        "independent": row.account_id != row.owner_id,
        "at": rfc3339(row.created_at),
    }
