"""Git LFS: where to send large files and where to get them. Addresses are signed, because clients send no token to them.

Source: git-lfs docs/api/batch.md and docs/api/basic-transfers.md; the multipart transfer is the Hub's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.quota import check_quota
from llmasos_registry.server.accounts.tokens import caller_of_token
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.db.tables_store import uploads
from llmasos_registry.server.failures import Failure, bad_request
from llmasos_registry.server.hub import signed_claims
from llmasos_registry.server.hub.blob_rights import grant, held, usable
from llmasos_registry.server.hub.repository import Repo, check_write, find_repo, repo_by_id, requested_repo
from llmasos_registry.server.responses import blob_response, json_response
from llmasos_registry.server.routing import Handler, Route

MEDIA_TYPE = "application/vnd.git-lfs+json"
#: Objects of one batch; clients send 256, git-lfs 100.
MAX_OBJECTS = 1000
#: Parts of one upload. A larger file gets larger parts.
MAX_PARTS = 5000

_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of(value: Any) -> str:
    """A sha256 out of a request. Raises Failure 400."""
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise bad_request("an oid is 64 lower-case hexadecimal digits")
    return value


def batch(kind: str) -> Handler:
    """The handler of POST /{repo}.git/info/lfs/objects/batch for models or datasets."""

    def handler(request: Request) -> Response:
        body = request.json_object()
        operation = body.get("operation")
        if operation not in ("upload", "download"):
            raise bad_request("`operation` is upload or download")
        if body.get("hash_algo", "sha256") != "sha256":
            raise Failure(409, "Objects are named by sha256")
        objects = _objects(body.get("objects"))
        transfers = body.get("transfers") or ["basic"]
        if operation == "download":
            return _download(request, kind, objects)
        return _upload(request, kind, objects, multipart="multipart" in transfers)

    return handler


def _objects(value: Any) -> dict[str, int]:
    if not isinstance(value, list) or len(value) > MAX_OBJECTS:
        raise bad_request(f"`objects` is a list of at most {MAX_OBJECTS}")
    found: dict[str, int] = {}
    for item in value:
        size = item.get("size") if isinstance(item, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise bad_request("each object has an oid and a size in bytes")
        found[sha256_of(item.get("oid"))] = size
    return found


def _upload(request: Request, kind: str, objects: Mapping[str, int], *, multipart: bool) -> Response:
    """Objects without actions are there, and this caller may know it."""
    registry = request.registry
    caller = request.caller
    limit = registry.settings.max_blob
    with registry.db.write() as conn:
        repo = requested_repo(conn, request, "write", kind)
        there = usable(conn, caller, repo, objects)
        grant(conn, repo.id, there)
        missing = {oid: size for oid, size in objects.items() if there.get(oid) != size and size <= limit}
        begun = _begun(conn, repo.owner_id, missing)
        check_quota(conn, registry.settings, repo.owner_id, sum(missing.values()) + begun)
        chunk = registry.settings.multipart_chunk
        # One answer names one kind of transfer, and clients take single parts under either name.
        in_parts = multipart and any(size > chunk for size in missing.values())
        answers: list[dict[str, Any]] = []
        for oid, size in objects.items():
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if size > limit:
                answer["error"] = {"code": 422, "message": f"files are at most {limit} bytes here"}
            elif oid in there and there[oid] != size:
                answer["error"] = {"code": 422, "message": f"this object has {there[oid]} bytes"}
            elif oid in missing:
                upload = (
                    _parts(conn, request, repo, oid, size)
                    if in_parts and size > chunk
                    else {"href": _address(request, "lfs-put", "put", repo, oid=oid, size=size)}
                )
                verify = {"href": _address(request, "lfs-verify", "verify", repo, oid=oid, size=size)}
                answer["authenticated"] = True
                answer["actions"] = {"upload": upload, "verify": verify}
            answers.append(answer)
    return _answer({"transfer": "multipart" if in_parts else "basic", "objects": answers})


def _begun(conn: sa.Connection, owner: int, missing: Mapping[str, int]) -> int:
    """Bytes of the owner's other uploads in parts: what lies in the staging area counts too, until it is swept."""
    rows = conn.execute(
        sa.select(uploads.c.sha256, uploads.c.size)
        .join(repos, repos.c.id == uploads.c.repo_id)
        .where(repos.c.owner_id == owner)
    )
    return sum(row.size for row in rows if row.sha256 not in missing)


def _parts(conn: sa.Connection, request: Request, repo: Repo, oid: str, size: int) -> dict[str, Any]:
    """An upload in parts: addresses of the parts by number, and of its completion. The same upload goes on if there is one."""
    settings = request.registry.settings
    chunk = max(settings.multipart_chunk, ceil(size / MAX_PARTS))
    identity = (
        uploads.c.repo_id == repo.id,
        uploads.c.account_id == request.caller.account,
        uploads.c.sha256 == oid,
        uploads.c.size == size,
        uploads.c.chunk == chunk,
    )
    upload = conn.execute(sa.select(uploads.c.id).where(*identity)).scalar()
    if upload is None:
        upload = signed_claims.new_id()
        conn.execute(
            uploads.insert().values(
                id=upload,
                repo_id=repo.id,
                account_id=request.caller.account,
                sha256=oid,
                size=size,
                chunk=chunk,
                created_at=utcnow(),
            )
        )
    header = {"chunk_size": str(chunk)}
    for number in range(1, ceil(size / chunk) + 1):
        length = min(chunk, size - (number - 1) * chunk)
        header[f"{number:05d}"] = _address(
            request, "lfs-part", "parts", repo, upload=upload, number=number, size=length
        )
    href = _address(request, "lfs-complete", "complete", repo, upload=upload, oid=oid, size=size)
    return {"href": href, "header": header}


