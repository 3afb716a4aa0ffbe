"""What the content store holds, and git objects: which bytes a name in a tree stands for."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json, metadata

#: Every blob of the store. A row that references a blob is written after the blob is on disk, with this row.
blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    #: Touched when it is referenced or uploaded again, so that a sweep leaves alone what someone is about to reference.
    sa.Column("touched_at", Moment, nullable=False),
    sa.Column("quarantined", sa.Text),  # why: scrub found other bytes
)

#: Git blob id (sha1 of "blob SIZE\0CONTENT") -> content. For an LFS file the id is that of its pointer file, and sha256
#: and size are those of the content.
git_blobs = sa.Table(
    "git_blobs",
    metadata,
    sa.Column("oid", sa.String(40), primary_key=True),
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("lfs", sa.Boolean, nullable=False),
)

#: Git trees, as git writes them: entries of mode, name, 20 bytes of id.
git_trees = sa.Table(
    "git_trees",
    metadata,
    sa.Column("oid", sa.String(40), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

#: Uploads that are under way in parts. The parts lie in the store's staging area under ``id``.
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("account_id", Id, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

#: Xet: where the chunks of a xorb lie after flattening. ``chunks`` lists [blob sha256, offset, length] a chunk.
xet_xorbs = sa.Table(
    "xet_xorbs",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("chunks", Json),
    #: The xorb as it was sent, until a shard has said what it is part of.
    sa.Column("staged_sha256", sa.String(64), sa.ForeignKey("blobs.sha256")),
    sa.Column("created_at", Moment, nullable=False),
)
