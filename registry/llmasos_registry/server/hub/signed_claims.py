"""Signed claims: what an address or a token of an upload allows, to whom, until when. Nothing of it is kept.

A claim is JSON in base64url, a dot, and its HMAC-SHA256. The purpose is part of what is signed, so an address for
one thing never serves for another. Whoever uses a claim is looked up again: a token that was revoked, a role that was
taken away and a repository that was deleted end it at once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.tokens import caller_of_token
from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.failures import Failure, forbidden, unauthorized
from llmasos_registry.server.hub.repository import Repo, check_write, repo_by_id

#: Where it stands in an address: in the query, which no log of this registry keeps.
PARAMETER = "claim"
#: A claim is a few hundred characters; more is not ours.
MAX_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Claim:
    """A checked claim: the repository that it writes to, who was given it, and its particulars."""

    repo: Repo
    caller: Caller
    values: Mapping[str, Any]


def sign(secret: bytes, purpose: str, repo: int, token: int, lifetime: int, **values: str | int) -> str:
    """A claim for ``purpose`` that works for ``lifetime`` seconds. ``repo`` and ``token`` are row ids."""
    claims = {"p": purpose, "r": repo, "t": token, "e": int(time.time()) + lifetime, **values}
    body = _encode(json.dumps(claims, separators=(",", ":"), sort_keys=True).encode())
    return f"{body}.{_mac(secret, body)}"


def sent(request: Request) -> str:
    """The claim in a request's address; empty without one."""
    return request.query_params.get(PARAMETER, "")


def read(secret: bytes, purpose: str, text: str) -> dict[str, Any]:
    """The values of a claim. Raises Failure 403 when it was not signed here, for something else, or has expired."""
    body, _, mac = text.partition(".")
    if len(text) > MAX_LENGTH or not text.isascii() or not hmac.compare_digest(_mac(secret, body), mac):
        raise forbidden("This address was not made by this registry, or was changed")
    try:
        values: dict[str, Any] = json.loads(_decode(body))
    except (ValueError, binascii.Error):
        raise forbidden("This address was not made by this registry, or was changed") from None
    if values["p"] != purpose:
        raise forbidden("This address is for something else")
    if values["e"] < time.time():
        raise forbidden("This address has expired", hint="start the upload again")
    return values


def check(registry: Registry, conn: sa.Connection, purpose: str, text: str, address: str) -> Claim:
    """A claim whose holder may still write to its repository. Raises Failure 401, 403, 404."""
    values = read(registry.secret, purpose, text)
    caller = caller_of_token(conn, values["t"], utcnow(), address)
    try:
        repo = repo_by_id(conn, values["r"])
    except LookupError:
        raise Failure(404, "The repository was deleted", code="RepoNotFound") from None
    if repo.disabled is not None:
        raise forbidden("Access to this resource is disabled.")
    check_write(repo, caller)
    return Claim(repo, caller, values)


def new_id() -> str:
    """A name for an upload that nobody guesses."""
    return secrets.token_hex(20)


def token_of(caller: Caller) -> int:
    """The row id of the token that a caller came with. Raises Failure 401 without one."""
    if caller.token is None:
        raise unauthorized("This needs a token")
    return caller.token


def _mac(secret: bytes, body: str) -> str:
    return _encode(hmac.new(secret, b"llmasos upload\0" + body.encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
