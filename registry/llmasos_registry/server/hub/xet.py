"""The part of the Xet protocol that clients need to upload: xorbs are kept until a shard says what files they make.

Downloads never need Xet: no answer of this registry names a Xet hash. Source: the Xet protocol specification (api, auth,
upload-protocol) and huggingface/xet-core, version of 2026-08.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread
from starlette.responses import Response

from llmasos_registry.server.accounts.quota import check_quota
from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.failures import Failure, bad_request, not_supported, unauthorized
from llmasos_registry.server.hub import signed_claims
from llmasos_registry.server.hub.repository import requested_repo
from llmasos_registry.server.hub.request_body import drain
from llmasos_registry.server.hub.signed_claims import Claim
from llmasos_registry.server.hub.xet_flatten import Flattener
from llmasos_registry.server.hub.xet_format import (
    MAX_SHARD,
    MAX_XORB_BODY,
    XetRefused,
    XorbReader,
    shard_files,
)
from llmasos_registry.server.hub.xet_index import (
    STAGING,
    add_xorb,
    has_xorb,
    space,
    staged_bytes,
    staged_path,
)
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

#: How long a write token works; clients fetch the next in time.
TOKEN_LIFETIME = 3600

_HASH = re.compile(r"[0-9a-f]{64}")


def write_token(request: Request) -> Response:
    """GET /api/{kind}/{repo}/xet-write-token/{rev}: a token for this repository and caller, and where to use it."""
    if request.query_params.get("create_pr"):
        raise not_supported("pull requests; commit to a branch of your own")
    registry = request.registry
    token = signed_claims.token_of(request.caller)
    with registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        account = request.caller.account
        if account is None:
            raise unauthorized()
        name = space(conn, registry.store, account)
    signed = signed_claims.sign(registry.secret, "xet-write", repo.id, token, TOKEN_LIFETIME, account=account)
    expires = int(time.time()) + TOKEN_LIFETIME
    address = f"{request.root}/api/xet/{name}"
    return json_response(
        {"accessToken": signed, "exp": expires, "casUrl": address},
        headers={
            "X-Xet-Access-Token": signed,
            "X-Xet-Token-Expiration": str(expires),
            "X-Xet-Cas-Url": address,
            "Cache-Control": "no-store",
        },
    )


def _check(request: Request) -> Claim:
    """Whose token this is. It works only in the space of the account that it was made for."""
    scheme, _, token = (request.headers.get("authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized("This needs a Xet write token")
    registry = request.registry
    with registry.db.read() as conn:
        try:
            claim = signed_claims.check(registry, conn, "xet-write", token.strip(), request.caller.address)
        except Failure as failure:
            # Clients fetch another token on 401, and only then.
            raise unauthorized(failure.message) if failure.status == 403 else failure from None
    account, _, epoch = request.params["space"].partition("-")
    if account != str(claim.values["account"]) or not epoch.isdecimal():
        raise unauthorized("This Xet token is for another address")
    return claim


async def post_xorb(request: Request) -> Response:
    """POST of a xorb: every chunk is unpacked and checked, and the whole must have the hash in the address."""
    registry = request.registry
    claim = await to_thread.run_sync(_check, request)
    name = request.params["hash"]
    if _HASH.fullmatch(name) is None:
        raise bad_request("a xorb is named by 64 lower-case hexadecimal digits")
    incoming = await to_thread.run_sync(_StagedXorb, registry, claim)
    try:
        await drain(request, incoming.write, MAX_XORB_BODY, "the xorb")
        inserted = await to_thread.run_sync(incoming.keep, name)
    finally:
        await to_thread.run_sync(incoming.close)
    return json_response({"was_inserted": inserted})


class _StagedXorb:
    """The content of a xorb on its way into the staging area."""

    def __init__(self, registry: Registry, claim: Claim) -> None:
        self._registry = registry
        self._account: int = claim.values["account"]
        with registry.db.read() as conn:
            waiting = staged_bytes(conn, self._account)
            check_quota(conn, registry.settings, claim.repo.owner_id, waiting + 1)
        self._reader = XorbReader()
        folder = registry.store.staging(STAGING)
        self._path: Path = folder / f"incoming.{os.urandom(8).hex()}"
        self._file: BinaryIO = open(self._path, "xb")  # noqa: SIM115 - closed in close()

    def write(self, piece: bytes) -> None:
        """The next bytes of the request. Raises Failure 400."""
        try:
            for chunk in self._reader.feed(piece):
                self._file.write(chunk)
        except XetRefused as error:
            raise bad_request(f"not a xorb: {error}") from None

    def keep(self, name: str) -> bool:
        """Make durable and note; False when it was there. Raises Failure 400 when it is another xorb."""
        try:
            found = self._reader.finish()
        except XetRefused as error:
            raise bad_request(f"not a xorb: {error}") from None
        if found != name:
            raise bad_request(f"this is the xorb {found}, not {name}")
        registry = self._registry
        with registry.db.write() as conn:
            if has_xorb(conn, registry.store, self._account, name):
                return False
        # Durable before it is noted: a client that goes on after a crash does not send it again.
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._path, staged_path(registry.store, self._account, name))
        with registry.db.write() as conn:
            add_xorb(conn, self._account, name, self._reader.lengths)
        return True

    def close(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._path.unlink(missing_ok=True)


async def post_shard(request: Request) -> Response:
    """POST of a shard: its files are built, stored by their sha256, and may be committed to the token's repository."""
    registry = request.registry
    claim = await to_thread.run_sync(_check, request)
    with tempfile.TemporaryFile(dir=registry.store.staging(STAGING)) as file:
        await drain(request, file.write, MAX_SHARD, "the shard")
        await to_thread.run_sync(_take_shard, registry, claim, file)
    return json_response({"result": 1})


def _take_shard(registry: Registry, claim: Claim, file: BinaryIO) -> None:
    file.flush()
    if file.tell() == 0:
        raise bad_request("not a shard: it is empty")
    # Not closed here: an error on its way out still holds views of it.
    data = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
    flattener = Flattener(registry, claim.values["account"], claim.repo)
    try:
        # Everything is read once before anything is built: what is wrong shows at once, and so does the size.
        total = sum(entry.size for entry in shard_files(data))
        with registry.db.read() as conn:
            check_quota(conn, registry.settings, claim.repo.owner_id, total)
        for entry in shard_files(data):
            flattener.add(entry)
        flattener.flush()
    except XetRefused as error:
        raise bad_request(f"not a shard: {error}") from None
    finally:
        flattener.close()


async def absent(request: Request) -> Response:
    """What a client asks for and does without: chunks of others, grants, newer forms, reports."""
    raise Failure(404, "This registry does not have this part of Xet")


ROUTES = (
    Route("GET", "/api/{kind:repos}/{repo}/xet-write-token/{rev}", write_token, "write"),
    Route("POST", "/api/xet/{space}/v1/xorbs/{prefix}/{hash}", post_xorb, "signed", weight="file"),
    Route("POST", "/api/xet/{space}/v1/shards", post_shard, "signed", weight="file"),
    *(
        Route(method, "/api/xet/{space}/{path:path}", absent, "signed", weight="free")
        for method in ("GET", "HEAD", "POST")
    ),
)
