"""Commits of Hub clients: contents first, then one short transaction that makes them visible together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from anyio import to_thread
from starlette.responses import Response

from llmasos_registry.server.accounts.quota import over_quota, room_left
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_store import git_blobs
from llmasos_registry.server.failures import Failure, bad_request, not_supported, revision_not_found
from llmasos_registry.server.hub.blob_rights import grant, usable
from llmasos_registry.server.hub.card import read_facts
from llmasos_registry.server.hub.commit_stream import CommitReader, Inline, Large, Removal
from llmasos_registry.server.hub.history import Change, Delete, Put, Written, insert_ignoring, write_commit
from llmasos_registry.server.hub.objects import stored_files
from llmasos_registry.server.hub.repository import Repo, head, requested_repo
from llmasos_registry.server.hub.request_body import drain
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route
from llmasos_registry.server.store.blobs import record_blob
from llmasos_registry.server.store.git import blob_id, lfs_pointer

#: The body of one commit: what may be inline as base64, and the lines around it.
_MAX_BODY = 3 << 29


async def post_commit(request: Request) -> Response:
    """POST /api/{kind}/{repo}/commit/{rev}. ``hot_reload`` and other parameters of the Hub's Spaces change nothing."""
    if request.query_params.get("create_pr"):
        raise not_supported("pull requests; commit to a branch of your own")
    registry = request.registry
    branch = request.params["rev"].removeprefix("refs/heads/")
    room = await to_thread.run_sync(_room, request, branch)
    reader = CommitReader(registry.store, registry.settings.max_inline, room)
    try:
        await drain(request, reader.feed, _MAX_BODY, "the commit")
        written, repo = await to_thread.run_sync(_write, request, branch, reader)
    finally:
        await to_thread.run_sync(reader.close)
    headers = {}
    if written.collisions:
        names = ", ".join(written.collisions).encode("latin-1", "replace").decode("latin-1")
        headers["X-HF-Warning"] = f"names; these differ from a neighbour by case only: {names[:500]}"
    return json_response(
        {
            "success": True,
            "commitOid": written.oid,
            "commitUrl": f"{request.root}{repo.web_path}/commit/{written.oid}",
            "hookOutput": "",
        },
        headers=headers,
    )


def _room(request: Request, branch: str) -> int:
    """What the owner may still keep. Refuses before the body what cannot be afterwards."""
    registry = request.registry
    with registry.db.read() as conn:
        repo = requested_repo(conn, request, "write")
        if head(conn, repo, branch) is None:
            raise revision_not_found(branch)
        return max(room_left(conn, registry.settings, repo.owner_id), 0)


def _write(request: Request, branch: str, reader: CommitReader) -> tuple[Written, Repo]:
    registry = request.registry
    operations = reader.finish()
    facts = read_facts(reader.contents)
    assert reader.header is not None
    header = reader.header
    inline = [o for o in operations if isinstance(o, Inline)]
    large = [o for o in operations if isinstance(o, Large)]
    with registry.db.write() as conn:
        # Asked again: the body may have taken an hour.
        repo = requested_repo(conn, request, "write")
        oids = _large_blobs(conn, request, repo, large)
        _inline_blobs(conn, inline)
        written = write_commit(
            conn,
            registry.objects,
            repo,
            branch,
            _changes(operations, oids),
            caller=request.caller,
            title=header.summary,
            message=header.description,
            parent=header.parent,
            facts=facts,
        )
        left = room_left(conn, registry.settings, repo.owner_id)
        if left < 0 and (inline or large) and written.created:
            # Two uploads may have fitted when they were asked about, and not together.
            raise over_quota(repo.owner, -left, 0)
    return written, repo


def _changes(operations: Iterable[Inline | Large | Removal], large: dict[str, str]) -> list[Change]:
    changes: list[Change] = []
    for operation in operations:
        if isinstance(operation, Inline):
            changes.append(Put(operation.path, operation.oid))
        elif isinstance(operation, Large):
            changes.append(Put(operation.path, large[operation.path]))
        else:
            changes.append(Delete(operation.path, operation.folder))
    return changes


def _inline_blobs(conn: sa.Connection, files: Sequence[Inline]) -> None:
    for file in files:
        record_blob(conn, file.stored)
    rows = {
        file.oid: {"oid": file.oid, "sha256": file.stored.sha256, "size": file.stored.size, "lfs": False}
        for file in files
    }
    insert_ignoring(conn, git_blobs, list(rows.values()))
    known = stored_files(conn, rows)
    for file in files:
        # Two contents with one sha1 can be made. The first keeps the id; the other is refused, not replaced by it.
        if known[file.oid].sha256 != file.stored.sha256 or known[file.oid].lfs:
            raise bad_request(f"{file.path} has the git id of another file with other bytes")


def _large_blobs(conn: sa.Connection, request: Request, repo: Repo, files: Sequence[Large]) -> dict[str, str]:
    """Git ids of the pointers by path. Raises Failure 400 for an object that was not sent to this repository."""
    sizes = usable(conn, request.caller, repo, {file.sha256 for file in files})
    rows: dict[str, dict[str, object]] = {}
    found: dict[str, str] = {}
    for file in files:
        size = sizes.get(file.sha256)
        if size is None:
            raise bad_request(
                f"The content of {file.path} (sha256 {file.sha256}) was not uploaded to {repo.full_name}",
                hint="upload it, then commit again",
            )
        if file.size is not None and file.size != size:
            raise bad_request(f"{file.path} has {size} bytes, not {file.size}")
        oid = blob_id(lfs_pointer(file.sha256, size))
        rows[oid] = {"oid": oid, "sha256": file.sha256, "size": size, "lfs": True}
        found[file.path] = oid
    insert_ignoring(conn, git_blobs, list(rows.values()))
    if any(not file.lfs for file in stored_files(conn, rows).values()):
        raise Failure(500, "an object of this commit is kept under the id of a text file")
    grant(conn, repo.id, {file.sha256 for file in files}, committed=True)
    return found


ROUTES = (Route("POST", "/api/{kind:repos}/{repo}/commit/{rev}", post_commit, "write", weight="file"),)
