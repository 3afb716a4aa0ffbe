"""What the content store holds, and git objects: which bytes a name in a tree stands for."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, metadata

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

#: What a repository may reference: bytes that were sent to it, or that its sender could read elsewhere. Knowing a
#: digest is not enough to put somebody else's file into one's own repository. ``committed``: some commit of the
#: repository has it, so whoever reads the repository reads it. These rows keep no blob alive: they go with it.
repo_blobs = sa.Table(
    "repo_blobs",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column(
        "sha256",
        sa.String(64),
        sa.ForeignKey("blobs.sha256", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
    sa.Column("committed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", Moment, nullable=False),
)

#: Uploads that are under way in parts. The parts lie in the store's staging area under ``id``.
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("account_id", Id, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

#: Xet: the name under which an account's clients remember what they sent, and when they last did. A new ``epoch`` makes
#: them forget: it is part of the address by which they file their caches.
xet_accounts = sa.Table(
    "xet_accounts",
    metadata,
    sa.Column(
        "account_id",
        Id,
        sa.ForeignKey("accounts.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("active_at", Moment, nullable=False),
)

#: Xet: the containers of chunks that an account sent. Only that account may build files from them.
xet_xorbs = sa.Table(
    "xet_xorbs",
    metadata,
    sa.Column(
        "account_id",
        Id,
        sa.ForeignKey("accounts.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("hash", sa.String(64), primary_key=True),
    #: The length of each chunk, four bytes each, little-endian.
    sa.Column("lengths", sa.LargeBinary, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    #: Its bytes lie in the staging area, until blobs hold every chunk.
    sa.Column("staged", sa.Boolean, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    #: When a client last sent or named it: clients forget what they sent three weeks ago.
    sa.Column("touched_at", Moment, nullable=False, index=True),
)

#: Xet: where chunks of a xorb lie in blobs: those from ``first`` to ``stop`` (exclusive), one after the other, begin at
#: ``offset``.
xet_places = sa.Table(
    "xet_places",
    metadata,
    sa.Column("account_id", Id, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("first", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("stop", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False, index=True),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["account_id", "hash"], ["xet_xorbs.account_id", "xet_xorbs.hash"], ondelete="CASCADE"
    ),
)
