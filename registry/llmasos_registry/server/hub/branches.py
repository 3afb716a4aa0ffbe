"""Branches and tags. A tag that is a release is sealed: it never moves and never goes while the repository is there."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_hub import refs, releases, repos
from llmasos_registry.server.failures import bad_request, conflict, forbidden, revision_not_found
from llmasos_registry.server.hub.paths import safe_ref
from llmasos_registry.server.hub.repository import Repo, requested_repo, resolve_revision
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

#: Branches and tags of one repository.
MAX_REFS = 10_000
MAX_MESSAGE = 20_000


def add_ref(
    conn: sa.Connection, caller: Caller, repo: Repo, kind: str, name: str, commit: str, message: str = ""
) -> None:
    """A new branch or tag. Raises Failure 400 for the name, 409 when a branch or a tag has it: a revision means one thing."""
    safe_ref(name)
    # On PostgreSQL the lock keeps two requests from adding a branch and a tag of one name.
    conn.execute(sa.select(repos.c.id).where(repos.c.id == repo.id).with_for_update())
    taken = conn.execute(
        sa.select(refs.c.kind).where(refs.c.repo_id == repo.id, refs.c.name == name)
    ).scalar_one_or_none()
    if taken is not None:
        raise conflict(f"Reference already exists: {repo.full_name} has a {taken} {name}")
    count = conn.execute(sa.select(sa.func.count()).where(refs.c.repo_id == repo.id)).scalar_one()
    if count >= MAX_REFS:
        raise bad_request(f"{repo.full_name} has {count} branches and tags; {MAX_REFS} are allowed")
    conn.execute(
        refs.insert().values(
            repo_id=repo.id, kind=kind, name=name, commit=commit, message=message, created_at=utcnow()
        )
    )
    _note(conn, caller, repo, f"{kind}.create", name, commit)


def remove_ref(conn: sa.Connection, caller: Caller, repo: Repo, kind: str, name: str) -> None:
    """Delete a branch or tag. Raises Failure RevisionNotFound, and 403 for ``main`` and for releases."""
    conn.execute(sa.select(repos.c.id).where(repos.c.id == repo.id).with_for_update())
    if kind == "branch" and name == "main":
        raise forbidden("The branch main cannot be deleted")
    if kind == "tag" and _is_release(conn, repo, name):
        raise forbidden(
            f"{name} is a sealed release of {repo.full_name}: it cannot be deleted or moved",
            hint=f"yank it: POST /v1/{repo.kind}s/{repo.full_name}/releases/{name}/yank",
        )
    gone = conn.execute(
        refs.delete().where(refs.c.repo_id == repo.id, refs.c.kind == kind, refs.c.name == name)
    )
    if gone.rowcount == 0:
        raise revision_not_found(name)
    _note(conn, caller, repo, f"{kind}.delete", name, None)


def _is_release(conn: sa.Connection, repo: Repo, name: str) -> bool:
    found = conn.execute(
        sa.select(releases.c.version).where(releases.c.repo_id == repo.id, releases.c.version == name)
    )
    return found.first() is not None


def _note(
    conn: sa.Connection, caller: Caller, repo: Repo, action: str, name: str, commit: str | None
) -> None:
    conn.execute(repos.update().where(repos.c.id == repo.id).values(serial=next_serial(conn)))
    audit(conn, caller, action, f"{repo.kind}:{repo.full_name}", {"name": name, "commit": commit})
    emit(conn, f"{repo.kind}.{action}", repo.full_name, {"name": name, "commit": commit})


def create_branch(request: Request) -> Response:
    """POST /api/{kind}/{repo}/branch/{branch} {startingPoint?, emptyBranch?}."""
    start = _text(request, "startingPoint") or "main"
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        commit = resolve_revision(conn, repo, start)
        add_ref(conn, request.caller, repo, "branch", request.params["branch"], commit.oid)
    return json_response({}, 201)


def delete_branch(request: Request) -> Response:
    """DELETE /api/{kind}/{repo}/branch/{branch}."""
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        remove_ref(conn, request.caller, repo, "branch", request.params["branch"])
    return json_response({})


def create_tag(request: Request) -> Response:
    """POST /api/{kind}/{repo}/tag/{rev} {tag, message?}."""
    name, message = _text(request, "tag"), _text(request, "message")
    if len(message) > MAX_MESSAGE:
        raise bad_request(f"the message is longer than {MAX_MESSAGE} characters")
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        commit = resolve_revision(conn, repo, request.params["rev"])
        add_ref(conn, request.caller, repo, "tag", name, commit.oid, message)
    return json_response({}, 201)


def delete_tag(request: Request) -> Response:
    """DELETE /api/{kind}/{repo}/tag/{tag}."""
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        remove_ref(conn, request.caller, repo, "tag", request.params["tag"])
    return json_response({})


def _text(request: Request, name: str) -> str:
    value = request.json_object().get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise bad_request(f"`{name}` must be a string")
    return value


_REPO = "/api/{kind:repos}/{repo}"
ROUTES: tuple[Route, ...] = (
    Route("POST", f"{_REPO}/branch/{{branch}}", create_branch, "write", body=1 << 16),
    Route("DELETE", f"{_REPO}/branch/{{branch}}", delete_branch, "write"),
    Route("POST", f"{_REPO}/tag/{{rev}}", create_tag, "write", body=1 << 16),
    Route("DELETE", f"{_REPO}/tag/{{tag}}", delete_tag, "write"),
)
