"""Keys and signatures, advisories, webhooks, counts, search, audit."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from llmasos_registry.server.db import full_text
from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json, metadata

publisher_keys = sa.Table(
    "publisher_keys",
    metadata,
    sa.Column("account_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("keyid", sa.String(80), primary_key=True),
    sa.Column("pem", sa.Text, nullable=False),
    sa.Column("comment", sa.String(200), nullable=False, server_default=""),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("revoked_at", Moment),
)

#: DSSE envelopes over files of the package index, one a key and file, never replaced.
file_signatures = sa.Table(
    "file_signatures",
    metadata,
    sa.Column("file_id", Id, sa.ForeignKey("package_files.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("keyid", sa.String(80), primary_key=True),
    sa.Column("envelope", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

advisories = sa.Table(
    "advisories",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("document", Json, nullable=False),  # OSV schema
    sa.Column("modified_at", Moment, nullable=False),
    sa.Column("withdrawn_at", Moment),
)

advisory_packages = sa.Table(
    "advisory_packages",
    metadata,
    sa.Column(
        "advisory_id", sa.String(80), sa.ForeignKey("advisories.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("ecosystem", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True, index=True),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("account_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", Json, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    #: Whether it hears of every account's things: an administrator's hook.
    sa.Column("everything", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", Moment, nullable=False),
)

#: What happened, for webhooks. ``handled``: the deliveries of it are noted.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("event", sa.String(60), nullable=False),
    sa.Column("subject", sa.String(250), nullable=False),
    sa.Column("payload", Json, nullable=False),
    sa.Column("handled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_events_handled", "handled", "id"),
    sa.Index("ix_events_at", "at"),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("webhook_id", Id, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("event_id", Id, sa.ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("next_at", Moment),
    sa.Column("done_at", Moment),
    sa.Index("ix_webhook_deliveries_next", "next_at"),
)

#: Downloads a day.
downloads = sa.Table(
    "downloads",
    metadata,
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("subject", sa.String(200), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)

#: What search looks through, one row a project or repository. ``heads`` (name, summary, keywords) and ``body`` (the
#: description) are lists of words, already split and folded, so that both databases find the same.
documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),  # plugin | package | model | dataset
    sa.Column("name", sa.String(200), nullable=False),
    #: The name as it is compared: PEP 503, or ``owner/name`` in lower case.
    sa.Column("key", sa.String(200), nullable=False),
    sa.Column("owner_id", Id, nullable=False),
    sa.Column("owner", sa.String(96), nullable=False),
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("version", sa.String(120)),
    sa.Column("downloads", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("heads", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.UniqueConstraint("kind", "key"),
    sa.Index("ix_documents_key", "key"),
    sa.Index("ix_documents_updated", "updated_at", "id"),
    sa.Index("ix_documents_downloads", "downloads"),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("actor", sa.String(96), nullable=False),
    sa.Column("token_id", Id),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("action", sa.String(60), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("detail", Json, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)


@event.listens_for(documents, "after_create")
def _create_full_text(target: sa.Table, connection: sa.Connection, **_: Any) -> None:
    """Full-text indexes are no part of what SQLAlchemy knows of tables."""
    for statement in full_text.CREATE[connection.dialect.name]:
        connection.exec_driver_sql(statement)
