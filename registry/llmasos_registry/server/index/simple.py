"""``/simple/``: the list of projects and each project's page, read from memory on the event loop."""

from __future__ import annotations

import gzip
import hashlib
import threading
from dataclasses import dataclass

import sqlalchemy as sa
from anyio import to_thread
from starlette.responses import Response

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.db.tables_accounts import facts
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.failures import Failure, not_found
from llmasos_registry.server.index.formats import HTML, JSON, negotiate, root_html, root_json
from llmasos_registry.server.index.names import is_key, is_reserved, key_of
from llmasos_registry.server.index.pages import ROOT_FACT, Page, PageReader
from llmasos_registry.server.index.upstream import Upstream, UpstreamPage
from llmasos_registry.server.responses import not_modified

#: Clients ask again each time, and get 304 for it: what was published a second ago can be installed now.
_CACHE = {False: "no-cache", True: "private, no-cache"}


@dataclass(frozen=True, slots=True)
class Root:
    """A list of projects in both forms; ``stamp`` says of which state of the registry."""

    stamp: str
    etag: str
    json: bytes
    json_gzip: bytes
    html: bytes


class Simple:
    """The pages of one registry."""

    def __init__(
        self, db: Database, pages: PageReader, upstream: Upstream | None, reserved: tuple[str, ...]
    ) -> None:
        self._db = db
        self._pages = pages
        self._upstream = upstream
        self._reserved = reserved
        self._root: Root | None = None
        self._building = threading.Lock()

    async def project(self, request: Request) -> Response:
        """One project's page: ours when the name is known here, else the upstream's."""
        name = request.params["project"]
        key = key_of(name)
        if not is_key(key):
            raise not_found("There is no such project")
        if key != name:
            return Response(None, 301, {"Location": f"../{key}/"})
        page = self._pages.get(key) if self._pages.quick else await to_thread.run_sync(self._pages.get, key)
        if page is not None:
            if page.gone or (page.private and not request.caller.may_read(page.owner, key, private=True)):
                # A private name answers as a missing one does, and is not looked up elsewhere either.
                raise self._missing(key)
            return self._send(request, page, page.private)
        if self._upstream is None or is_reserved(key, self._reserved):
            raise self._missing(key)
        found = await to_thread.run_sync(self._upstream.page, key, limiter=self._upstream.limiter)
        if found is None:
            raise self._missing(key)
        return self._send(request, found, False)

    def _missing(self, key: str) -> Failure:
        """404, in the same words whether a name is private, was deleted or never was."""
        if self._upstream is None or is_reserved(key, self._reserved):
            return not_found(f"There is no project `{key}`")
        return not_found(f"There is no project `{key}`, here or at the upstream index")

    def without_slash(self, request: Request) -> Response:
        """The address of a page ends with a slash; relative addresses in it depend on that."""
        key = key_of(request.params["project"])
        if not is_key(key):
            raise not_found("There is no such project")
        return Response(None, 301, {"Location": f"{key}/"})

    async def root(self, request: Request) -> Response:
        """The list of projects here that the caller may see. Names at the upstream are not listed."""
        caller = request.caller
        if not caller.anonymous and "read" in caller.scopes:
            mine = await to_thread.run_sync(self._root_of, caller)
            if mine is not None:
                return self._send(request, mine, True)
        return self._send(request, await to_thread.run_sync(self._public_root), False)

    def _public_root(self) -> Root:
        with self._db.read() as conn:
            stamp = _root_stamp(conn)
        kept = self._root
        if kept is not None and kept.stamp == stamp:
            return kept
        with self._building:  # one build at a time, the others take it
            kept = self._root
            if kept is None or kept.stamp != stamp:
                with self._db.read() as conn:
                    kept = _build_root(conn, projects.c.private.is_(sa.false()))
                self._root = kept
            return kept

    def _root_of(self, caller: Caller) -> Root | None:
        """The list with the private projects that this caller may see; None when there are none."""
        with self._db.read() as conn:
            private = conn.execute(
                sa.select(projects.c.key, projects.c.owner).where(projects.c.private.is_(sa.true()))
            ).all()
            seen = [row.key for row in private if caller.may_read(row.owner, row.key, private=True)]
            if not seen:
                return None
            return _build_root(conn, projects.c.private.is_(sa.false()) | projects.c.key.in_(seen))

    def _send(self, request: Request, page: Page | Root | UpstreamPage, private: bool) -> Response:
        asked = request.query_params.get("format") if request.scope["query_string"] else None
        kind = negotiate(asked or request.headers.get("accept"))
        if kind is None:
            raise Failure(
                406, f"Pages are served as {JSON}, {HTML} and text/html", headers={"Vary": "Accept"}
            )
        packed = kind == JSON and "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{page.etag}{"" if kind == JSON else "-html"}{"-gz" if packed else ""}"'
        headers: dict[str, str] = {
            "ETag": etag,
            "Vary": "Accept, Accept-Encoding",
            "Cache-Control": _CACHE[private],
        }
        if isinstance(page, Page):
            headers["X-PyPI-Last-Serial"] = str(page.serial)
        if not_modified(request, etag):
            return Response(None, 304, headers)
        body = page.html if kind != JSON else page.json_gzip if packed else page.json
        if packed:
            headers["Content-Encoding"] = "gzip"
        headers["Content-Type"] = kind if kind == JSON else f"{kind}; charset=utf-8"
        if request.method == "HEAD":
            return Response(None, 200, headers | {"Content-Length": str(len(body))})
        return Response(body, 200, headers)


def _root_stamp(conn: sa.Connection) -> str:
    return conn.execute(sa.select(facts.c.value).where(facts.c.name == ROOT_FACT)).scalar_one_or_none() or "0"


def _build_root(conn: sa.Connection, which: sa.ColumnElement[bool]) -> Root:
    stamp = _root_stamp(conn)
    names = [
        (row.key, row.name)
        for row in conn.execute(
            sa.select(projects.c.key, projects.c.name).where(which).order_by(projects.c.key)
        )
    ]
    body = root_json(int(stamp), names)
    return Root(
        stamp, hashlib.sha256(body).hexdigest()[:40], body, gzip.compress(body, 5, mtime=0), root_html(names)
    )
