"""Signatures over files of the package index: verified against the publisher's keys when they come, never replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.access import find_project, project_to_change
from llmasos_registry.server.api.answers import Envelope, FileSignatures
from llmasos_registry.server.api.operation import Body, Operation, Text
from llmasos_registry.server.api.publisher_keys import active_keys
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_api import file_signatures
from llmasos_registry.server.db.tables_index import package_files, package_releases, projects
from llmasos_registry.server.failures import Failure, not_found
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.responses import json_response
from llmasos_registry.signatures import dsse
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.wheel_statement import check_wheel


class EnvelopeBody(Body):
    """A DSSE envelope over an in-toto statement that names the file. Read strictly by ``signatures.dsse``."""

    payload: Text = Field(max_length=dsse.MAX_ENVELOPE)
    payloadType: Text = Field(max_length=200)
    signatures: list[dict[str, Any]] = Field(min_length=1, max_length=1)


def list_signatures(request: Request) -> Response:
    """The signatures of a file, and whose keys verify them."""
    with request.registry.db.read() as conn:
        project = find_project(conn, request.caller, request.params["name"])
        file = _file(conn, project.id, request.params["filename"])
        answer = _answer(conn, project, file)
    return json_response(answer)


def add_signature(request: Request) -> Response:
    """Add a signature. One by a key that signed this file before changes nothing: signatures are never replaced."""
    caller, params = request.caller, request.params
    with request.registry.db.write() as conn:
        project = project_to_change(conn, caller, params["name"])
        file = _file(conn, project.id, params["filename"])
        keyid, envelope = check_signature(
            conn,
            project.owner_id,
            project.owner,
            request.body_bytes,
            filename=file.filename,
            sha256=file.sha256,
            project=project.key,
            version=file.version,
        )
        added = store_signature(conn, caller, file.id, file.filename, keyid, envelope)
        if added:
            project_changed(conn, project.id)
            emit(conn, "plugin.sign", project.key, {"filename": file.filename, "keyid": keyid})
        answer = _answer(conn, project, file)
    return json_response(answer, 201 if added else 200)


def check_signature(
    conn: sa.Connection,
    owner_id: int,
    owner: str,
    envelope: bytes | str,
    *,
    filename: str,
    sha256: str,
    project: str,
    version: str,
) -> tuple[str, Mapping[str, Any]]:
    """(keyid, envelope to store) of a signature that an active key of ``owner`` made over exactly this file.

    Raises Failure 422 saying what was expected and what was found. The upload of a file calls it with the form's
    ``llmasos_signature``, then ``store_signature`` in the transaction that makes the file visible.
    """
    try:
        sent = dsse.parse(envelope)
        entries = sent.get("signatures")
        if sent.keys() != {"payload", "payloadType", "signatures"}:
            raise SignatureRefused("an envelope has exactly payload, payloadType and signatures")
        if not isinstance(entries, list) or len(entries) != 1:
            raise SignatureRefused("the envelope must hold one signature; send one envelope a key")
        keyid = check_wheel(
            sent, active_keys(conn, owner_id), filename, sha256, project, version=version, publisher=owner
        )
    except SignatureRefused as error:
        raise Failure(
            422,
            f"The signature of {filename} does not hold: {error.message}",
            hint=error.hint or "register the key first: `llmasos registry key register`",
        ) from error
    kept = {
        "payload": sent["payload"],
        "payloadType": sent["payloadType"],
        # The keyid that verified it, whatever the sender called it.
        "signatures": [{"keyid": keyid, "sig": entries[0]["sig"]}],
    }
    return keyid, kept


def store_signature(
    conn: sa.Connection, caller: Caller, file: int, filename: str, keyid: str, envelope: Mapping[str, Any]
) -> bool:
    """Keep a checked signature; False when that key signed the file before, and nothing changes."""
    known = conn.execute(
        sa.select(file_signatures.c.keyid).where(
            file_signatures.c.file_id == file, file_signatures.c.keyid == keyid
        )
    ).first()
    if known is not None:
        return False
    conn.execute(
        file_signatures.insert().values(
            file_id=file, keyid=keyid, envelope=dict(envelope), created_at=utcnow()
        )
    )
    project = conn.execute(
        sa.select(projects.c.key)
        .join(package_files, package_files.c.project_id == projects.c.id)
        .where(package_files.c.id == file)
    ).scalar_one()
    audit(conn, caller, "plugin.sign", project, {"file": filename, "keyid": keyid})
    return True


def _file(conn: sa.Connection, project: int, filename: str) -> sa.Row[Any]:
    """The row of a file with its version. Raises Failure 404."""
    row = conn.execute(
        sa.select(package_files, package_releases.c.version)
        .join(package_releases, package_releases.c.id == package_files.c.release_id)
        .where(
            package_files.c.project_id == project,
            package_files.c.filename == filename,
            package_files.c.deleted_at.is_(None),
        )
    ).one_or_none()
    if row is None:
        raise not_found(f"There is no file `{filename[:250]}` in this project")
    return row


def _answer(conn: sa.Connection, project: sa.Row[Any], file: sa.Row[Any]) -> FileSignatures:
    rows = conn.execute(
        sa.select(file_signatures.c.envelope)
        .where(file_signatures.c.file_id == file.id)
        .order_by(file_signatures.c.created_at, file_signatures.c.keyid)
    ).scalars()
    envelopes: list[Envelope] = list(rows)
    return {
        "filename": file.filename,
        "sha256": file.sha256,
        "publisher": project.owner,
        "signatures": envelopes,
    }


_PATH = "/v1/plugins/{name}/files/{filename}/signatures"
OPERATIONS = (
    Operation("GET", _PATH, list_signatures, "public", {200: FileSignatures}),
    Operation(
        "POST",
        _PATH,
        add_signature,
        "publish",
        {200: FileSignatures, 201: FileSignatures},
        body=EnvelopeBody,
        limit=dsse.MAX_ENVELOPE,
    ),
)
