"""``/files/``: packages and their metadata, by digest, for ever the same bytes."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.db.tables_index import package_files, projects
from llmasos_registry.server.db.tables_store import blobs
from llmasos_registry.server.failures import not_found
from llmasos_registry.server.index.names import is_key, is_reserved
from llmasos_registry.server.index.pages import QUARANTINED, PageReader
from llmasos_registry.server.index.upstream import Upstream
from llmasos_registry.server.responses import blob_response

_SUFFIX = ".metadata"
#: A year, the longest that caches take seriously.
_CACHE = "max-age=31536000, immutable"


class Files:
    """The files of one registry."""

    def __init__(
        self, db: Database, pages: PageReader, upstream: Upstream | None, reserved: tuple[str, ...]
    ) -> None:
        self._db = db
        self._pages = pages
        self._upstream = upstream
        self._reserved = reserved

    def local(self, request: Request) -> Response:
        """A file published here, or with ``.metadata`` behind its name, its METADATA (PEP 658)."""
        sha256, filename = request.params["sha256"], request.params["filename"]
        name = filename.removesuffix(_SUFFIX)
        digest = package_files.c.sha256 if name == filename else package_files.c.metadata_sha256
        with self._db.read() as conn:
            row = conn.execute(
                sa.select(
                    digest.label("blob"),
                    blobs.c.size,
                    projects.c.owner,
                    projects.c.key,
                    projects.c.private,
                    projects.c.status,
                )
                .join(projects, projects.c.id == package_files.c.project_id)
                .join(blobs, blobs.c.sha256 == digest)
                .where(
                    package_files.c.filename == name,
                    package_files.c.sha256 == sha256,
                    package_files.c.deleted_at.is_(None),
                )
            ).one_or_none()
        if row is None or row.status == QUARANTINED:
            raise not_found("There is no such file")
        private = bool(row.private)
        if not request.caller.may_read(row.owner, row.key, private=private):
            raise not_found("There is no such file")
        headers = {"Cache-Control": f"{'private' if private else 'public'}, {_CACHE}"}
        if name == filename and request.method == "GET" and "range" not in request.headers:
            request.registry.downloads.count("package", row.key)
        return blob_response(request, row.blob, row.size, etag=row.blob, headers=headers, filename=filename)

    def remote(self, request: Request) -> Response:
        """A file of the upstream, under the digest that its page lists; never for a name that is known here."""
        key = request.params["project"]
        if self._upstream is None or not is_key(key) or is_reserved(key, self._reserved):
            raise not_found("There is no such file")
        if self._pages.get(key) is not None:
            raise not_found("This name is known here; the upstream's files for it are not served")
        return self._upstream.file(request, key, request.params["sha256"], request.params["filename"])
