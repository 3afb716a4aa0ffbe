"""Access tokens: ``llma_`` and 43 characters of randomness, kept as sha256; a leaked database holds no token.

sha256 without salt or stretching is right for these: 256 random bits cannot be guessed, unlike passwords.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from datetime import datetime

import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import SCOPES, Caller
from llmasos_registry.server.db.tables_accounts import accounts, members, tokens
from llmasos_registry.server.failures import unauthorized

#: What scanners for leaked secrets look for.
PREFIX = "llma_"
#: A stronger scope holds the weaker ones.
IMPLIED = {
    "read": ("read",),
    "write": ("read", "write"),
    "publish": ("read", "write", "publish"),
    "admin": SCOPES,
}


def new_token() -> str:
    """A fresh token. It is shown once and never stored."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What the database keeps of a token: hex sha256."""
    return hashlib.sha256(token.encode()).hexdigest()


def sent_token(authorization: str | None) -> str | None:
    """The token in an Authorization header: bearer, or the password of HTTP basic. None without the header.

    Raises Failure 401 for a header that holds neither.
    """
    if not authorization:
        return None
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if scheme.lower() == "basic":
        try:
            text = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            raise unauthorized() from None
        user, _, password = text.partition(":")
        # Some clients put the token in the place of the name.
        return password or user
    raise unauthorized()


def find_caller(conn: sa.Connection, token: str, now: datetime, address: str) -> Caller:
    """The caller behind a token. Raises Failure 401 when it is unknown, expired, revoked, or its account is disabled."""
    row = conn.execute(
        sa.select(
            tokens.c.id,
            tokens.c.scopes,
            tokens.c.projects,
            tokens.c.expires_at,
            tokens.c.revoked_at,
            accounts.c.id.label("account"),
            accounts.c.name,
            accounts.c.admin,
            accounts.c.disabled,
        )
        .join(accounts, accounts.c.id == tokens.c.account_id)
        .where(tokens.c.hash == token_hash(token))
    ).one_or_none()
    if row is None or row.revoked_at is not None or row.disabled:
        raise unauthorized()
    if row.expires_at is not None and row.expires_at <= now:
        raise unauthorized()
    roles = conn.execute(
        sa.select(accounts.c.name_key, members.c.role)
        .join(accounts, accounts.c.id == members.c.org_id)
        .where(members.c.user_id == row.account)
    )
    scopes = frozenset(s for scope in row.scopes for s in IMPLIED.get(scope, ()))
    return Caller(
        account=row.account,
        name=row.name,
        admin=bool(row.admin),
        scopes=scopes if row.admin else scopes - {"admin"},
        projects=None if row.projects is None else tuple(row.projects),
        roles={row.name_key: row.role for row in roles},
        token=row.id,
        address=address,
    )
