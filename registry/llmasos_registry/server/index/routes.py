"""Face 2, put together for one registry."""

from __future__ import annotations

import threading

from starlette.responses import Response

from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.index.files import Files
from llmasos_registry.server.index.pages import PageReader
from llmasos_registry.server.index.publishing import Publishing
from llmasos_registry.server.index.simple import Simple
from llmasos_registry.server.index.upload import Uploads
from llmasos_registry.server.index.upstream import Upstream
from llmasos_registry.server.routing import Route


class _Parts:
    """What serves the index of one registry: its caches, its connections."""

    def __init__(self, registry: Registry) -> None:
        settings = registry.settings
        reserved = tuple(settings.reserved_prefixes)
        pages = PageReader(registry.db)
        upstream = None
        if settings.upstream_index is not None:
            upstream = Upstream(
                settings.upstream_index,
                settings.upstream_ttl,
                settings.upstream_max_file,
                registry.db,
                registry.store,
            )
        self.registry = registry
        self.simple = Simple(registry.db, pages, upstream, reserved)
        self.files = Files(registry, pages, upstream)
        self.uploads = Uploads(Publishing(registry, upstream))


class Index:
    """The handlers of one application. Its parts are made with the first request, which says what registry it is."""

    def __init__(self) -> None:
        self._parts: _Parts | None = None
        self._lock = threading.Lock()

    def _of(self, request: Request) -> _Parts:
        parts = self._parts
        if parts is None or parts.registry is not request.registry:
            with self._lock:
                parts = self._parts = _Parts(request.registry)
        return parts

    async def root(self, request: Request) -> Response:
        """The list of projects."""
        return await self._of(request).simple.root(request)

    async def project(self, request: Request) -> Response:
        """The page of a project."""
        return await self._of(request).simple.project(request)

    async def without_slash(self, request: Request) -> Response:
        """The address of a page without its slash."""
        return self._of(request).simple.without_slash(request)

    async def file(self, request: Request) -> Response:
        """A file published here."""
        return await self._of(request).files.local(request)

    def upstream_file(self, request: Request) -> Response:
        """A file of the upstream."""
        return self._of(request).files.remote(request)

    async def upload(self, request: Request) -> Response:
        """A file to publish."""
        return await self._of(request).uploads.upload(request)


def index_routes() -> tuple[Route, ...]:
    """The routes of the package index, for one application."""
    index = Index()
    return (
        Route("GET", "/simple/", index.root, "public", "file"),
        Route("GET", "/simple/{project}/", index.project, "public", "file"),
        Route("GET", "/simple/{project}", index.without_slash, "public", "file"),
        Route("GET", "/files/{sha256}/{filename}", index.file, "public", "file"),
        Route("GET", "/files/upstream/{project}/{sha256}/{filename}", index.upstream_file, "public", "file"),
        Route("POST", "/legacy/", index.upload, "publish"),
        # Clients do not follow redirects of uploads, and people forget the slash.
        Route("POST", "/legacy", index.upload, "publish"),
    )
