"""Advisories: what is known to be wrong with which versions, asked and answered as OSV.dev does, so that its clients work.

Source: https://google.github.io/osv.dev/api/
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any
from urllib.parse import unquote

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.answers import Batch, BatchResult, Vulnerabilities, Vulnerability
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.api.osv_document import MAX_DOCUMENT, Advisory, package_key
from llmasos_registry.server.api.osv_versions import PYPI, is_affected
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_api import advisories, advisory_packages
from llmasos_registry.server.failures import bad_request, conflict, not_found
from llmasos_registry.server.responses import json_response

#: Advisories on one page of an answer.
PAGE = 100
#: Queries in one batch, as at OSV.dev.
MAX_QUERIES = 1000
#: package-url type -> ecosystem.
_PURL_TYPES = {"pypi": PYPI, "llmasos": "llmasos", "npm": "npm", "cargo": "crates.io"}


class QueryPackage(BaseModel):
    """A package by name and ecosystem, or by package URL."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[Text, Field(max_length=200)] | None = None
    ecosystem: Annotated[Text, Field(max_length=40)] | None = None
    purl: Annotated[Text, Field(max_length=500)] | None = None


class VulnerabilityQuery(Body):
    """A package, with or without a version; or a commit, which matches nothing here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    package: QueryPackage | None = None
    version: Annotated[Text, Field(max_length=200)] | None = None
    commit: Annotated[Text, Field(max_length=64)] | None = None
    page_token: Annotated[Text, Field(max_length=200)] | None = None


class BatchQuery(Body):
    """Several queries; answers come in the same order."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    queries: Annotated[list[VulnerabilityQuery], Field(max_length=MAX_QUERIES)]


class Asked(BaseModel):
    """One query, understood."""

    key: tuple[str, str] | None
    version: str | None
    after: str


def query(request: Request) -> Response:
    """The advisories that affect a version of a package; all of the package's without a version."""
    asked = _understand(read_body(request, VulnerabilityQuery))
    with request.registry.db.read() as conn:
        ((found, token),) = _answers(conn, [asked])
    answer: Vulnerabilities = {}
    if found:
        answer["vulns"] = found
    if token is not None:
        answer["next_page_token"] = token
    return json_response(answer)


def query_batch(request: Request) -> Response:
    """Ids of the advisories for each of several queries."""
    asked = [_understand(one) for one in read_body(request, BatchQuery).queries]
    with request.registry.db.read() as conn:
        answers = _answers(conn, asked)
    results: list[BatchResult] = []
    for found, token in answers:
        result: BatchResult = {}
        if found:
            result["vulns"] = [{"id": one["id"], "modified": one["modified"]} for one in found]
        if token is not None:
            result["next_page_token"] = token
        results.append(result)
    answer: Batch = {"results": results}
    return json_response(answer)


def show(request: Request) -> Response:
    """One advisory, withdrawn or not."""
    with request.registry.db.read() as conn:
        return json_response(_document(conn, request.params["id"]))


def create(request: Request) -> Response:
    """Publish an advisory. An administrator's business."""
    advisory = read_body(request, Advisory)
    with request.registry.db.write() as conn:
        known = conn.execute(sa.select(advisories.c.id).where(advisories.c.id == advisory.id)).first()
        if known is not None:
            raise conflict(f"There is an advisory {advisory.id}", hint="PUT replaces it")
        document = store_advisory(conn, request.caller, advisory)
    return json_response(document, 201)


def replace(request: Request) -> Response:
    """Publish an advisory or a new state of one; ``withdrawn`` takes it back. An administrator's business."""
    advisory = read_body(request, Advisory)
    if advisory.id != request.params["id"]:
        raise bad_request(f"The address is of {request.params['id']!a}, the advisory is {advisory.id}")
    with request.registry.db.write() as conn:
        known = conn.execute(sa.select(advisories.c.id).where(advisories.c.id == advisory.id)).first()
        document = store_advisory(conn, request.caller, advisory)
    return json_response(document, 201 if known is None else 200)


def store_advisory(conn: sa.Connection, caller: Caller, advisory: Advisory) -> Vulnerability:
    """Keep an advisory, in place of the one of that id: the document as it is answered from now on."""
    now = utcnow().replace(microsecond=0)
    document: Vulnerability = json.loads(advisory.model_dump_json(exclude_none=True))
    before = conn.execute(
        sa.select(advisories.c.document).where(advisories.c.id == advisory.id)
    ).scalar_one_or_none()
    document["modified"] = rfc3339(now)
    document.setdefault("published", before["published"] if before else rfc3339(now))
    values = {"document": document, "modified_at": now, "withdrawn_at": advisory.withdrawn}
    if before is None:
        conn.execute(advisories.insert().values(id=advisory.id, **values))
    else:
        conn.execute(advisories.update().where(advisories.c.id == advisory.id).values(values))
    conn.execute(advisory_packages.delete().where(advisory_packages.c.advisory_id == advisory.id))
    for ecosystem, name in sorted(advisory.packages()):
        conn.execute(
            advisory_packages.insert().values(advisory_id=advisory.id, ecosystem=ecosystem, name=name)
        )
    action = "advisory.withdraw" if advisory.withdrawn else "advisory.publish"
    audit(conn, caller, action, advisory.id, {"packages": [name for _, name in sorted(advisory.packages())]})
    emit(conn, action, advisory.id, {"id": advisory.id, "summary": advisory.summary})
    next_serial(conn)
    return document


