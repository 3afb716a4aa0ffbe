"""Webhooks of an account: registered, listed, tried, deleted."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit
from llmasos_registry.server.api.access import account_to_change
from llmasos_registry.server.api.answers import Deliveries, TestDelivery, Webhook, Webhooks
from llmasos_registry.server.api.moments import rfc3339, rfc3339_or_none
from llmasos_registry.server.api.operation import Body, Operation, Query, Text, read_body, read_query
from llmasos_registry.server.api.webhook_delivery import attempt, new_secret, signed_message
from llmasos_registry.server.api.webhook_target import LONGEST, read_target
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_api import events, webhook_deliveries, webhooks
from llmasos_registry.server.failures import Failure, conflict, forbidden, not_found
from llmasos_registry.server.responses import json_response

#: Hooks of one account.
MAX_HOOKS = 20
#: Deliveries that are shown of a hook.
SHOWN = 50

EventName = Annotated[Text, Field(pattern=r"^(?:\*|(?:[a-z-]+\.)+(?:\*|[a-z-]+))$", max_length=60)]


class WebhookBody(Body):
    """A new hook."""

    url: Text = Field(max_length=LONGEST, description="https:// or http://, port 443 or 80, a public host")
    events: list[EventName] = Field(
        min_length=1,
        max_length=50,
        description="names such as model.release, families such as plugin.*, or *",
    )
    account: Text = Field(default="", max_length=96, description="whose events; default: the caller's")
    everything: bool = Field(default=False, description="every account's events; administrators only")


class WebhooksQuery(Query):
    """Whose hooks."""

    account: Text = Field(default="", max_length=96, description="default: the caller's")


def create_webhook(request: Request) -> Response:
    """Register an address for the events of an account's projects, models and datasets. Shows the secret, once."""
    body, caller = read_body(request, WebhookBody), request.caller
    read_target(body.url, private=request.registry.settings.webhook_private)
    if body.everything and (body.account or not (caller.admin and "admin" in caller.scopes)):
        raise forbidden("Only an administrator, for the own account, may listen to every account's events")
    with request.registry.db.write() as conn:
        account = account_to_change(conn, caller, body.account or caller.name)
        count = conn.execute(
            sa.select(sa.func.count()).select_from(webhooks).where(webhooks.c.account_id == account.id)
        ).scalar_one()
        if count >= MAX_HOOKS:
            raise conflict(f"`{account.name}` has {MAX_HOOKS} webhooks already")
        secret = new_secret()
        number = conn.execute(
            webhooks.insert()
            .values(
                account_id=account.id,
                url=body.url,
                events=list(body.events),
                secret=secret,
                everything=body.everything,
                created_at=utcnow(),
            )
            .returning(webhooks.c.id)
        ).scalar_one()
        # The path of an address is often a secret by itself: the log names the host only.
        audit(conn, caller, "webhook.create", account.name, {"id": number, "host": _host(body.url)})
        row = conn.execute(_hooks().where(webhooks.c.id == number)).one()
    return json_response({**_webhook(row), "secret": secret}, 201, {"Cache-Control": "no-store"})


def list_webhooks(request: Request) -> Response:
    """The hooks of an account."""
    query, caller = read_query(request, WebhooksQuery), request.caller
    with request.registry.db.read() as conn:
        account = account_to_change(conn, caller, query.account or caller.name)
        rows = conn.execute(_hooks().where(webhooks.c.account_id == account.id).order_by(webhooks.c.id)).all()
    answer: Webhooks = {"webhooks": [_webhook(row) for row in rows]}
    return json_response(answer)


def delete_webhook(request: Request) -> Response:
    """Delete a hook; what was not delivered yet never will be."""
    with request.registry.db.write() as conn:
        row = _own(conn, request)
        conn.execute(webhooks.delete().where(webhooks.c.id == row.id))
        audit(conn, request.caller, "webhook.delete", row.account, {"id": row.id, "host": _host(row.url)})
    return Response(None, 204)


def list_deliveries(request: Request) -> Response:
    """What became of the last events."""
    with request.registry.db.read() as conn:
        row = _own(conn, request)
        found = conn.execute(
            sa.select(webhook_deliveries, events.c.event, events.c.subject, events.c.at)
            .join(events, events.c.id == webhook_deliveries.c.event_id)
            .where(webhook_deliveries.c.webhook_id == row.id)
            .order_by(webhook_deliveries.c.event_id.desc())
            .limit(SHOWN)
        ).all()
    answer: Deliveries = {
        "deliveries": [
            {
                "event_id": one.event_id,
                "event": one.event,
                "subject": one.subject,
                "at": rfc3339(one.at),
                "attempts": one.attempts,
                "status": one.status,
                "error": one.error,
                "next_at": rfc3339_or_none(one.next_at),
                "done_at": rfc3339_or_none(one.done_at),
            }
            for one in found
        ]
    }
    return json_response(answer)


def test_webhook(request: Request) -> Response:
    """Send the event `ping` now, once, and say what the address answered."""
    with request.registry.db.read() as conn:
        row = _own(conn, request)
    now = utcnow()
    message = f"ping_{secrets.token_hex(8)}"
    body, headers = signed_message(
        row.secret, message, "ping", now, {"webhook": row.id}, int(now.timestamp())
    )
    outside = request.registry.outside
    if not outside.acquire(blocking=False):
        raise Failure(429, "Too many webhooks are being tried", headers={"Retry-After": "10"})
    try:
        status, error = attempt(row.url, body, headers, private=request.registry.settings.webhook_private)
    finally:
        outside.release()
    answer: TestDelivery = {"status": status, "error": error}
    return json_response(answer)


def _hooks() -> sa.Select[Any]:
    return sa.select(webhooks, accounts.c.name.label("account")).join(
        accounts, accounts.c.id == webhooks.c.account_id
    )


def _own(conn: sa.Connection, request: Request) -> sa.Row[Any]:
    """The hook of the address, when the caller owns its account. Raises Failure 404: others' hooks do not exist."""
    text = request.params["id"]
    row = None
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        row = conn.execute(_hooks().where(webhooks.c.id == int(text))).one_or_none()
    if row is None or not request.caller.owns(row.account):
        raise not_found(f"There is no webhook {text[:20]}")
    return row


def _host(url: str) -> str:
    return read_target(url, private=True).host


def _webhook(row: sa.Row[Any]) -> Webhook:
    return {
        "id": row.id,
        "account": row.account,
        "url": row.url,
        "events": list(row.events),
        "everything": bool(row.everything),
        "created_at": rfc3339(row.created_at),
    }


_ONE = "/v1/webhooks/{id}"
OPERATIONS = (
    Operation("POST", "/v1/webhooks", create_webhook, "publish", {201: Webhook}, body=WebhookBody),
    Operation("GET", "/v1/webhooks", list_webhooks, "publish", {200: Webhooks}, query=WebhooksQuery),
    Operation("DELETE", _ONE, delete_webhook, "publish", {204: None}),
    Operation("GET", f"{_ONE}/deliveries", list_deliveries, "publish", {200: Deliveries}),
    Operation("POST", f"{_ONE}/test", test_webhook, "publish", {200: TestDelivery}),
)
