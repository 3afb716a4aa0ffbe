"""``/legacy/``: the upload form of twine, ``uv publish`` and ``llmasos plugin publish``.

The file goes piece by piece into the store's temporary file; nothing of it is kept in memory.
"""

from __future__ import annotations

import hashlib

from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import bad_request, too_large
from llmasos_registry.server.index.form import MAX_FIELDS, UploadForm
from llmasos_registry.server.index.publishing import Parcel, Publishing, read_parcel
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.store.blobs import BlobWriter

#: Bytes that are collected before they are written.
_BLOCK = 1 << 20


class Uploads:
    """Uploads to one registry."""

    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing

    async def upload(self, request: Request) -> Response:
        """Take one file. 200 also when the very same file is there; 400 "File already exists" for other bytes."""
        writer = await to_thread.run_sync(request.registry.store.writer)
        with writer:
            incoming = _Incoming(writer, request.registry.settings.max_wheel)
            form = UploadForm(request.headers.get("content-type", ""), incoming.pending.extend)
            checked = False
            left = request.registry.settings.max_wheel + MAX_FIELDS
            try:
                async for piece in request.stream():
                    left -= len(piece)
                    if left < 0:
                        raise too_large("The form", request.registry.settings.max_wheel + MAX_FIELDS)
                    form.feed(piece)
                    if not checked and form.filename is not None:
                        checked = True
                        await to_thread.run_sync(self._check_early, request, form)
                    if len(incoming.pending) >= _BLOCK:
                        await to_thread.run_sync(incoming.write)
            except ClientDisconnect:
                raise bad_request("The client went away before the upload was complete") from None
            form.finish()
            await to_thread.run_sync(incoming.write)
            return await to_thread.run_sync(self._finish, request, form, incoming)

    def _check_early(self, request: Request, form: UploadForm) -> None:
        action = form.fields.get(":action", "file_upload")
        if action != "file_upload":
            raise bad_request(f"The action {action[:40]!r} is not known; an upload is file_upload")
        self._publishing.check_early(
            request.caller, form.filename or "", _owner(request, form), form.fields.get("sha256_digest")
        )

    def _finish(self, request: Request, form: UploadForm, incoming: _Incoming) -> Response:
        blake2 = form.fields.get("blake2_256_digest")
        if blake2 and blake2.lower() != incoming.blake2.hexdigest():
            raise bad_request(
                f"The form says blake2_256 {blake2[:64]}, what arrived has {incoming.blake2.hexdigest()}"
            )
        fields = dict(form.fields)
        owner = _owner(request, form)
        if owner is not None:
            fields["llmasos_owner"] = owner
        limit = request.registry.settings.max_wheel
        parcel = read_parcel(incoming.writer, form.filename or "", fields, limit)
        sha256 = form.fields.get("sha256_digest")
        new = self._publishing.publish(
            request.caller, parcel, incoming.writer, sha256.lower() if sha256 else None
        )
        return json_response(_answer(parcel, new))


class _Incoming:
    """The file on its way in."""

    def __init__(self, writer: BlobWriter, limit: int) -> None:
        self.writer = writer
        self.pending = bytearray()
        self.blake2 = hashlib.blake2b(digest_size=32)
        self._limit = limit

    def write(self) -> None:
        """Write what has come so far. Raises Failure 413."""
        if self.writer.size + len(self.pending) > self._limit:
            raise too_large("The file", self._limit)
        piece = bytes(self.pending)
        self.pending.clear()
        self.writer.write(piece)
        self.blake2.update(piece)


def _owner(request: Request, form: UploadForm) -> str | None:
    """For whom a new project is: the form's field, or ``?owner=`` for clients that cannot send one."""
    return form.fields.get("llmasos_owner") or request.query_params.get("owner") or None


def _answer(parcel: Parcel, new: bool) -> dict[str, object]:
    return {
        "name": parcel.facts.name,
        "version": parcel.facts.version,
        "filename": parcel.facts.filename,
        "new": new,
    }