def _address(request: Request, purpose: str, path: str, repo: Repo, **values: str | int) -> str:
    settings, secret = request.registry.settings, request.registry.secret
    token = signed_claims.token_of(request.caller)
    claim = signed_claims.sign(secret, purpose, repo.id, token, settings.url_lifetime, **values)
    return f"{request.root}/api/lfs/{path}?{signed_claims.PARAMETER}={claim}"


def _download(request: Request, kind: str, objects: Mapping[str, int]) -> Response:
    """For git-lfs: addresses of what the repository holds in its commits."""
    registry = request.registry
    with registry.db.read() as conn:
        repo = requested_repo(conn, request, "content", kind)
        there = held(conn, repo, objects, committed=True)
    answers: list[dict[str, Any]] = []
    for oid, size in objects.items():
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if there.get(oid) == size:
            lifetime = registry.settings.url_lifetime
            token = request.caller.token or 0
            claim = signed_claims.sign(
                registry.secret, "lfs-get", repo.id, token, lifetime, oid=oid, size=size
            )
            href = f"{request.root}/api/lfs/get?{signed_claims.PARAMETER}={claim}"
            answer["authenticated"] = True
            answer["actions"] = {"download": {"href": href, "expires_in": lifetime}}
        else:
            answer["error"] = {"code": 404, "message": "the repository has no such object"}
        answers.append(answer)
    return _answer({"transfer": "basic", "objects": answers})


def get_object(request: Request) -> Response:
    """GET of a signed address: the content."""
    registry = request.registry
    values = signed_claims.read(registry.secret, "lfs-get", signed_claims.sent(request))
    with registry.db.read() as conn:
        try:
            repo = repo_by_id(conn, values["r"])
        except LookupError:
            raise Failure(404, "The repository was deleted", code="RepoNotFound") from None
        # Asked again: it may have become private or gated, or the token have been revoked, since the address was made.
        address = request.caller.address
        caller = caller_of_token(conn, values["t"], utcnow(), address) if values["t"] else request.caller
        find_repo(conn, repo.kind, repo.full_name, caller, "content")
        if values["oid"] not in held(conn, repo, [values["oid"]], committed=True):
            raise Failure(404, "The repository has no such object any more")
    return blob_response(request, values["oid"], values["size"], etag=values["oid"])


def verify(request: Request) -> Response:
    """POST of `{oid, size}` after an upload: whether it arrived."""
    registry = request.registry
    body = request.json_object()
    with registry.db.read() as conn:
        claim = signed_claims.check(
            registry, conn, "lfs-verify", signed_claims.sent(request), request.caller.address
        )
        oid, size = claim.values["oid"], claim.values["size"]
        if body.get("oid") != oid or body.get("size") != size:
            raise bad_request("this address verifies another object")
        found = held(conn, claim.repo, [oid])
    if found.get(oid) != size:
        raise Failure(404, "The object was not uploaded", hint="start the upload again")
    return _answer({})


def duplicate(request: Request) -> Response:
    """POST /api/{kind}/{repo}/lfs-files/duplicate: let another repository reference files of this one, without copies."""
    body = request.json_object()
    target, files = body.get("target"), body.get("files")
    if (
        not isinstance(target, dict)
        or not isinstance(target.get("name"), str)
        or target.get("type") not in ("model", "dataset")
        or not isinstance(files, list)
        or len(files) > MAX_OBJECTS
    ):
        raise bad_request("the body holds `target` (type, name) and `files` (a list)")
    digests = [sha256_of(file.get("sha256") if isinstance(file, dict) else None) for file in files]
    registry = request.registry
    with registry.db.write() as conn:
        source = requested_repo(conn, request, "content")
        goal = _target(conn, target["type"], target["name"], request.caller)
        there = held(conn, source, digests, committed=True)
        check_quota(conn, registry.settings, goal.owner_id, sum(there.values()))
        grant(conn, goal.id, there)
    failed = [
        {"sha256": digest, "error": "the repository has no such file"}
        for digest in digests
        if digest not in there
    ]
    return json_response({"success": not failed, "failed": failed})


def _target(conn: sa.Connection, kind: str, name: str, caller: Caller) -> Repo:
    from llmasos_registry.server.hub.repository import Moved

    try:
        return find_repo(conn, kind, name, caller, "write")
    except Moved as moved:
        check_write(moved.repo, caller)
        return moved.repo


def _answer(value: Mapping[str, Any]) -> Response:
    return json_response(value, media_type=MEDIA_TYPE)


ROUTES = (
    Route("POST", "/datasets/{repo}.git/info/lfs/objects/batch", batch("dataset"), "public", body=1 << 20),
    Route("POST", "/{repo}.git/info/lfs/objects/batch", batch("model"), "public", body=1 << 20),
    Route("POST", "/api/{kind:repos}/{repo}/lfs-files/duplicate", duplicate, "write", body=1 << 20),
    Route("GET", "/api/lfs/get", get_object, "signed", weight="file"),
    Route("POST", "/api/lfs/verify", verify, "signed", body=4096),
)
