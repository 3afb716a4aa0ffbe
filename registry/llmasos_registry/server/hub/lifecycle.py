"""Making, deleting, moving and setting up repositories."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.documents import index_repo, remove_document
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_hub import releases, repo_names, repos
from llmasos_registry.server.failures import Failure, bad_request, conflict, forbidden, repo_not_found
from llmasos_registry.server.hub.history import first_commit
from llmasos_registry.server.hub.repository import (
    Moved,
    Repo,
    check_write,
    find_repo,
    kind_of,
    repo_by_id,
    requested_repo,
)
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

#: What Hub clients take as the name of a repository: their check refuses others before they ask.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
MAX_NAME = 96
#: Words that follow a repository in addresses. One of this name would be hidden: `org/refs` reads as the refs of `org`.
RESERVED_NAMES = frozenset(
    [
        "auth-check",
        "ask-access",
        "branch",
        "commit",
        "commits",
        "discussions",
        "leaderboard",
        "lfs-files",
        "paths-info",
        "preupload",
        "refs",
        "resolve",
        "revision",
        "settings",
        "super-squash",
        "tag",
        "tree",
        "user-access-request",
        "xet-read-token",
        "xet-write-token",
    ]
)
#: Repositories of one account.
MAX_REPOS = 100_000


def check_repo_name(owner: str, name: str) -> str:
    """The name, when a repository of this owner may have it. Raises Failure 400."""
    good = _NAME.fullmatch(name) and "--" not in name and ".." not in name and not name.endswith(".git")
    if not good:
        raise bad_request(
            f"Not a repository name: {name[:MAX_NAME]!a}",
            hint="letters, digits, `-`, `_` and `.`; not two `-` or `.` together, none at the ends, not `.git` at the end",
        )
    if name.lower() in RESERVED_NAMES:
        raise bad_request(f"`{name}` is part of the registry's own addresses; choose another name")
    if len(owner) + 1 + len(name) > MAX_NAME:
        raise bad_request(f"`owner/name` is longer than {MAX_NAME} characters")
    return name


def _owner(conn: sa.Connection, name: str) -> sa.Row[Any]:
    """The account that a repository is made in. Raises Failure 404."""
    row = conn.execute(sa.select(accounts).where(accounts.c.name_key == name.lower())).one_or_none()
    if row is None or row.disabled:
        raise Failure(404, f"There is no account {name[:MAX_NAME]!a} here")
    return row


def _may_make(caller: Caller, owner: str, name: str) -> None:
    if not caller.may_write(owner, f"{owner}/{name}"):
        raise _may_not_make(owner)


def _may_not_make(owner: str) -> Failure:
    """The same to the letter whether a private repository of that name is there or not."""
    return forbidden(
        f"You don't have the rights to create a repository in {owner}",
        hint="the token needs the scope `write` for it, and the account a role in that organisation",
    )


def create_repo(request: Request) -> Response:
    """POST /api/repos/create {name, organization?, type?, visibility? | private?}. 409 names the repository too."""
    body = request.json_object()
    kind = _kind(body)
    owner_name, name = _wanted(body, request.caller)
    private = _private(body)
    try:
        return _create(request, kind, owner_name, name, private=private)
    except IntegrityError:
        # PostgreSQL: somebody made it between our look and our write.
        return _create(request, kind, owner_name, name, private=private)


def _create(request: Request, kind: str, owner_name: str, name: str, *, private: bool) -> Response:
    caller = request.caller
    with request.registry.db.write() as conn:
        owner = _owner(conn, owner_name)
        key = f"{owner.name}/{name}".lower()
        known = conn.execute(
            sa.select(repos.c.id, repos.c.owner, repos.c.name).where(repos.c.kind == kind, repos.c.key == key)
        ).one_or_none()
        if known is not None:
            full = f"{known.owner}/{known.name}"
            if not caller.may_read(known.owner, full, private=repo_by_id(conn, known.id).private):
                raise _may_not_make(owner.name)
            return _exists(request, kind, full)
        _may_make(caller, owner.name, name)
        check_repo_name(owner.name, name)
        _claim_name(conn, kind, key, owner.id)
        repo = insert_repo(conn, caller, kind, owner, name, private=private)
    return json_response(
        {"url": request.root + repo.web_path, "name": repo.full_name, "id": f"{repo.id:024x}"}
    )


def insert_repo(
    conn: sa.Connection, caller: Caller, kind: str, owner: sa.Row[Any], name: str, *, private: bool
) -> Repo:
    """The row of a new repository, its first commit and ``main``."""
    count = conn.execute(sa.select(sa.func.count()).where(repos.c.owner_id == owner.id)).scalar_one()
    if count >= MAX_REPOS:
        raise forbidden(f"{owner.name} has {count} repositories; {MAX_REPOS} are allowed")
    now = utcnow()
    number = conn.execute(
        repos.insert()
        .values(
            kind=kind,
            owner_id=owner.id,
            owner=owner.name,
            name=name,
            key=f"{owner.name}/{name}".lower(),
            private=private,
            created_at=now,
            updated_at=now,
            serial=next_serial(conn),
        )
        .returning(repos.c.id)
    ).scalar_one()
    repo = repo_by_id(conn, number)
    first_commit(conn, repo, caller.name)
    index_repo(conn, repo.id)
    _note(conn, caller, repo, "create", {"private": private})
    return repo


def _exists(request: Request, kind: str, full_name: str) -> Response:
    """409 with the address: `hf upload` creates first and goes on from there."""
    prefix = "datasets/" if kind == "dataset" else ""
    message = f"You already created this {kind} repo: {full_name}"
    return json_response(
        {"error": message, "url": f"{request.root}/{prefix}{full_name}", "name": full_name},
        409,
        {"X-Error-Message": message},
    )


def _claim_name(conn: sa.Connection, kind: str, key: str, owner: int) -> None:
    """Names of the past stay with their owner: nobody else's files appear under them. Those of sealed releases stay for good."""
    same = (repo_names.c.kind == kind) & (repo_names.c.key == key)
    held = conn.execute(sa.select(repo_names).where(same)).one_or_none()
    if held is None:
        return
    if held.owner_id != owner:
        raise conflict(f"{key} was the name of somebody else's {kind} and stays reserved")
    if held.repo_id is not None and _has_releases(conn, held.repo_id):
        raise conflict(
            f"{key} is the old name of {repo_by_id(conn, held.repo_id).full_name}, which has sealed releases: "
            "the same name and version must never mean other files"
        )
    conn.execute(repo_names.delete().where(same))


