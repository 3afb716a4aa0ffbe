"""A request's body in pieces, handed to code that blocks, in memory that does not grow with the body."""

from __future__ import annotations

from collections.abc import Callable

from anyio import to_thread
from starlette.requests import ClientDisconnect

from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import Failure, bad_request, too_large
from llmasos_registry.server.store.blobs import PIECE, BlobStore


def check_disk(store: BlobStore, size: int) -> None:
    """Whether that many bytes fit on the disk, whatever quotas allow. Raises Failure 507 before any of them is written."""
    if size > store.free():
        raise Failure(
            507, f"The registry's disk has no room for {size} bytes", hint="tell whoever runs the registry"
        )


async def drain(request: Request, sink: Callable[[bytes], object], limit: int, what: str) -> int:
    """Feed the body to ``sink``, about a mebibyte at a time in a worker thread; the number of bytes.

    Raises Failure 413 before a byte beyond ``limit`` is fed, 400 when the client goes away.
    """
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large(what, limit)
    total = 0
    waiting = bytearray()
    try:
        async for piece in request.stream():
            total += len(piece)
            if total > limit:
                raise too_large(what, limit)
            waiting += piece
            if len(waiting) >= PIECE:
                await to_thread.run_sync(sink, bytes(waiting))
                waiting.clear()
    except ClientDisconnect:
        raise bad_request("The connection ended before the body did") from None
    if waiting:
        await to_thread.run_sync(sink, bytes(waiting))
    return total
