"""Files by name: ``/{repo}/resolve/{rev}/{path}``, the busiest address of the registry.

Nothing here is ever shown as a page of this site: strangers wrote these files, so they come as attachments or as types
that a browser does not run, in a sandbox, and their type is not guessed.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import quote

from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import entry_not_found
from llmasos_registry.server.hub.objects import walk
from llmasos_registry.server.hub.repository import requested_repo, resolve_revision
from llmasos_registry.server.responses import blob_response
from llmasos_registry.server.routing import Route

#: What a browser may show; everything else is bytes to save. No HTML, no SVG, no XML: they can carry scripts.
_TEXT = "text/plain; charset=utf-8"
_TYPES = {
    ".json": "application/json",
    ".md": _TEXT,
    ".txt": _TEXT,
    ".yaml": _TEXT,
    ".yml": _TEXT,
    ".toml": _TEXT,
    ".csv": _TEXT,
    ".py": _TEXT,
    ".jsonl": _TEXT,
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "no-cache",
    "Vary": "Authorization",
}


def resolve_model(request: Request) -> Response:
    """GET and HEAD of a model's file."""
    return _resolve(request, "model")


def resolve_dataset(request: Request) -> Response:
    """GET and HEAD of a dataset's file."""
    return _resolve(request, "dataset")


def _resolve(request: Request, kind: str) -> Response:
    path = request.params["path"]
    registry = request.registry
    with registry.db.read() as conn:
        repo = requested_repo(conn, request, "content", kind)
        commit = resolve_revision(conn, repo, request.params["rev"])
        entry = walk(conn, registry.objects, commit.tree, path)
    if entry is None or entry.file is None:
        raise entry_not_found(path, commit.oid)
    file, name = entry.file, PurePosixPath(path).name
    media_type = _TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
    headers = {
        **_SAFE,
        "X-Repo-Commit": commit.oid,
        "Content-Disposition": disposition(name, inline=media_type in (_TEXT, "application/json")),
    }
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    # The rest of a download that was broken off is no other download.
    begins = request.headers.get("range", "bytes=0-").startswith("bytes=0-")
    if request.method == "GET" and begins and "x-hf-download-counter" in request.headers:
        registry.downloads.count(repo.kind, repo.full_name)
    return blob_response(
        request,
        file.sha256,
        file.size,
        etag=file.etag,
        headers=headers,
        media_type=media_type,
        filename=name,
    )


def disposition(name: str, *, inline: bool = False) -> str:
    """Content-Disposition for a file's name, whatever it holds (RFC 6266)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    return f"{'inline' if inline else 'attachment'}; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\""


ROUTES: tuple[Route, ...] = (
    Route("GET", "/datasets/{repo}/resolve/{rev}/{path:path}", resolve_dataset, "public", weight="file"),
    Route("GET", "/{repo}/resolve/{rev}/{path:path}", resolve_model, "public", weight="file"),
)
