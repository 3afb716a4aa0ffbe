"""Removing what nothing refers to: mark from refs and tables, sweep git rows, blob rows, then bytes. Safe while serving.

Marking and the search for what is not marked read one snapshot, however long it takes. Then one write transaction marks
what was added meanwhile and deletes the rows of the rest. What is younger than the grace period stays: someone may be
about to refer to it. Bytes go last, each only if it was not written again (``BlobStore.discard``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import TypeVar

import sqlalchemy as sa

from llmasos_registry.server.accounts.audit import audit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.tables_hub import commits, refs, releases
from llmasos_registry.server.db.tables_store import blobs, git_blobs, git_trees, uploads
from llmasos_registry.server.hub.xet_index import STAGING, drop_idle, remove_staged, sweep_staging
from llmasos_registry.server.store.git import tree_entries
from llmasos_registry.server.store.roots import REFERENCES

#: Ids a statement names.
BATCH = 500
#: Called with how many objects were looked at.
Advance = Callable[[int], None]
T = TypeVar("T")


@dataclass(slots=True)
class Collected:
    """What a run removed, or with ``dry_run`` would have removed."""

    commits: int = 0
    git_trees: int = 0
    git_blobs: int = 0
    blobs: int = 0
    bytes: int = 0
    temporary: int = 0
    #: Blobs that stay.
    kept: int = 0


@dataclass(slots=True)
class _Objects:
    """Git objects: commits as (repository, id), the others by id; ids as 20 bytes, for there may be millions."""

    commits: set[tuple[int, bytes]] = field(default_factory=set)
    trees: set[bytes] = field(default_factory=set)
    blobs: set[bytes] = field(default_factory=set)


def collect(
    registry: Registry,
    caller: Caller,
    *,
    now: datetime,
    dry_run: bool = False,
    advance: Advance | None = None,
) -> Collected:
    """One collection."""
    before = now - timedelta(seconds=registry.settings.gc_grace)
    step = advance or (lambda count: None)
    marked = _Objects()
    with registry.db.read() as conn:
        _mark(conn, marked, before, step)
        dead = _unmarked(conn, marked)
    if dry_run:
        with registry.db.read() as conn:
            lost = _unused_blobs(conn, before, dead)
            return _counted(conn, dead, lost)
    with registry.db.write() as conn:
        if conn.dialect.name == "postgresql":
            # Nobody may refer to an object between this mark and the end of the sweep. SQLite has one writer anyway.
            conn.execute(
                sa.text(
                    "LOCK TABLE refs, releases, commits, git_trees, git_blobs IN SHARE ROW EXCLUSIVE MODE"
                )
            )
        _mark(conn, marked, before, step)
        dead = _Objects(dead.commits - marked.commits, dead.trees - marked.trees, dead.blobs - marked.blobs)
        staged = drop_idle(conn, before)
        conn.execute(uploads.delete().where(uploads.c.created_at < before))
        _delete_git(conn, dead)
        lost = _unused_blobs(conn, before, _Objects())
        found = _counted(conn, dead, lost)
        for batch in _batches([digest for digest, _ in lost]):
            conn.execute(blobs.delete().where(blobs.c.sha256.in_(batch)))
        alive = set(conn.execute(sa.select(uploads.c.id)).scalars())
        audit(conn, caller, "registry.gc", "", asdict(found))
    remove_staged(registry.store, staged)
    for digest, _ in lost:
        registry.store.discard(digest, before)
        step(1)
    _sweep_strays(registry, before, found, step)
    found.temporary = registry.store.sweep_temporary(before, lambda name: name == STAGING or name in alive)
    with registry.db.read() as conn:
        found.temporary += sweep_staging(conn, registry.store, before)
    return found


def _mark(conn: sa.Connection, marked: _Objects, before: datetime, step: Advance) -> None:
    """Mark what refs, releases and young commits reach. What was marked before is not looked at again."""
    roots: dict[int, set[bytes]] = {}
    for query in (
        sa.select(refs.c.repo_id, refs.c.commit),
        sa.select(releases.c.repo_id, releases.c.commit),
        sa.select(commits.c.repo_id, commits.c.oid).where(commits.c.created_at >= before),
    ):
        for repo, oid in conn.execute(query):
            if (repo, bytes.fromhex(oid)) not in marked.commits:
                roots.setdefault(repo, set()).add(bytes.fromhex(oid))
    trees: list[bytes] = []
    for batch in _batches(sorted(roots)):
        query = (
            sa.select(commits.c.repo_id, commits.c.oid, commits.c.tree, commits.c.parent)
            .where(commits.c.repo_id.in_(batch))
            .order_by(commits.c.repo_id)
        )
        for repo, rows in groupby(conn.execute(query), key=lambda row: row.repo_id):
            history = {bytes.fromhex(row.oid): (row.tree, row.parent) for row in rows}
            wanted = list(roots[repo])
            while wanted:
                oid = wanted.pop()
                if oid in history and (repo, oid) not in marked.commits:
                    marked.commits.add((repo, oid))
                    tree, parent = history[oid]
                    trees.append(bytes.fromhex(tree))
                    if parent is not None:
                        wanted.append(bytes.fromhex(parent))
            step(len(history))
    _mark_trees(conn, trees, marked, step)


def _mark_trees(conn: sa.Connection, trees: Iterable[bytes], marked: _Objects, step: Advance) -> None:
    level = {oid for oid in trees if oid not in marked.trees}
    while level:
        marked.trees |= level
        below: set[bytes] = set()
        for batch in _batches([oid.hex() for oid in level]):
            for data in conn.execute(sa.select(git_trees.c.data).where(git_trees.c.oid.in_(batch))).scalars():
                for entry in tree_entries(data):
                    (below if entry.is_tree else marked.blobs).add(bytes.fromhex(entry.oid))
            step(len(batch))
        level = below - marked.trees


def _unmarked(conn: sa.Connection, marked: _Objects) -> _Objects:
    """What is in the tables and was not marked."""
    return _Objects(
        {
            key
            for row in conn.execute(sa.select(commits.c.repo_id, commits.c.oid))
            if (key := (row.repo_id, bytes.fromhex(row.oid))) not in marked.commits
        },
        _ids(conn, git_trees.c.oid) - marked.trees,
        _ids(conn, git_blobs.c.oid) - marked.blobs,
    )


def _ids(conn: sa.Connection, column: sa.Column[str]) -> set[bytes]:
    return {bytes.fromhex(oid) for oid in conn.execute(sa.select(column)).scalars()}


def _delete_git(conn: sa.Connection, dead: _Objects) -> None:
    for repo, group in groupby(sorted(dead.commits), key=lambda key: key[0]):
        for batch in _batches([oid.hex() for _, oid in group]):
            conn.execute(commits.delete().where(commits.c.repo_id == repo, commits.c.oid.in_(batch)))
    for table, oids in ((git_trees, dead.trees), (git_blobs, dead.blobs)):
        for batch in _batches([oid.hex() for oid in oids]):
            conn.execute(table.delete().where(table.c.oid.in_(batch)))


def _unused_blobs(conn: sa.Connection, before: datetime, dead: _Objects) -> list[tuple[str, int]]:
    """(digest, size) of old blobs that no column names, or only git blobs that are about to be deleted."""
    query = sa.select(blobs.c.sha256, blobs.c.size).where(
        blobs.c.touched_at < before,
        *(sa.not_(sa.select(column).where(column == blobs.c.sha256).exists()) for column in REFERENCES),
    )
    by_git = sa.select(git_blobs.c.sha256).where(git_blobs.c.sha256 == blobs.c.sha256)
    if not dead.blobs:
        query = query.where(sa.not_(by_git.exists()))
        return [(row.sha256, row.size) for row in conn.execute(query)]
    kept = {
        row.sha256
        for row in conn.execute(sa.select(git_blobs.c.oid, git_blobs.c.sha256))
        if bytes.fromhex(row.oid) not in dead.blobs
    }
    return [(row.sha256, row.size) for row in conn.execute(query) if row.sha256 not in kept]


def _counted(conn: sa.Connection, dead: _Objects, lost: Sequence[tuple[str, int]]) -> Collected:
    there = conn.execute(sa.select(sa.func.count()).select_from(blobs)).scalar_one()
    return Collected(
        commits=len(dead.commits),
        git_trees=len(dead.trees),
        git_blobs=len(dead.blobs),
        blobs=len(lost),
        bytes=sum(size for _, size in lost),
        kept=there - len(lost),
    )


def _sweep_strays(registry: Registry, before: datetime, found: Collected, step: Advance) -> None:
    """Remove old bytes that have no row: their sender was cut off between the bytes and the reference."""
    old = ((digest, size) for digest, size, written in registry.store.walk() if written < before)
    for batch in _batched(old):
        with registry.db.read() as conn:
            query = sa.select(blobs.c.sha256).where(blobs.c.sha256.in_([digest for digest, _ in batch]))
            known = set(conn.execute(query).scalars())
        for digest, size in batch:
            if digest not in known and registry.store.discard(digest, before):
                found.blobs += 1
                found.bytes += size
        step(len(batch))


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _batched(items: Iterable[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
