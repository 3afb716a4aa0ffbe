"""The ASGI application: one router over the faces, who is calling, and refusals in the form clients know."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import cast

from anyio import to_thread
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llmasos_registry.server.accounts.activity import TokenActivity
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.limits import RateLimits
from llmasos_registry.server.accounts.tokens import find_caller, sent_token
from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.failures import Failure, forbidden, unauthorized
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Match, Route, RouteTable
from llmasos_registry.server.store.blobs import BlobMissing

log = logging.getLogger("llmasos.registry")
#: One line a request.
access = logging.getLogger("llmasos.registry.access")
#: Work beside the requests, from the start of the server to its end, when it is cancelled.
Task = Callable[[Registry], Awaitable[None]]


class Application:
    """One registry as an ASGI application."""

    def __init__(self, registry: Registry, routes: Iterable[Route], tasks: Iterable[Task] = ()) -> None:
        self.registry = registry
        self.table = RouteTable(routes)
        self._limits = RateLimits(registry.settings)
        self._activity = TokenActivity()
        self._tasks = (*tasks, self._activity.run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan protocol."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope["llmasos.registry"] = self.registry
        request = Request(scope, _patient(receive, self.registry.settings.idle_timeout), noted)
        scope["llmasos.caller"] = Caller(address=client_address(request))
        try:
            response = await self._answer(request)
            for name, value in scope.get("llmasos.headers", {}).items():
                response.headers.setdefault(name, value)
            await response(scope, receive, noted)
        finally:
            if access.isEnabledFor(logging.INFO):
                _log_access(request, status, time.perf_counter() - began)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._dispatch(request)
        except Failure as failure:
            return refusal(failure)
        except BlobMissing as missing:
            log.error("blob %s is referenced and not in the store; run `llmasos registry scrub`", missing)
            return refusal(Failure(500, "This file is missing from the store of the registry"))
        except Exception:
            # One request's defect; the process goes on. The message says nothing about the inside.
            log.exception("%s %s failed", request.method, request.url.path)
            return refusal(Failure(500, "Internal error of the registry"))

    async def _dispatch(self, request: Request) -> Response:
        # No name here holds a NUL, and PostgreSQL refuses to look for one.
        if "%00" in raw_path(request) or b"%00" in request.scope.get("query_string", b""):
            raise Failure(400, "The address has a NUL character")
        match = self.table.find(request.method, raw_path(request))
        if not isinstance(match, Match):
            if match:
                raise Failure(
                    405, f"{request.method} is not for this address", headers={"Allow": ", ".join(match)}
                )
            raise Failure(404, "No such address in this registry")
        scope = request.scope
        scope["llmasos.params"] = match.params
        try:
            scope["llmasos.caller"] = await self._caller(request, match.route)
        except Failure:
            # Guesses at tokens count like any stranger's requests.
            self._limits.take(request.caller, match.route.weight)
            raise
        scope["llmasos.headers"] = self._limits.take(request.caller, match.route.weight)
        self._admit(request, match.route)
        if match.route.body is not None:
            scope["llmasos.body"] = await request.bytes_limited(match.route.body)
        handler = match.route.handler
        if inspect.iscoroutinefunction(handler):
            return cast(Response, await handler(request))
        return cast(Response, await run_in_threadpool(handler, request))

    async def _caller(self, request: Request, route: Route) -> Caller:
        stranger = request.caller
        if route.audience == "signed":
            return stranger
        token = sent_token(request.headers.get("authorization"))
        if token is None:
            return stranger
        return await to_thread.run_sync(self._find_caller, token, stranger.address)

    def _find_caller(self, token: str, address: str) -> Caller:
        now = utcnow()
        with self.registry.db.read() as conn:
            caller = find_caller(conn, token, now, address)
        if caller.token is not None:
            self._activity.note(caller.token, now)
        return caller

    def _admit(self, request: Request, route: Route) -> None:
        """Whether this caller may use this route at all; rights on the object are the handler's to check."""
        caller = request.caller
        if route.audience == "signed":
            return
        if route.audience == "public":
            if self.registry.settings.require_login and caller.anonymous and route.weight != "free":
                raise unauthorized("This registry serves only callers with a token")
            return
        if caller.anonymous:
            raise unauthorized("This needs a token")
        if route.audience not in caller.scopes:
            raise forbidden(f"The token lacks the scope `{route.audience}`")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        running: list[asyncio.Task[None]] = []
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                running = [asyncio.create_task(_keep_running(task, self.registry)) for task in self._tasks]
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                for task in running:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                self.registry.db.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _patient(receive: Receive, seconds: int) -> Receive:
    """``receive`` that waits so long for the next piece of a body, and no longer: Failure 408."""
    whole = False

    async def piece() -> Message:
        nonlocal whole
        # Once the body is there, this waits for the client to go away, which takes as long as it takes.
        try:
            async with asyncio.timeout(None if whole else seconds):
                message = await receive()
        except TimeoutError:
            raise Failure(408, f"No data for {seconds} seconds") from None
        whole = not message.get("more_body", False)
        return message

    return piece


async def _keep_running(task: Task, registry: Registry) -> None:
    """Start a task again when it fails: webhooks must not stop for the life of the process over one bad answer."""
    while True:
        try:
            await task(registry)
            return
        except Exception:
            log.exception("%s failed; it starts again in a minute", getattr(task, "__name__", task))
            await asyncio.sleep(60)


def raw_path(request: Request) -> str:
    """The path as it was sent, percent-encoded, without the query."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    return cast(bytes, raw).decode("latin-1").partition("?")[0]


def client_address(request: Request) -> str:
    """The client's address: the connection's, or what a trusted proxy says of it in X-Forwarded-For."""
    address = request.client.host if request.client else ""
    trusted = request.registry.settings.trusted_proxies
    if address in trusted:
        # From the right: what stands left of the last address that no proxy of ours wrote may be invented.
        for hop in reversed(request.headers.get("x-forwarded-for", "").split(",")):
            if hop.strip() and hop.strip() not in trusted:
                return hop.strip()[:64]
    return address


def _log_access(request: Request, status: int, seconds: float) -> None:
    """Method, path, status, time, address, account. The query is left out: signed addresses carry their key there."""
    address, name = request.caller.address or "-", request.caller.name or "-"
    # A line of the log is one line whatever was sent.
    path = "".join(c if c.isprintable() else "?" for c in raw_path(request))
    access.info("%s %s %d %.1fms %s %s", request.method, path, status, 1000 * seconds, address, name)


def refusal(failure: Failure) -> Response:
    """The answer for a failure: JSON with ``error``, and the headers that Hub clients read."""
    headers = dict(failure.headers)
    if failure.code:
        headers["X-Error-Code"] = failure.code
    # Header values are one line of latin-1, without control characters.
    line = "".join(c if c.isprintable() else "?" for c in " ".join(failure.message.split()))
    headers["X-Error-Message"] = line.encode("latin-1", "replace").decode("latin-1")
    body = {"error": failure.message}
    if failure.hint:
        body["hint"] = failure.hint
    return json_response(body, failure.status, headers)
