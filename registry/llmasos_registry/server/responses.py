"""Answers: JSON, and blobs with ranges. A whole file is handed to the server, which sends it without Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmasos_registry.server.context import Request
from llmasos_registry.server.store.blobs import BlobMissing

#: No file has a size of more digits; longer numbers are no ranges.
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
#: The ASGI extension through which a server takes a path and sends the file itself.
PATHSEND = "http.response.pathsend"


def json_response(
    value: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """Compact JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, dict(headers or {}), media_type)


def not_modified(request: Request, etag: str) -> bool:
    """Whether the client has this version: ``etag`` with its quotes is among If-None-Match."""
    sent = request.headers.get("if-none-match")
    if sent is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in sent.split(",")}
    return etag in tags or "*" in tags


class PathResponse(Response):
    """A whole file, sent by the server; by this process in pieces where the server cannot."""

    def __init__(self, path: Path, size: int, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, 200, dict(headers), media_type)
        self.path = path
        self.headers["content-length"] = str(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if PATHSEND in scope.get("extensions", {}):
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await send({"type": PATHSEND, "path": str(self.path)})
            return
        streaming = StreamingResponse(_file_pieces(self.path), self.status_code, media_type=self.media_type)
        streaming.raw_headers = self.raw_headers
        await streaming(scope, receive, send)


def blob_response(
    request: Request,
    sha256: str,
    size: int,
    *,
    etag: str,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/octet-stream",
    filename: str = "",
) -> Response:
    """A blob: 200, 206 for one range, 304, 416, or a redirect where the object store has addresses of its own.

    ``etag`` has no quotes. Raises BlobMissing when the store lost it. RFC 9110 sections 13 and 14.
    """
    store = request.registry.store
    tag = f'"{etag}"'
    known = {"ETag": tag, "Accept-Ranges": "bytes", **(headers or {})}
    if not_modified(request, tag):
        return Response(None, 304, known)
    if request.method == "HEAD":
        return Response(None, 200, {**known, "Content-Length": str(size)}, media_type)
    address = store.url(sha256, filename, request.registry.settings.url_lifetime)
    if address is not None:
        return RedirectResponse(address, 302, known)
    span = _range(request, size, tag)
    if span is None:
        path = store.path(sha256)
        if path is not None:
            return PathResponse(path, size, known, media_type)
        return StreamingResponse(
            store.pieces(sha256), 200, {**known, "Content-Length": str(size)}, media_type
        )
    start, stop = span
    if start >= stop:
        return Response(None, 416, {**known, "Content-Range": f"bytes */{size}"})
    if not store.exists(sha256):
        raise BlobMissing(sha256)
    known |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Content-Length": str(stop - start)}
    return StreamingResponse(store.pieces(sha256, start, stop), 206, known, media_type)


def _range(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """(start, stop) of one range; None: answer whole. An empty span means that it cannot be satisfied."""
    text = request.headers.get("range")
    condition = request.headers.get("if-range")
    # A changed file must be sent whole, and a list of ranges may be.
    if text is None or (condition is not None and condition != tag):
        return None
    found = _RANGE.fullmatch(text.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = int(found[2])
        return (max(size - length, 0), size) if length else (0, 0)
    start = int(found[1])
    stop = min(int(found[2]) + 1, size) if found[2] else size
    return (start, stop) if start < size else (0, 0)


def _file_pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            yield piece
