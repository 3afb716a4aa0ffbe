"""Repositories of models and datasets: commits, refs, releases, access, discussions, results."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json, metadata

repos = sa.Table(
    "repos",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),  # model | dataset
    sa.Column("owner_id", Id, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("owner", sa.String(96), nullable=False),
    sa.Column("name", sa.String(96), nullable=False),
    #: ``owner/name`` in lower case.
    sa.Column("key", sa.String(200), nullable=False),
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("gated", sa.String(8), nullable=False, server_default=""),  # "" | auto | manual
    sa.Column("disabled", sa.Text),  # why; quarantine
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.Column("downloads", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("likes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("serial", sa.BigInteger, nullable=False, server_default="0"),
    #: Front matter of README.md at the head of main, and what listings filter by.
    sa.Column("card", Json),
    sa.Column("tags", Json),
    sa.Column("summary", sa.Text, nullable=False, server_default=""),
    #: llmasos.toml at the head of main.
    sa.Column("manifest", Json),
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("kind", "key"),
    sa.Index("ix_repos_kind_updated", "kind", "updated_at"),
    sa.Index("ix_repos_kind_downloads", "kind", "downloads"),
)

#: The tags of a repository's card, one a row, for listings that filter by them.
repo_tags = sa.Table(
    "repo_tags",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag", sa.String(200), primary_key=True, index=True),
)

#: Names that a repository had before it was moved. They lead on, and nobody else can take them; deleted names stay too
#: (``repo_id`` NULL), so that a name never comes back with somebody else's content.
repo_names = sa.Table(
    "repo_names",
    metadata,
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="SET NULL"), index=True),
    sa.Column("owner_id", Id, nullable=False),
)

commits = sa.Table(
    "commits",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("oid", sa.String(40), primary_key=True),
    sa.Column("tree", sa.String(40), nullable=False),
    sa.Column("parent", sa.String(40)),
    sa.Column("author", sa.String(96), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    #: Distance from the first commit, to page through a history.
    sa.Column("depth", sa.BigInteger, nullable=False),
)

refs = sa.Table(
    "refs",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),  # branch | tag
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("commit", sa.String(40), nullable=False),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", Moment, nullable=False),
)

#: Sealed versions: each is also a tag of that name, which cannot be moved or deleted.
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("commit", sa.String(40), nullable=False),
    sa.Column("requires", Json, nullable=False),
    sa.Column("signed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.Column("author", sa.String(96), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("yanked_at", Moment),
    sa.Column("yanked_reason", sa.Text),
)

access_requests = sa.Table(
    "access_requests",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("status", sa.String(10), nullable=False),  # pending | accepted | rejected
    sa.Column("fields", Json),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("handled_at", Moment),
)

discussions = sa.Table(
    "discussions",
    metadata,
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("num", sa.Integer, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("author", sa.String(96), nullable=False),
    sa.Column("status", sa.String(10), nullable=False),  # open | closed
    sa.Column("created_at", Moment, nullable=False),
)

discussion_events = sa.Table(
    "discussion_events",
    metadata,
    sa.Column("id", sa.String(24), primary_key=True),
    sa.Column("repo_id", Id, nullable=False),
    sa.Column("num", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),  # comment | status-change | title-change
    sa.Column("author", sa.String(96), nullable=False),
    sa.Column("data", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.ForeignKeyConstraint(
        ["repo_id", "num"], ["discussions.repo_id", "discussions.num"], ondelete="CASCADE"
    ),
    sa.Index("ix_discussion_events_thread", "repo_id", "num", "created_at"),
)

#: Rows of ``.eval_results/*.yaml`` at the head of a model's main branch, for the leaderboards of datasets.
eval_results = sa.Table(
    "eval_results",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("repo_id", Id, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("dataset", sa.String(200), nullable=False, index=True),
    sa.Column("task", sa.String(200), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("details", Json, nullable=False),
)
