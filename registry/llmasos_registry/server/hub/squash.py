"""Squashing a branch: one commit without history in the place of all it had."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_hub import refs, repos
from llmasos_registry.server.failures import bad_request, revision_not_found
from llmasos_registry.server.hub.history import add_commit
from llmasos_registry.server.hub.repository import find_commit, requested_repo
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route


def super_squash(request: Request) -> Response:
    """POST /api/{kind}/{repo}/super-squash/{branch} {message}. Tags and releases keep the commits that they name."""
    message = request.json_object().get("message", "")
    if not isinstance(message, str):
        raise bad_request("`message` is text")
    branch = request.params["branch"].removeprefix("refs/heads/")
    title = " ".join(message.replace("\0", " ").split())[:500] or f"Super-squash branch '{branch}'"
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        where = (refs.c.repo_id == repo.id, refs.c.kind == "branch", refs.c.name == branch)
        tip = conn.execute(sa.select(refs.c.commit).where(*where).with_for_update()).scalar_one_or_none()
        before = None if tip is None else find_commit(conn, repo, tip)
        if before is None:
            raise revision_not_found(branch)
        if before.parent is None and before.title == title:
            return json_response({"commitOid": before.oid})
        commit = add_commit(conn, repo, before.tree, None, request.caller.name, title, "")
        conn.execute(refs.update().where(*where).values(commit=commit.oid))
        conn.execute(
            repos.update()
            .where(repos.c.id == repo.id)
            .values(updated_at=commit.created_at, serial=next_serial(conn))
        )
        detail = {"commit": commit.oid, "before": before.oid, "branch": branch}
        audit(conn, request.caller, "squash", f"{repo.kind}:{repo.full_name}", detail)
        emit(conn, f"{repo.kind}.squash", repo.full_name, detail)
    return json_response({"commitOid": commit.oid})


ROUTES = (
    Route("POST", "/api/{kind:repos}/{repo}/super-squash/{branch}", super_squash, "write", body=1 << 16),
)