def _has_releases(conn: sa.Connection, repo_id: int) -> bool:
    found = conn.execute(sa.select(releases.c.version).where(releases.c.repo_id == repo_id).limit(1))
    return found.first() is not None


def _keep_name(conn: sa.Connection, repo: Repo, repo_id: int | None) -> None:
    key = repo.full_name.lower()
    conn.execute(repo_names.delete().where(repo_names.c.kind == repo.kind, repo_names.c.key == key))
    conn.execute(repo_names.insert().values(kind=repo.kind, key=key, repo_id=repo_id, owner_id=repo.owner_id))


def delete_repo(request: Request) -> Response:
    """DELETE /api/repos/delete {name, organization?, type?}. The name stays reserved for the owner."""
    body = request.json_object()
    owner, name = _wanted(body, request.caller)
    with request.registry.db.write() as conn:
        try:
            repo = find_repo(conn, _kind(body), f"{owner}/{name}", request.caller, "own")
        except Moved:
            # Only the name it has now deletes a repository.
            raise repo_not_found(f"{owner}/{name}", anonymous=False) from None
        # A new repository of this name could otherwise release other files as the same versions.
        if _has_releases(conn, repo.id) and not (request.caller.admin and "admin" in request.caller.scopes):
            raise forbidden(
                f"{repo.full_name} has sealed releases, which stay: it cannot be deleted",
                hint="yank the releases, make the repository private, or ask the operator",
            )
        _keep_name(conn, repo, None)
        remove_document(conn, repo.kind, repo.full_name.lower())
        _note(conn, request.caller, repo, "delete", {})
        conn.execute(repos.delete().where(repos.c.id == repo.id))
    return json_response({})


