"""Keys of publishers: registered with proof of possession, revoked, never forgotten."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.api.access import account_to_change, find_account
from llmasos_registry.server.api.answers import PublisherKey, PublisherKeys
from llmasos_registry.server.api.moments import rfc3339, rfc3339_or_none
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_api import publisher_keys
from llmasos_registry.server.failures import bad_request, conflict, not_found
from llmasos_registry.server.responses import json_response
from llmasos_registry.signatures.errors import KeyRefused, SignatureRefused
from llmasos_registry.signatures.keys import PublicKey, check_proof, keyid, load_public, public_pem

#: Keys of one account. Every signature is tried against all that are not revoked.
MAX_KEYS = 50


class KeyBody(Body):
    """A public key, and the proof that the sender has its private half."""

    pem: Text = Field(max_length=16 << 10, description="SubjectPublicKeyInfo, ECDSA on P-256")
    comment: Text = Field(default="", max_length=200)
    proof: Text = Field(
        max_length=1000,
        description="base64 of an ECDSA signature over `llmasos publisher key\\n{account}\\n{keyid}\\n`",
    )


def list_keys(request: Request) -> Response:
    """All keys that an account registered, revoked ones too, oldest first."""
    with request.registry.db.read() as conn:
        account = find_account(conn, request.params["account"])
        rows = _rows(conn, account.id)
    answer: PublisherKeys = {"account": account.name, "keys": [_key(row) for row in rows]}
    return json_response(answer)


def register_key(request: Request) -> Response:
    """Register a key for an account. The same key again changes nothing; a revoked key stays revoked."""
    body = read_body(request, KeyBody)
    with request.registry.db.read() as conn:
        account = account_to_change(conn, request.caller, request.params["account"])
    try:
        key = check_proof(body.pem, account.name, body.proof)
    except (KeyRefused, SignatureRefused) as error:
        raise bad_request(error.message, hint=error.hint) from error
    name = keyid(key)
    with request.registry.db.write() as conn:
        account = account_to_change(conn, request.caller, request.params["account"])
        rows = {row.keyid: row for row in _rows(conn, account.id)}
        known = rows.get(name)
        if known is not None and known.revoked_at is not None:
            raise conflict(
                f"The key {name} was revoked", hint="a new key is needed: `llmasos registry key new`"
            )
        if known is None:
            if len(rows) >= MAX_KEYS:
                raise conflict(f"`{account.name}` has {MAX_KEYS} keys already")
            conn.execute(
                publisher_keys.insert().values(
                    account_id=account.id,
                    keyid=name,
                    # As we write it, not as it was sent: nothing else is in the text.
                    pem=public_pem(key),
                    comment=body.comment,
                    created_at=utcnow(),
                )
            )
            audit(conn, request.caller, "key.register", account.name, {"keyid": name})
            emit(conn, "key.register", account.name, {"account": account.name, "keyid": name})
            next_serial(conn)
        row = next(row for row in _rows(conn, account.id) if row.keyid == name)
    return json_response(_key(row), 200 if known is not None else 201)


def revoke_key(request: Request) -> Response:
    """Revoke a key: it signs nothing new. The row stays, so that clients learn of it."""
    name = request.params["keyid"]
    with request.registry.db.write() as conn:
        account = account_to_change(conn, request.caller, request.params["account"])
        row = next((row for row in _rows(conn, account.id) if row.keyid == name), None)
        if row is None:
            raise not_found(f"`{account.name}` has no key `{name[:80]}`")
        if row.revoked_at is None:
            conn.execute(
                publisher_keys.update()
                .where(publisher_keys.c.account_id == account.id, publisher_keys.c.keyid == name)
                .values(revoked_at=utcnow())
            )
            audit(conn, request.caller, "key.revoke", account.name, {"keyid": name})
            emit(conn, "key.revoke", account.name, {"account": account.name, "keyid": name})
            next_serial(conn)
        row = next(row for row in _rows(conn, account.id) if row.keyid == name)
    return json_response(_key(row))


def active_keys(conn: sa.Connection, account: int) -> list[PublicKey]:
    """The keys of an account that may sign something new."""
    return [load_public(row.pem) for row in _rows(conn, account) if row.revoked_at is None]


def _rows(conn: sa.Connection, account: int) -> list[sa.Row[Any]]:
    return list(
        conn.execute(
            sa.select(publisher_keys)
            .where(publisher_keys.c.account_id == account)
            .order_by(publisher_keys.c.created_at, publisher_keys.c.keyid)
        )
    )


def _key(row: sa.Row[Any]) -> PublisherKey:
    return {
        "keyid": row.keyid,
        "pem": row.pem,
        "comment": row.comment,
        "created_at": rfc3339(row.created_at),
        "revoked_at": rfc3339_or_none(row.revoked_at),
    }


OPERATIONS = (
    Operation("GET", "/v1/publishers/{account}/keys", list_keys, "public", {200: PublisherKeys}),
    Operation(
        "POST",
        "/v1/publishers/{account}/keys",
        register_key,
        "publish",
        {200: PublisherKey, 201: PublisherKey},
        body=KeyBody,
    ),
    Operation("DELETE", "/v1/publishers/{account}/keys/{keyid}", revoke_key, "publish", {200: PublisherKey}),
)
