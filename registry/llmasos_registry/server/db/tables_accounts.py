"""Accounts: users and organisations, who belongs to which, tokens, and what is kept once for the whole registry."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json, metadata

#: Users and organisations share one namespace. ``name_key`` is the name in lower case: names differ by more than case.
accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.String(96), nullable=False),
    sa.Column("name_key", sa.String(96), nullable=False, unique=True),
    sa.Column("kind", sa.String(8), nullable=False),  # user | org
    sa.Column("fullname", sa.String(200), nullable=False, server_default=""),
    sa.Column("admin", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("quota", sa.BigInteger),  # bytes; NULL: the registry's setting
    sa.Column("created_at", Moment, nullable=False),
)

members = sa.Table(
    "members",
    metadata,
    sa.Column("org_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),  # reader | maintainer | owner
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("account_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.String(120), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("projects", Json, nullable=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("last_used_at", Moment),
    sa.Column("revoked_at", Moment),
)

#: Facts kept once: the secret of signed addresses, the serial of the registry.
facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
