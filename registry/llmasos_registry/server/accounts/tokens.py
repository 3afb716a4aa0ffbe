"""Access tokens: ``llma_`` and 43 characters of randomness, kept as sha256; a leaked database holds no token.

sha256 without salt or stretching is right for these: 256 random bits cannot be guessed, unlike passwords.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from llmasos_registry.server.accounts.audit import audit
from llmasos_registry.server.accounts.caller import SCOPES, Caller
from llmasos_registry.server.accounts.people import Account
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts, members, tokens
from llmasos_registry.server.failures import bad_request, forbidden, not_found, unauthorized

#: What scanners for leaked secrets look for.
PREFIX = "llma_"
#: A project, a repository or a pattern of them; a list in one text, say, would be a token for nothing.
_PROJECT = re.compile(r"[\w.*?\[\]!-]+(?:/[\w.*?\[\]!-]+)?", re.ASCII)
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
        except ValueError:  # no base64, or no UTF-8 in it
            raise unauthorized() from None
        user, _, password = text.partition(":")
        # Some clients put the token in the place of the name.
        return password or user
    raise unauthorized()


def find_caller(conn: sa.Connection, token: str, now: datetime, address: str) -> Caller:
    """The caller behind a token. Raises Failure 401 when it is unknown, expired, revoked, or its account is disabled."""
    return _caller_where(conn, tokens.c.hash == token_hash(token), now, address)


def caller_of_token(conn: sa.Connection, token_id: int, now: datetime, address: str) -> Caller:
    """The caller behind a token's row, for addresses that were signed for him. Raises Failure 401 like ``find_caller``."""
    return _caller_where(conn, tokens.c.id == token_id, now, address)


def _caller_where(conn: sa.Connection, which: sa.ColumnElement[bool], now: datetime, address: str) -> Caller:
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
        .where(which)
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


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What may be known of a token after it was made; the token itself is not kept."""

    id: int
    name: str
    scopes: tuple[str, ...]
    #: Names or patterns of the projects it is restricted to; None: no restriction.
    projects: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


_COLUMNS = tuple(tokens.c[name] for name in TokenFacts.__dataclass_fields__)


def _facts(row: sa.Row[Any]) -> TokenFacts:
    values = dict(row._mapping)
    values["scopes"] = tuple(values["scopes"])
    values["projects"] = None if values["projects"] is None else tuple(values["projects"])
    return TokenFacts(**values)


def issue_token(
    conn: sa.Connection,
    caller: Caller,
    account: Account,
    name: str,
    scopes: Sequence[str],
    *,
    projects: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, TokenFacts]:
    """A new token of a user: (token, facts). Raises Failure 400 for what makes no sense, 403 for `admin` without being one."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise bad_request(f"scopes are {', '.join(SCOPES)}, at least one; got {', '.join(unknown) or 'none'}")
    if account.kind != "user":
        raise bad_request(f"`{account.name}` is an organisation; tokens belong to users")
    if "admin" in scopes and not account.admin:
        raise forbidden(f"`{account.name}` is no administrator")
    if projects is not None and (
        not projects or any(len(p) > 200 or not _PROJECT.fullmatch(p) for p in projects)
    ):
        raise bad_request("projects is a list of names or patterns such as `acme/*`, at least one")
    if not 0 < len(name) <= 120 or not name.isprintable():
        raise bad_request("a token needs a name of at most 120 characters")
    now = utcnow()
    if expires_at is not None and expires_at <= now:
        raise bad_request("the token would have expired already")
    token = new_token()
    # Only the strongest matters, but the list is kept as asked for: what is shown is what was granted.
    inserted = conn.execute(
        tokens.insert()
        .values(
            account_id=account.id,
            name=name,
            hash=token_hash(token),
            scopes=sorted(set(scopes), key=SCOPES.index),
            projects=None if projects is None else list(projects),
            created_at=now,
            expires_at=expires_at,
        )
        .returning(tokens.c.id)
    ).scalar_one()
    audit(
        conn,
        caller,
        "token.create",
        account.name,
        {"token": inserted, "name": name, "scopes": list(scopes), "projects": projects and list(projects)},
    )
    row = conn.execute(sa.select(*_COLUMNS).where(tokens.c.id == inserted)).one()
    return token, _facts(row)


def list_tokens(conn: sa.Connection, account: int) -> list[TokenFacts]:
    """The tokens of an account, newest first; revoked ones too."""
    rows = conn.execute(
        sa.select(*_COLUMNS).where(tokens.c.account_id == account).order_by(tokens.c.id.desc())
    )
    return [_facts(row) for row in rows]


def revoke_token(conn: sa.Connection, caller: Caller, token: int, account: int | None = None) -> None:
    """End a token now. With ``account`` only that account's. Raises Failure 404."""
    where = tokens.c.id == token
    if account is not None:
        where &= tokens.c.account_id == account
    row = conn.execute(
        sa.select(accounts.c.name, tokens.c.revoked_at)
        .join(accounts, accounts.c.id == tokens.c.account_id)
        .where(where)
    ).one_or_none()
    if row is None:
        raise not_found(f"There is no token {token}")
    if row.revoked_at is None:
        conn.execute(tokens.update().where(where).values(revoked_at=utcnow()))
        audit(conn, caller, "token.revoke", row.name, {"token": token})
