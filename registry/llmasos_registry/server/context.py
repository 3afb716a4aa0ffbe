"""What every request can reach: the registry's parts, who is calling, and the request itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Any, cast

from starlette.requests import Request as StarletteRequest

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.downloads import Downloads
from llmasos_registry.server.failures import bad_request, too_large
from llmasos_registry.server.hub.objects import Objects
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.blobs import BlobStore


@dataclass(frozen=True, slots=True)
class Registry:
    """The parts of one running registry. Tests make many of them in one process."""

    settings: Settings
    db: Database
    store: BlobStore
    #: Key of the HMACs in signed addresses and tokens of uploads; 32 bytes, kept in the database.
    secret: bytes
    #: Git trees and blobs that were read lately; they never change.
    objects: Objects = field(default_factory=Objects)
    downloads: Downloads = field(default_factory=Downloads)
    #: Requests that wait for addresses of strangers: each holds a worker thread, of which there are forty.
    outside: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(4))


class Request(StarletteRequest):
    """A request with its registry, its caller, and the parameters of its route (percent-decoded)."""

    @property
    def registry(self) -> Registry:
        """The registry that serves this request."""
        return cast(Registry, self.scope["llmasos.registry"])

    @property
    def caller(self) -> Caller:
        """Who is calling."""
        return cast(Caller, self.scope["llmasos.caller"])

    @property
    def params(self) -> Mapping[str, str]:
        """Parameters of the route's pattern, percent-decoded."""
        return cast(Mapping[str, str], self.scope["llmasos.params"])

    @property
    def root(self) -> str:
        """The address of this registry as the client sees it, without a slash at the end."""
        public = self.registry.settings.public_url
        return public.rstrip("/") if public else str(self.base_url).rstrip("/")

    async def bytes_limited(self, limit: int) -> bytes:
        """The whole body. Raises Failure 413 as soon as it is longer than ``limit`` bytes."""
        if int(self.headers.get("content-length") or 0) > limit:
            raise too_large("the request", limit)
        body = bytearray()
        async for piece in self.stream():
            body += piece
            if len(body) > limit:
                raise too_large("the request", limit)
        return bytes(body)

    @property
    def body_bytes(self) -> bytes:
        """The body that the router read for a handler with ``body=LIMIT``."""
        return cast(bytes, self.scope.get("llmasos.body", b""))

    def json_object(self) -> dict[str, Any]:
        """That body as a JSON object; ``{}`` when it is empty. Raises Failure 400."""
        if not self.body_bytes:
            return {}
        try:
            value = json.loads(self.body_bytes)
        except (ValueError, RecursionError):
            raise bad_request("the body is not JSON") from None
        if not isinstance(value, dict):
            raise bad_request("the body is not a JSON object")
        if not storable(value):
            raise bad_request("the body has text with NUL characters or halves of surrogate pairs")
        return value


def storable(value: Any) -> bool:
    """Whether every text in a JSON value can be kept: PostgreSQL takes no NUL, UTF-8 no lone surrogates."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\0" in item or (not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item)):
                return False
        elif isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return True
