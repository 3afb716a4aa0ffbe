"""``/files/``: packages and their metadata, by digest, for ever the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from anyio import to_thread
from starlette.responses import Response

from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.failures import not_found
from llmasos_registry.server.index.names import is_key, is_reserved
from llmasos_registry.server.index.pages import QUARANTINED, PageReader
from llmasos_registry.server.index.quick_reads import QuickReads
from llmasos_registry.server.index.upstream import Upstream
from llmasos_registry.server.responses import blob_response

_SUFFIX = ".metadata"
_QUERY = (
    "SELECT b.sha256, b.size, p.owner, p.key, p.private, p.status FROM package_files f "
    "JOIN projects p ON p.id = f.project_id JOIN blobs b ON b.sha256 = f.{} "
    "WHERE f.filename = ? AND f.sha256 = ? AND f.deleted_at IS NULL"
)
#: A year, the longest that caches take seriously.
_CACHE = "max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Found:
    """What a file's address leads to."""

    blob: str
    size: int
    owner: str
    key: str
    private: bool
    status: str


class Files:
    """The files of one registry."""

    def __init__(self, registry: Registry, pages: PageReader, upstream: Upstream | None) -> None:
        self._db = registry.db
        self._pages = pages
        self._upstream = upstream
        self._reserved = registry.settings.reserved_prefixes
        # Blobs in files are looked up in microseconds as well; an object store is asked over the network.
        self._reads = (
            QuickReads(registry.db) if registry.db.sqlite and registry.settings.storage is None else None
        )

    async def local(self, request: Request) -> Response:
        """A file published here, or with ``.metadata`` behind its name, its METADATA (PEP 658)."""
        if self._reads is not None:
            return self._answer(request)
        return await to_thread.run_sync(self._answer, request)

    def _answer(self, request: Request) -> Response:
        sha256, filename = request.params["sha256"], request.params["filename"]
        name = filename.removesuffix(_SUFFIX)
        found = self._find(name, sha256, described=name != filename)
        if found is None or found.status == QUARANTINED:
            raise not_found("There is no such file")
        if not request.caller.may_read(found.owner, found.key, private=found.private):
            raise not_found("There is no such file")
        headers = {"Cache-Control": f"{'private' if found.private else 'public'}, {_CACHE}"}
        if name == filename and request.method == "GET" and "range" not in request.headers:
            request.registry.downloads.count("package", found.key)
        return blob_response(
            request, found.blob, found.size, etag=found.blob, headers=headers, filename=filename
        )

    def _find(self, name: str, sha256: str, *, described: bool) -> _Found | None:
        column = "metadata_sha256" if described else "sha256"
        if self._reads is not None:
            row = self._reads.row(_QUERY.format(column), (name, sha256))
        else:
            query = sa.text(_QUERY.format(column).replace("?", ":name", 1).replace("?", ":sha256", 1))
            with self._db.read() as conn:
                found = conn.execute(query, {"name": name, "sha256": sha256}).one_or_none()
            row = None if found is None else tuple(found)
        if row is None:
            return None
        blob, size, owner, key, private, status = row
        return _Found(blob, size, owner, key, bool(private), status)

    def remote(self, request: Request) -> Response:
        """A file of the upstream, under the digest that its page lists; never for a name that is known here."""
        key = request.params["project"]
        if self._upstream is None or not is_key(key) or is_reserved(key, self._reserved):
            raise not_found("There is no such file")
        if self._pages.get(key) is not None:
            # As for a name that the upstream does not have: private names are not told.
            raise not_found("The upstream index does not list this file")
        return self._upstream.file(request, key, request.params["sha256"], request.params["filename"])
