"""How many bytes an account keeps, and whether more fit."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.db.tables_results import eval_records, eval_samples
from llmasos_registry.server.db.tables_store import blobs, repo_blobs
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.settings import Settings


def used_bytes(conn: sa.Connection, owner: int) -> int:
    """Bytes that count: files of repositories as committed, files that were sent and wait for a commit, package files,
    results of evaluations.

    A file that two repositories hold counts twice: what one account pays must not depend on what others keep.
    """
    committed = sa.select(sa.func.coalesce(sa.func.sum(repos.c.bytes), 0)).where(repos.c.owner_id == owner)
    waiting = (
        sa.select(sa.func.coalesce(sa.func.sum(blobs.c.size), 0))
        .join(repo_blobs, repo_blobs.c.sha256 == blobs.c.sha256)
        .join(repos, repos.c.id == repo_blobs.c.repo_id)
        .where(repos.c.owner_id == owner, sa.not_(repo_blobs.c.committed))
    )
    packages = sa.select(sa.func.coalesce(sa.func.sum(projects.c.bytes), 0)).where(
        projects.c.owner_id == owner
    )
    own = eval_records.c.owner_id == owner
    results = sa.select(sa.func.coalesce(sa.func.sum(eval_records.c.bytes), 0)).where(own)
    samples = (
        sa.select(sa.func.coalesce(sa.func.sum(eval_samples.c.bytes), 0))
        .join(eval_records, eval_records.c.digest == eval_samples.c.record)
        .where(own)
    )
    parts = (committed, waiting, packages, results, samples)
    return sum(int(conn.execute(part).scalar_one()) for part in parts)


def allowed_bytes(conn: sa.Connection, settings: Settings, owner: int) -> int:
    """The account's own quota, else the registry's."""
    own = conn.execute(sa.select(accounts.c.quota).where(accounts.c.id == owner)).scalar_one_or_none()
    return settings.quota if own is None else int(own)


def room_left(conn: sa.Connection, settings: Settings, owner: int) -> int:
    """Bytes until the account's quota, negative beyond it. ``owner``: the row id of the account whose projects they are."""
    return allowed_bytes(conn, settings, owner) - used_bytes(conn, owner)


def check_quota(conn: sa.Connection, settings: Settings, owner: int, adding: int) -> None:
    """Whether ``adding`` bytes more fit. Ask before taking bytes, and again in the transaction that keeps them.

    Raises Failure 413 with the numbers.
    """
    left = room_left(conn, settings, owner)
    if adding > max(left, 0):
        name = conn.execute(sa.select(accounts.c.name).where(accounts.c.id == owner)).scalar_one()
        raise over_quota(name, adding, left)


def over_quota(owner: str, needed: int, left: int) -> Failure:
    """413 that says how much is missing."""
    return Failure(
        413,
        f"{owner} has {max(left, 0)} bytes left of its quota; this needs {needed}",
        hint="delete what is not needed, or ask the operator for a larger quota (`llmasos registry user|org`)",
    )
