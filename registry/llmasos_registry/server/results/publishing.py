"""Publishing a record, its samples, and attestations; reading them; taking a record back."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from anyio import to_thread
from pydantic import Field
from starlette.responses import Response

from llmasos.contracts.fingerprint import canonical_digest
from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.quota import check_quota
from llmasos_registry.server.api.access import find_account
from llmasos_registry.server.api.answers import AttestationEntry, EvalRecord, EvalRecordDocument, EvalSamples
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.api.publisher_keys import active_keys
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_results import (
    eval_attestations,
    eval_records,
    eval_samples,
    eval_scores,
)
from llmasos_registry.server.db.tables_store import blobs
from llmasos_registry.server.failures import conflict, forbidden, not_found
from llmasos_registry.server.hub.request_body import check_disk, drain
from llmasos_registry.server.responses import blob_response, json_response
from llmasos_registry.server.results import document
from llmasos_registry.server.results.samples import read_samples
from llmasos_registry.server.results.standing import attestations_of, state_of
from llmasos_registry.server.store.blobs import record_blob

#: Bytes of a record, or of an attestation, as JSON.
MAX_DOCUMENT = 32 << 20
#: Bytes of a task's samples as they travel.
MAX_SAMPLES = 512 << 20


class RecordBody(Body):
    """A record and its signature."""

    account: Text = Field(max_length=96, description="who publishes it: you, or an organisation")
    record: dict[str, Any]
    signature: dict[str, Any] = Field(description="DSSE envelope, as `llmasos eval sign` writes it")


class AttestationBody(Body):
    """An attestation and its signature."""

    account: Text = Field(max_length=96, description="who attests: you, or an organisation")
    attestation: dict[str, Any]
    signature: dict[str, Any]


class WithdrawBody(Body):
    """Why a record is taken back."""

    reason: Text = Field(min_length=1, max_length=2000)


def publish_record(request: Request) -> Response:
    """Publish a signed record. The same again answers 200; a record is never changed."""
    body, registry = read_body(request, RecordBody), request.registry
    record = document.read_record(body.record)
    with registry.db.read() as conn:
        account = account_to_publish(conn, request.caller, body.account)
        keys = active_keys(conn, account.id)
    keyid = document.check_signature(body.signature, keys, body.record, document.RECORD_PREDICATE)
    raw = json.dumps(body.record, ensure_ascii=False, separators=(",", ":")).encode()
    with registry.db.write() as conn:
        account = account_to_publish(conn, request.caller, body.account)
        known = conn.execute(
            sa.select(eval_records.c.owner_id).where(eval_records.c.digest == record.digest)
        ).scalar_one_or_none()
        if known is not None and known != account.id:
            raise conflict(
                f"The record {record.digest} was published by another account", hint="attest it instead"
            )
        if known is None:
            check_quota(conn, registry.settings, account.id, len(raw))
            stored = registry.store.put(raw)
            record_blob(conn, stored)
            _insert(conn, request.caller, account.id, record, keyid, body.signature, stored.sha256, len(raw))
        answer = _answer(conn, record.digest)
    return json_response(answer, 200 if known is not None else 201)


def get_record(request: Request) -> Response:
    """A record with its signature, what it was found to be, and which samples are here."""
    registry, digest = request.registry, request.params["digest"]
    with registry.db.read() as conn:
        answer = _answer(conn, digest)
        row = _row(conn, digest)
    value = json.loads(b"".join(registry.store.pieces(row.sha256)))
    whole: EvalRecordDocument = {**answer, "record": value, "signature": row.envelope}
    return json_response(whole)


async def put_samples(request: Request) -> Response:
    """The samples of a task, gzip of JSON lines: they must be those that the record names."""
    registry, digest, task = request.registry, request.params["digest"], request.params["task"]

    def admitted() -> tuple[int, document.TaskPart]:
        with registry.db.read() as conn:
            row = _to_change(conn, request.caller, digest)
        record = document.read_record(json.loads(b"".join(registry.store.pieces(row.sha256))))
        found = next((one for one in record.tasks if one.name == task), None)
        if found is None:
            raise not_found(f"The record has no task `{task[:200]}`")
        announced = int(request.headers.get("content-length") or 0)
        with registry.db.read() as conn:
            check_quota(conn, registry.settings, row.owner_id, announced)
        check_disk(registry.store, announced)
        return row.owner_id, found

    owner, section = await to_thread.run_sync(admitted)
    writer = await to_thread.run_sync(registry.store.writer)
    try:
        size = await drain(request, writer.write, MAX_SAMPLES, "the samples")
        items, documents = await to_thread.run_sync(read_samples, writer.file(), section)
        stored = await to_thread.run_sync(writer.commit)
    finally:
        await to_thread.run_sync(writer.__exit__, None, None, None)

    def keep() -> EvalSamples:
        kept = registry.store.put(items)
        with registry.db.write() as conn:
            row = _to_change(conn, request.caller, digest)
            check_quota(conn, registry.settings, owner, size)
            record_blob(conn, stored)
            record_blob(conn, kept)
            same = (eval_samples.c.record == digest) & (eval_samples.c.task == task)
            conn.execute(eval_samples.delete().where(same))
            conn.execute(
                eval_samples.insert().values(
                    record=digest,
                    task=task,
                    sha256=stored.sha256,
                    bytes=size + len(items),
                    items_sha256=kept.sha256,
                    documents=documents,
                )
            )
            audit(conn, request.caller, "record.samples", row.digest, {"task": task, "sha256": stored.sha256})
        return {"task": task, "documents": documents, "bytes": size}

    return json_response(await to_thread.run_sync(keep), 201)


def get_samples(request: Request) -> Response:
    """The samples of a task as they were sent: gzip of JSON lines."""
    digest, task = request.params["digest"], request.params["task"]
    with request.registry.db.read() as conn:
        _row(conn, digest)
        row = conn.execute(
            sa.select(eval_samples).where(eval_samples.c.record == digest, eval_samples.c.task == task)
        ).one_or_none()
        if row is None:
            raise not_found("The samples of this task were not published")
        size = conn.execute(sa.select(blobs.c.size).where(blobs.c.sha256 == row.sha256)).scalar_one()
    return blob_response(
        request, row.sha256, size, etag=row.sha256, media_type="application/gzip", filename="samples.jsonl.gz"
    )


def add_attestation(request: Request) -> Response:
    """Say what came out when documents of a record were computed again. Anybody with a registered key may."""
    body, registry, digest = read_body(request, AttestationBody), request.registry, request.params["digest"]
    with registry.db.read() as conn:
        account = account_to_publish(conn, request.caller, body.account)
        row, keys = _row(conn, digest), active_keys(conn, account.id)
    record = document.read_record(json.loads(b"".join(registry.store.pieces(row.sha256))))
    scored = sum(max((score.n for score in task.scores), default=0) for task in record.tasks)
    found = document.read_attestation(body.attestation, digest, row.samples_digest, scored)
    keyid = document.check_signature(body.signature, keys, body.attestation, document.ATTESTATION_PREDICATE)
    name = canonical_digest(body.attestation)
    raw = json.dumps(body.attestation, ensure_ascii=False, separators=(",", ":")).encode()
    with registry.db.write() as conn:
        account = account_to_publish(conn, request.caller, body.account)
        known = conn.execute(
            sa.select(eval_attestations.c.digest).where(eval_attestations.c.digest == name)
        ).first()
        if known is None:
            stored = registry.store.put(raw)
            record_blob(conn, stored)
            conn.execute(
                eval_attestations.insert().values(
                    digest=name,
                    record=digest,
                    account_id=account.id,
                    keyid=keyid,
                    verdict=found.verdict,
                    kind=found.kind,
                    documents=found.documents,
                    sample=found.sample,
                    agreed=found.agreed,
                    refuted=len(found.refuted),
                    envelope=body.signature,
                    sha256=stored.sha256,
                    created_at=utcnow(),
                )
            )
            detail = {"account": account.name, "attestation": name, "verdict": found.verdict, "keyid": keyid}
            audit(conn, request.caller, "record.attest", digest, detail)
            emit(conn, "record.attest", account.name, {"record": digest, **detail})
            next_serial(conn)
        answer: AttestationEntry = next(
            entry for entry in attestations_of(conn, [digest])[digest] if entry["digest"] == name
        )
    return json_response(answer, 200 if known is not None else 201)


def withdraw_record(request: Request) -> Response:
    """Take a record off the leaderboards. It can still be read, with the reason."""
    body, digest = read_body(request, WithdrawBody), request.params["digest"]
    with request.registry.db.write() as conn:
        row = _to_change(conn, request.caller, digest)
        if row.withdrawn_at is None:
            conn.execute(
                eval_records.update()
                .where(eval_records.c.digest == digest)
                .values(withdrawn_at=utcnow(), withdrawn_reason=body.reason)
            )
            audit(conn, request.caller, "record.withdraw", digest, {"reason": body.reason})
            next_serial(conn)
        answer = _answer(conn, digest)
    return json_response(answer)


def account_to_publish(conn: sa.Connection, caller: Caller, name: str) -> sa.Row[Any]:
    """The row of an account in whose name the caller may publish results. Raises Failure 404 and 403."""
    account = find_account(conn, name)
    if not caller.may_write(account.name, f"{account.name}/results", "publish"):
        raise forbidden(f"You may not publish in the name of `{account.name}`")
    return account


def _insert(
    conn: sa.Connection,
    caller: Caller,
    owner: int,
    record: document.RecordPart,
    keyid: str,
    envelope: dict[str, Any],
    sha256: str,
    size: int,
) -> None:
    conn.execute(
        eval_records.insert().values(
            digest=record.digest,
            owner_id=owner,
            publisher=caller.name,
            model=record.model.ref,
            model_digest=record.model.digest,
            samples_digest=record.samples_digest,
            keyid=keyid,
            envelope=envelope,
            sha256=sha256,
            bytes=size,
            created_at=utcnow(),
        )
    )
    rows = []
    for task in record.tasks:
        for score in task.scores:
            value = document.finite(score.value)
            if value is None:
                continue  # what is no number has no place among numbers
            rows.append(
                {
                    "record": record.digest,
                    "task": task.name,
                    "metric": score.metric,
                    "filter": score.filter,
                    "comparable": document.comparable(record, task, score)[0],
                    "value": value,
                    "stderr": document.finite(score.stderr),
                    "ci_low": document.finite(score.ci_low),
                    "ci_high": document.finite(score.ci_high),
                    "n": score.n,
                    "higher_is_better": score.higher_is_better,
                }
            )
    if rows:
        conn.execute(eval_scores.insert(), rows)
    audit(conn, caller, "record.publish", record.digest, {"model": record.model.ref, "keyid": keyid})
    emit(conn, "record.publish", record.model.ref, {"record": record.digest, "model": record.model.ref})
    next_serial(conn)


def _row(conn: sa.Connection, digest: str) -> sa.Row[Any]:
    row = conn.execute(
        sa.select(eval_records, accounts.c.name.label("owner"))
        .join(accounts, accounts.c.id == eval_records.c.owner_id)
        .where(eval_records.c.digest == digest)
    ).one_or_none()
    if row is None:
        raise not_found(f"There is no record {digest[:64]}")
    return row


def _to_change(conn: sa.Connection, caller: Caller, digest: str) -> sa.Row[Any]:
    row = _row(conn, digest)
    account_to_publish(conn, caller, row.owner)
    return row


def _answer(conn: sa.Connection, digest: str) -> EvalRecord:
    row = _row(conn, digest)
    found = attestations_of(conn, [digest])[digest]
    samples = conn.execute(
        sa.select(eval_samples.c.task, eval_samples.c.documents)
        .where(eval_samples.c.record == digest)
        .order_by(eval_samples.c.task)
    )
    return {
        "digest": digest,
        "owner": row.owner,
        "publisher": row.publisher,
        "model": row.model,
        "keyid": row.keyid,
        "created_at": rfc3339(row.created_at),
        "withdrawn": row.withdrawn_reason,
        "state": state_of(found),
        "attestations": found,
        "samples": {one.task: one.documents for one in samples},
    }


_BASE = "/v1/records"
_ONE = f"{_BASE}/{{digest}}"
OPERATIONS = (
    Operation(
        "POST",
        _BASE,
        publish_record,
        "publish",
        {200: EvalRecord, 201: EvalRecord},
        body=RecordBody,
        limit=MAX_DOCUMENT,
    ),
    Operation("GET", _ONE, get_record, "public", {200: EvalRecordDocument}),
    Operation("POST", f"{_ONE}/withdraw", withdraw_record, "publish", {200: EvalRecord}, body=WithdrawBody),
    Operation(
        "POST",
        f"{_ONE}/attestations",
        add_attestation,
        "publish",
        {200: AttestationEntry, 201: AttestationEntry},
        body=AttestationBody,
        limit=MAX_DOCUMENT,
    ),
    Operation("PUT", f"{_ONE}/samples/{{task}}", put_samples, "publish", {201: EvalSamples}, streams=True),
    Operation("GET", f"{_ONE}/samples/{{task}}", get_samples, "public", {200: None}, weight="file"),
)