def move_repo(request: Request) -> Response:
    """POST /api/repos/move {fromRepo, toRepo, type}. The old name leads to the new one."""
    body, caller = request.json_object(), request.caller
    source, target = body.get("fromRepo"), body.get("toRepo")
    if not isinstance(source, str) or not isinstance(target, str) or target.count("/") != 1:
        raise bad_request("`fromRepo` and `toRepo` must be `owner/name`")
    owner_name, name = target.split("/")
    with request.registry.db.write() as conn:
        try:
            repo = find_repo(conn, _kind(body), source, caller, "own")
        except Moved as moved:
            raise conflict(f"{source} is {moved.repo.full_name} now") from None
        owner = _owner(conn, owner_name)
        _may_make(caller, owner.name, name)
        check_repo_name(owner.name, name)
        key = f"{owner.name}/{name}".lower()
        same = key == repo.full_name.lower()
        taken = conn.execute(
            sa.select(repos.c.id).where(repos.c.kind == repo.kind, repos.c.key == key)
        ).first()
        if taken is not None and not same:
            raise conflict(f"{owner.name}/{name} exists already")
        if not same:
            _claim_name(conn, repo.kind, key, owner.id)
            _keep_name(conn, repo, repo.id)
        conn.execute(
            repos.update()
            .where(repos.c.id == repo.id)
            .values(owner_id=owner.id, owner=owner.name, name=name, key=key, serial=next_serial(conn))
        )
        remove_document(conn, repo.kind, repo.full_name.lower())
        index_repo(conn, repo.id)
        _note(conn, caller, repo, "move", {"to": f"{owner.name}/{name}"})
    return json_response(
        {"url": f"{request.root}/{'datasets/' if repo.kind == 'dataset' else ''}{owner.name}/{name}"}
    )


def update_settings(request: Request) -> Response:
    """PUT /api/{kind}/{repo}/settings {gated?, visibility? | private?}."""
    body = request.json_object()
    values: dict[str, Any] = {}
    if "gated" in body:
        if body["gated"] not in ("auto", "manual", False):
            raise bad_request('`gated` must be "auto", "manual" or false')
        values["gated"] = body["gated"] or ""
    if body.get("visibility") is not None or body.get("private") is not None:
        values["private"] = _private(body)
    unknown = body.keys() - {"gated", "visibility", "private"}
    if unknown:
        raise bad_request(f"This registry has no such setting: {', '.join(sorted(unknown))[:200]}")
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "read")
        check_write(repo, request.caller, "owner" if "private" in values else "maintainer")
        if values:
            conn.execute(
                repos.update().where(repos.c.id == repo.id).values(values | {"serial": next_serial(conn)})
            )
            index_repo(conn, repo.id)
            _note(conn, request.caller, repo, "settings", values)
    gated = values.get("gated", repo.gated)
    return json_response({"private": values.get("private", repo.private), "gated": gated or False})


def _note(conn: sa.Connection, caller: Caller, repo: Repo, action: str, detail: dict[str, Any]) -> None:
    audit(conn, caller, f"{repo.kind}.{action}", f"{repo.kind}:{repo.full_name}", detail)
    emit(conn, f"{repo.kind}.{action}", repo.full_name, detail)


def _kind(body: dict[str, Any]) -> str:
    kind = body.get("type") or "model"
    if not isinstance(kind, str):
        raise bad_request("`type` must be a string")
    return kind_of(f"{kind}s")


def _wanted(body: dict[str, Any], caller: Caller) -> tuple[str, str]:
    """(owner, name): the caller himself where no organisation is named."""
    name, owner = body.get("name"), body.get("organization") or caller.name
    if isinstance(name, str) and name.count("/") == 1 and not body.get("organization"):
        owner, name = name.split("/")
    if not isinstance(name, str) or not isinstance(owner, str) or not name:
        raise bad_request("`name` must be the repository's name, `organization` its owner")
    return owner, name


def _private(body: dict[str, Any]) -> bool:
    visibility, private = body.get("visibility"), body.get("private")
    if visibility not in (None, "public", "private"):
        raise bad_request('`visibility` must be "public" or "private"')
    if private is not None and not isinstance(private, bool):
        raise bad_request("`private` must be true or false")
    return visibility == "private" or bool(private)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/repos/create", create_repo, "write", body=1 << 16),
    Route("DELETE", "/api/repos/delete", delete_repo, "write", body=1 << 16),
    Route("POST", "/api/repos/move", move_repo, "write", body=1 << 16),
    Route("PUT", "/api/{kind:repos}/{repo}/settings", update_settings, "write", body=1 << 16),
)
