"""Reading everything again: whether blobs are what their names say, whether rows have bytes, whether git ids are true."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from llmasos_registry.server.accounts.audit import audit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.tables_store import blobs, git_blobs, git_trees
from llmasos_registry.server.store.blobs import BlobMissing
from llmasos_registry.server.store.git import blob_id, lfs_pointer, object_id

#: Rows read at a time.
BATCH = 500


@dataclass(slots=True)
class Scrubbed:
    """What was read, and what was wrong with it, as sentences."""

    blobs: int = 0
    bytes: int = 0
    git_objects: int = 0
    #: Digests of blobs with other bytes; they lie in quarantine now.
    corrupt: list[str] = field(default_factory=list)
    #: Digests of rows without bytes.
    missing: list[str] = field(default_factory=list)
    #: Git objects whose id is not theirs.
    untrue: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.corrupt or self.missing or self.untrue)


def scrub(registry: Registry, caller: Caller, advance: Callable[[int], None]) -> Scrubbed:
    """Re-hash every blob. A corrupt one goes to quarantine, out of service; the same bytes sent again replace it.

    ``advance`` is called with the bytes read. Safe while serving.
    """
    found = Scrubbed()
    for digest, size, _ in registry.store.walk():
        whole = hashlib.sha256()
        try:
            for piece in registry.store.pieces(digest):
                whole.update(piece)
                advance(len(piece))
        except BlobMissing:
            continue  # a sweep was faster
        found.blobs += 1
        found.bytes += size
        if whole.hexdigest() != digest:
            found.corrupt.append(digest)
            registry.store.quarantine(digest)
            with registry.db.write() as conn:
                reason = f"scrub read other bytes: sha256 {whole.hexdigest()}"
                conn.execute(blobs.update().where(blobs.c.sha256 == digest).values(quarantined=reason))
                audit(conn, caller, "registry.quarantine", digest, {"found": whole.hexdigest()})
    _find_missing(registry, found)
    _check_git(registry, found)
    return found


def _find_missing(registry: Registry, found: Scrubbed) -> None:
    last = ""
    while True:
        with registry.db.read() as conn:
            query = (
                sa.select(blobs.c.sha256).where(blobs.c.sha256 > last).order_by(blobs.c.sha256).limit(BATCH)
            )
            batch = list(conn.execute(query).scalars())
        if not batch:
            return
        last = batch[-1]
        gone = [
            digest for digest in batch if digest not in found.corrupt and not registry.store.exists(digest)
        ]
        with registry.db.read() as conn:
            # Asked again: a sweep takes the row before the bytes.
            query = sa.select(blobs.c.sha256).where(blobs.c.sha256.in_(gone))
            found.missing += sorted(conn.execute(query).scalars())


def _check_git(registry: Registry, found: Scrubbed) -> None:
    last = ""
    while True:
        with registry.db.read() as conn:
            query = sa.select(git_trees).where(git_trees.c.oid > last).order_by(git_trees.c.oid).limit(BATCH)
            trees = conn.execute(query).all()
        for tree in trees:
            found.git_objects += 1
            if object_id("tree", tree.data) != tree.oid:
                found.untrue.append(f"tree {tree.oid}")
        if len(trees) < BATCH:
            break
        last = trees[-1].oid
    last = ""
    while True:
        with registry.db.read() as conn:
            query = sa.select(git_blobs).where(git_blobs.c.oid > last).order_by(git_blobs.c.oid).limit(BATCH)
            files = conn.execute(query).all()
        for file in files:
            found.git_objects += 1
            if file.lfs:
                true = blob_id(lfs_pointer(file.sha256, file.size)) == file.oid
            else:
                try:
                    true = blob_id(b"".join(registry.store.pieces(file.sha256))) == file.oid
                except BlobMissing:
                    continue  # said above
            if not true:
                found.untrue.append(f"blob {file.oid}")
        if len(files) < BATCH:
            return
        last = files[-1].oid
