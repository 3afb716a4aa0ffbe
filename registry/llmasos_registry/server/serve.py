"""Putting a registry together from its settings: database, store, routes, first account."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts import routes as accounts_face
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.people import create_account
from llmasos_registry.server.accounts.tokens import issue_token
from llmasos_registry.server.api import routes as api_face
from llmasos_registry.server.api.webhook_delivery import deliver_webhooks
from llmasos_registry.server.app import Application, Task
from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.db.migrate import bring_up_to_date
from llmasos_registry.server.db.tables_accounts import accounts, facts
from llmasos_registry.server.downloads import write_downloads
from llmasos_registry.server.hub import routes as hub_face
from llmasos_registry.server.index.routes import index_routes
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.blobs import BlobStore
from llmasos_registry.server.store.filesystem import FileStore

#: The account of the first start.
FIRST_ADMIN = "admin"


def open_registry(settings: Settings) -> Registry:
    """The registry of these settings; its database is created or brought up to date."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = Database(settings.database) if settings.database else Database.of_folder(settings.data)
    bring_up_to_date(db)
    with db.write() as conn:
        secret = _fact(conn, "secret", secrets.token_hex(32))
        _fact(conn, "serial", "0")
    return Registry(settings, db, open_store(settings), bytes.fromhex(secret))


def open_store(settings: Settings) -> BlobStore:
    """Where the settings say that blobs lie. Raises ConfigError."""
    if settings.storage is None:
        return FileStore(settings.data)
    from llmasos_registry.server.store.objects import ObjectStore

    return ObjectStore(
        settings.data, settings.storage, settings.storage_options, redirect=settings.storage_redirect
    )


def _fact(conn: sa.Connection, name: str, default: str) -> str:
    """A fact that is made when the database is new."""
    value = conn.execute(sa.select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()
    if value is None:
        conn.execute(facts.insert().values(name=name, value=default))
        return default
    return str(value)


def first_admin(registry: Registry) -> str | None:
    """The token of a new administrator when there is no account at all; it is shown once. None otherwise."""
    with registry.db.write() as conn:
        if conn.execute(sa.select(accounts.c.id).limit(1)).first() is not None:
            return None
        operator = Caller(name="operator")
        admin = create_account(conn, operator, FIRST_ADMIN, admin=True)
        token, _ = issue_token(conn, operator, admin, "first start", ("admin",))
        return token


def all_routes() -> tuple[Route, ...]:
    """The routes of every face. The Hub's web addresses (`/{repo}/...`) come last: they match almost anything."""
    return (
        Route("GET", "/healthz", health, "public", weight="free"),
        *accounts_face.ROUTES,
        *api_face.ROUTES,
        *index_routes(),
        *hub_face.ROUTES,
    )


def all_tasks() -> tuple[Task, ...]:
    """What runs beside the requests."""
    return (write_downloads, deliver_webhooks)


def create_app(
    settings: Settings, routes: Iterable[Route] | None = None, tasks: Iterable[Task] | None = None
) -> Application:
    """The ASGI application of a registry."""
    return Application(
        open_registry(settings),
        all_routes() if routes is None else routes,
        all_tasks() if tasks is None else tasks,
    )


async def health(request: Request) -> Response:
    """Whether the process answers."""
    return json_response({"status": "ok"})