def withdraw_advisory(conn: sa.Connection, caller: Caller, number: str) -> Vulnerability:
    """Take an advisory back: it stays readable and is no longer an answer to queries. Raises Failure 404."""
    advisory = Advisory.model_validate(_document(conn, number))
    if advisory.withdrawn is not None:
        return _document(conn, number)
    now = utcnow().replace(microsecond=0)
    return store_advisory(conn, caller, advisory.model_copy(update={"withdrawn": now}))


def list_advisories(conn: sa.Connection) -> list[Vulnerability]:
    """All advisories, withdrawn ones too, the last change first."""
    order = (advisories.c.modified_at.desc(), advisories.c.id)
    return list(conn.execute(sa.select(advisories.c.document).order_by(*order)).scalars())


def _document(conn: sa.Connection, number: str) -> Vulnerability:
    document: Vulnerability | None = conn.execute(
        sa.select(advisories.c.document).where(advisories.c.id == number[:80])
    ).scalar_one_or_none()
    if document is None:
        raise not_found(f"There is no advisory `{number[:80]}`")
    return document


def _understand(sent: VulnerabilityQuery) -> Asked:
    """Which package and version is meant. Raises Failure 400."""
    after = _after(sent.page_token)
    package, version = sent.package, sent.version
    if package is None:
        if sent.commit is None:
            raise bad_request("a query names a package or a commit")
        return Asked(key=None, version=None, after=after)
    if package.purl is not None:
        if package.name is not None or package.ecosystem is not None:
            raise bad_request("a package has a purl, or a name and an ecosystem")
        key, named = _read_purl(package.purl)
        if named is not None and version is not None:
            raise bad_request("the version is in the purl already")
        return Asked(key=key, version=version or named or None, after=after)
    if not package.name or not package.ecosystem:
        raise bad_request("a package has a name and an ecosystem, or a purl")
    return Asked(key=package_key(package.ecosystem, package.name), version=version or None, after=after)


def _read_purl(purl: str) -> tuple[tuple[str, str] | None, str | None]:
    """((ecosystem, name), version) of ``pkg:type/namespace/name@version?qualifiers#subpath``. Raises Failure 400."""
    scheme, _, rest = purl.partition(":")
    path = rest.partition("#")[0].partition("?")[0].strip("/")
    kind, _, named = path.partition("/")
    name, at, version = named.rpartition("@")
    if not at:
        name, version = named, ""
    if scheme != "pkg" or not kind or not name:
        raise bad_request(f"{purl[:100]!a} is no package URL")
    ecosystem = _PURL_TYPES.get(kind.lower())
    if ecosystem is None:
        return None, unquote(version) or None
    plain = unquote(name)
    if "\x00" in plain:
        raise bad_request(f"{purl[:100]!a} is no package URL")
    return package_key(ecosystem, plain), unquote(version) or None


def _answers(conn: sa.Connection, asked: Sequence[Asked]) -> list[tuple[list[Vulnerability], str | None]]:
    """(advisories, token of the next page) for each query, in one pass over the database."""
    known = _known(conn, {one.key for one in asked if one.key is not None})
    answers = []
    for one in asked:
        found = [
            document
            for document in known.get(one.key, ())
            if document["id"] > one.after and _hits(document, one)
        ]
        token = _token(found[PAGE - 1]["id"]) if len(found) > PAGE else None
        answers.append((found[:PAGE], token))
    return answers


def _known(
    conn: sa.Connection, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str] | None, list[Vulnerability]]:
    """The advisories of packages that were not withdrawn, by id."""
    found: dict[tuple[str, str] | None, list[Vulnerability]] = {}
    names = sorted({name for _, name in keys})
    for start in range(0, len(names), 500):
        rows = conn.execute(
            sa.select(advisory_packages.c.ecosystem, advisory_packages.c.name, advisories.c.document)
            .join(advisories, advisories.c.id == advisory_packages.c.advisory_id)
            .where(
                advisory_packages.c.name.in_(names[start : start + 500]), advisories.c.withdrawn_at.is_(None)
            )
        )
        for row in rows:
            found.setdefault((row.ecosystem, row.name), []).append(row.document)
    for documents in found.values():
        documents.sort(key=lambda document: document["id"])
    return found


def _hits(document: Vulnerability, asked: Asked) -> bool:
    affected: list[dict[str, Any]] = [
        part
        for part in document["affected"]
        if package_key(part["package"]["ecosystem"], part["package"]["name"]) == asked.key
    ]
    return asked.version is None or any(is_affected(part, asked.version) for part in affected)


def _token(number: str) -> str:
    return base64.urlsafe_b64encode(number.encode()).decode()


def _after(token: str | None) -> str:
    if not token:
        return ""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        raise bad_request("page_token is none of this registry") from None


OPERATIONS = (
    Operation("POST", "/v1/query", query, "public", {200: Vulnerabilities}, body=VulnerabilityQuery),
    Operation("POST", "/v1/querybatch", query_batch, "public", {200: Batch}, body=BatchQuery, limit=1 << 20),
    Operation("GET", "/v1/vulns/{id}", show, "public", {200: Vulnerability}),
    Operation(
        "POST",
        "/v1/advisories",
        create,
        "admin",
        {201: Vulnerability},
        body=Advisory,
        limit=MAX_DOCUMENT,
    ),
    Operation(
        "PUT",
        "/v1/advisories/{id}",
        replace,
        "admin",
        {200: Vulnerability, 201: Vulnerability},
        body=Advisory,
        limit=MAX_DOCUMENT,
    ),
)
