"""Which blobs a repository may reference.

The store keeps equal bytes once, for everybody. If naming a digest were enough to have a file in one's own repository,
whoever learns the digest of a private file could read it. So a repository may reference a blob only when the bytes were
sent to it, when it has them already, or when the caller can read them in another repository now. Whoever has none of
these sends the bytes, and learns nothing: the answer is the same as for bytes that nobody has.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.db.tables_store import blobs, repo_blobs
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.hub.history import insert_ignoring
from llmasos_registry.server.hub.objects import BATCH
from llmasos_registry.server.hub.repository import Moved, Repo, find_repo

#: In how many other repositories a blob is looked for. Beyond that the client sends it.
_LOOKED_AT = 50


def grant(conn: sa.Connection, repo: int, digests: Iterable[str], *, committed: bool = False) -> None:
    """Note that a repository may reference these blobs; ``committed``: that it does. They must have their rows."""
    wanted = sorted(set(digests))
    now = utcnow()
    insert_ignoring(
        conn,
        repo_blobs,
        [{"repo_id": repo, "sha256": digest, "committed": committed, "created_at": now} for digest in wanted],
    )
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        if committed:
            conn.execute(
                repo_blobs.update()
                .where(repo_blobs.c.repo_id == repo, repo_blobs.c.sha256.in_(batch))
                .values(committed=True)
            )
        else:
            # Whoever is told that these need not be sent is about to commit them: a collection must leave them alone.
            conn.execute(blobs.update().where(blobs.c.sha256.in_(batch)).values(touched_at=now))


def held(
    conn: sa.Connection, repo: Repo, digests: Iterable[str], *, committed: bool = False
) -> dict[str, int]:
    """Those of the blobs that the repository may reference, with their sizes. ``committed``: only what it does."""
    wanted = sorted(set(digests))
    found: dict[str, int] = {}
    for start in range(0, len(wanted), BATCH):
        query = (
            sa.select(blobs.c.sha256, blobs.c.size)
            .join(repo_blobs, repo_blobs.c.sha256 == blobs.c.sha256)
            .where(
                repo_blobs.c.repo_id == repo.id,
                blobs.c.sha256.in_(wanted[start : start + BATCH]),
                blobs.c.quarantined.is_(None),
            )
        )
        if committed:
            query = query.where(repo_blobs.c.committed)
        found |= {row.sha256: row.size for row in conn.execute(query)}
    return found


def usable(conn: sa.Connection, caller: Caller, repo: Repo, digests: Iterable[str]) -> dict[str, int]:
    """Those of the blobs that the caller may put into the repository without sending them, with their sizes."""
    wanted = set(digests)
    found = held(conn, repo, wanted)
    for digest in sorted(wanted - found.keys()):
        size = _readable_size(conn, caller, digest)
        if size is not None:
            found[digest] = size
    return found


def _readable_size(conn: sa.Connection, caller: Caller, digest: str) -> int | None:
    """The size of a blob when a repository that the caller may take files from has it in a commit."""
    rows = conn.execute(
        sa.select(repos.c.kind, repos.c.key, blobs.c.size)
        .join(repo_blobs, repo_blobs.c.repo_id == repos.c.id)
        .join(blobs, blobs.c.sha256 == repo_blobs.c.sha256)
        .where(repo_blobs.c.sha256 == digest, repo_blobs.c.committed, blobs.c.quarantined.is_(None))
        # Public ones first: they need no further look.
        .order_by(repos.c.private, repos.c.id)
        .limit(_LOOKED_AT)
    ).all()
    for row in rows:
        try:
            find_repo(conn, row.kind, row.key, caller, "content")
        except (Failure, Moved):
            continue
        return int(row.size)
    return None
