"""The bytes of LFS uploads: whole, or in parts that are put together. Hashed on their way into the store."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from anyio import to_thread
from starlette.responses import Response

from llmasos_registry.server.accounts.quota import check_quota
from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.db.tables_store import uploads
from llmasos_registry.server.failures import Failure, bad_request
from llmasos_registry.server.hub import signed_claims
from llmasos_registry.server.hub.blob_rights import grant, held
from llmasos_registry.server.hub.request_body import check_disk, drain
from llmasos_registry.server.hub.signed_claims import Claim
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route
from llmasos_registry.server.store.blobs import PIECE, BlobWriter, DigestMismatch, Stored, record_blob

_ETAG = re.compile(r'"?([0-9a-f]{64})"?')


def _check(request: Request, purpose: str, *, room: bool = False) -> Claim:
    registry = request.registry
    with registry.db.read() as conn:
        claim = signed_claims.check(
            registry, conn, purpose, signed_claims.sent(request), request.caller.address
        )
        if room:
            check_quota(conn, registry.settings, claim.repo.owner_id, claim.values["size"])
            check_disk(registry.store, claim.values["size"])
    return claim


def _check_length(request: Request, size: int) -> None:
    """Wrong sizes are refused before the body where the client says how long it is."""
    length = request.headers.get("content-length")
    if length is not None and int(length) != size:
        raise bad_request(f"this address takes exactly {size} bytes, and {length} were sent")


def _commit(writer: BlobWriter, oid: str, size: int) -> Stored:
    if writer.size != size:
        raise bad_request(f"{writer.size} bytes arrived; {size} were announced")
    try:
        return writer.commit(oid)
    except DigestMismatch as mismatch:
        raise bad_request(
            f"the bytes have the sha256 {mismatch.found}; {mismatch.expected} was announced"
        ) from None


def _record(registry: Registry, claim: Claim, stored: Stored, upload: str | None = None) -> None:
    """The blob's row and the repository's right to it; what had to be checked before is checked again."""
    with registry.db.write() as conn:
        record_blob(conn, stored)
        grant(conn, claim.repo.id, [stored.sha256])
        if upload is not None:
            conn.execute(uploads.delete().where(uploads.c.id == upload))


async def put_object(request: Request) -> Response:
    """PUT of a whole object."""
    registry = request.registry
    claim = await to_thread.run_sync(lambda: _check(request, "lfs-put", room=True))
    oid, size = claim.values["oid"], claim.values["size"]
    _check_length(request, size)
    writer = await to_thread.run_sync(registry.store.writer)
    try:
        await drain(request, writer.write, size, "the object")
        stored = await to_thread.run_sync(_commit, writer, oid, size)
    finally:
        await to_thread.run_sync(writer.__exit__, None, None, None)
    await to_thread.run_sync(_record, registry, claim, stored)
    return Response(None, 200, {"ETag": f'"{oid}"'})


async def put_part(request: Request) -> Response:
    """PUT of one part. Its file is named by number and digest, so what completes the upload names exactly these bytes."""
    registry = request.registry
    claim = await to_thread.run_sync(lambda: _check(request, "lfs-part"))
    size = claim.values["size"]
    check_disk(registry.store, size)
    _check_length(request, size)
    folder = await to_thread.run_sync(_folder, registry, claim)
    part = _PartFile(folder)
    try:
        await drain(request, part.write, size, "the part")
        if part.size != size:
            raise bad_request(f"{part.size} bytes arrived; this part has {size}")
        etag = await to_thread.run_sync(part.keep, claim.values["number"])
    finally:
        part.close()
    return Response(None, 200, {"ETag": f'"{etag}"'})


class _PartFile:
    """A part on its way in. No fsync: a part that is lost is sent again, and the whole is hashed before it counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / f"incoming.{os.urandom(8).hex()}"
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = open(self.path, "xb")  # noqa: SIM115 - closed in close()

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._digest.update(piece)
        self.size += len(piece)

    def keep(self, number: int) -> str:
        etag = self._digest.hexdigest()
        self._file.close()
        os.replace(self.path, self.folder / f"{number:05d}-{etag}")
        # One part is one file: other bytes sent for it before would fill the disk.
        for other in self.folder.glob(f"{number:05d}-*"):
            if other.name != f"{number:05d}-{etag}":
                other.unlink(missing_ok=True)
        return etag

    def close(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def _folder(registry: Registry, claim: Claim) -> Path:
    with registry.db.read() as conn:
        _upload_row(conn, claim)
    return registry.store.staging(claim.values["upload"])


def _upload_row(conn: sa.Connection, claim: Claim) -> sa.Row[Any]:
    row = conn.execute(
        sa.select(uploads).where(uploads.c.id == claim.values["upload"], uploads.c.repo_id == claim.repo.id)
    ).one_or_none()
    if row is None:
        raise Failure(404, "This upload has ended", hint="start it again")
    return row


def complete(request: Request) -> Response:
    """POST of `{oid, parts}`: put the parts together. Sent again, it waits for the first and answers the same."""
    registry = request.registry
    body = request.json_object()
    claim = _check(request, "lfs-complete", room=True)
    oid, size, upload = claim.values["oid"], claim.values["size"], claim.values["upload"]
    if body.get("oid") != oid:
        raise bad_request("this address completes another object")
    with registry.db.read() as conn:
        if held(conn, claim.repo, [oid]).get(oid) == size:
            return json_response({"oid": oid, "size": size})
        row = _upload_row(conn, claim)
    folder = registry.store.staging(upload)
    with _locked(folder / "lock"):
        with registry.db.read() as conn:
            if held(conn, claim.repo, [oid]).get(oid) == size:
                return json_response({"oid": oid, "size": size})
        parts = _part_files(folder, body.get("parts"), -(-size // row.chunk))
        with registry.store.writer() as writer:
            for path in parts:
                with open(path, "rb") as file:
                    while piece := file.read(PIECE):
                        writer.write(piece)
            stored = _commit(writer, oid, size)
        _record(registry, claim, stored, upload)
        shutil.rmtree(folder, ignore_errors=True)
    return json_response({"oid": oid, "size": size})


def _part_files(folder: Path, value: Any, count: int) -> list[Path]:
    """The files of the parts in order. Raises Failure 400 naming the part that is missing or has other bytes."""
    if not isinstance(value, list) or len(value) != count:
        raise bad_request(f"`parts` is a list of {count} parts")
    found: dict[int, Path] = {}
    for item in value:
        number, etag = (item.get("partNumber"), item.get("etag")) if isinstance(item, dict) else (None, None)
        digest = _ETAG.fullmatch(etag) if isinstance(etag, str) else None
        if not isinstance(number, int) or not 1 <= number <= count or digest is None or number in found:
            raise bad_request("each part has a partNumber and the etag that its upload was answered with")
        path = folder / f"{number:05d}-{digest[1]}"
        if not path.is_file():
            raise bad_request(f"part {number} was not uploaded with these bytes")
        found[number] = path
    return [found[number] for number in range(1, count + 1)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process and thread at a time. The lock ends with the process that holds it."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


ROUTES = (
    Route("PUT", "/api/lfs/put", put_object, "signed", weight="file"),
    Route("PUT", "/api/lfs/parts", put_part, "signed", weight="file"),
    Route("POST", "/api/lfs/complete", complete, "signed", body=2 << 20),
)
