"""Sealed releases of models and datasets: a version is an immutable tag, can be taken back (yank), and is never overwritten."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.api.access import repo_to_change
from llmasos_registry.server.api.answers import Release, Yanked
from llmasos_registry.server.api.documents import index_repo
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.api.plugins import YankBody
from llmasos_registry.server.api.publisher_keys import active_keys
from llmasos_registry.server.api.release_check import Checked, check_release, refused
from llmasos_registry.server.api.semver import check_version
from llmasos_registry.server.api.snapshot import commit_files
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_hub import refs, releases, repos
from llmasos_registry.server.failures import conflict, not_found
from llmasos_registry.server.hub.repository import Repo, kind_of, resolve_revision
from llmasos_registry.server.responses import json_response
from llmasos_registry.signatures.keys import keyid


class ReleaseBody(Body):
    """What is to be sealed."""

    version: Text = Field(max_length=64, description="semantic version: 1.2.0, 2.0.0-rc.1")
    revision: Text = Field(default="main", max_length=250, description="branch, tag or commit")
    message: Text = Field(default="", max_length=20_000)


def create_release(request: Request) -> Response:
    """Seal a commit as a version: checked, tagged, never to be moved. The same again answers 200, another commit 409."""
    body = read_body(request, ReleaseBody)
    kind, registry, caller = _kind(request), request.registry, request.caller
    version = check_version(body.version)
    org, name = request.params["org"], request.params["name"]
    with registry.db.read() as conn:
        repo = repo_to_change(conn, caller, kind, org, name, lock=False)
        commit = resolve_revision(conn, repo, body.revision)
        known = _known(conn, repo, version, commit.oid)
        files = [] if known else commit_files(conn, registry.objects, commit)
        keys = active_keys(conn, repo.owner_id)
    checked = Checked((), None)
    if known is None:
        # Outside any transaction: it reads files. The commit cannot change meanwhile.
        checked = check_release(registry.store, files, keys, kind=kind, name=repo.full_name, version=version)
    with registry.db.write() as conn:
        repo = repo_to_change(conn, caller, kind, org, name)
        known = _known(conn, repo, version, commit.oid)
        if known is None:
            if checked.keyid and checked.keyid not in {
                keyid(key) for key in active_keys(conn, repo.owner_id)
            }:
                raise refused(f"the key {checked.keyid} was revoked")
            _seal(conn, request, repo, version, commit.oid, body.message, checked)
        row = find_release(conn, repo.id, version)
    return json_response(release_answer(row), 201 if known is None else 200)


def _seal(
    conn: sa.Connection,
    request: Request,
    repo: Repo,
    version: str,
    commit: str,
    message: str,
    checked: Checked,
) -> None:
    now, author = utcnow(), request.caller.name
    tagged = conn.execute(
        sa.select(refs.c.commit).where(
            refs.c.repo_id == repo.id, refs.c.kind == "tag", refs.c.name == version
        )
    ).scalar_one_or_none()
    if tagged is None:
        conn.execute(
            refs.insert().values(
                repo_id=repo.id, kind="tag", name=version, commit=commit, message=message, created_at=now
            )
        )
    conn.execute(
        releases.insert().values(
            repo_id=repo.id,
            version=version,
            commit=commit,
            requires=list(checked.requires),
            signed=checked.keyid is not None,
            message=message,
            author=author,
            created_at=now,
        )
    )
    name = repo.full_name
    detail = {"commit": commit, "requires": list(checked.requires), "keyid": checked.keyid}
    audit(conn, request.caller, f"{repo.kind}.release", f"{repo.kind}:{name}@{version}", detail)
    emit(conn, f"{repo.kind}.release", name, {"id": name, "version": version, "commit": commit})
    _changed(conn, repo)


def yank_release(request: Request) -> Response:
    """Take a release back: ranges no longer choose it; its exact version and its commit still work."""
    return _yank(request, read_body(request, YankBody).reason or "yanked")


def unyank_release(request: Request) -> Response:
    """Offer a yanked release again."""
    return _yank(request, None)


def _yank(request: Request, reason: str | None) -> Response:
    params, caller = request.params, request.caller
    with request.registry.db.write() as conn:
        repo = repo_to_change(conn, caller, _kind(request), params["org"], params["name"])
        row = find_release(conn, repo.id, check_version(params["version"]))
        name = repo.full_name
        if row.yanked_reason != reason:
            conn.execute(
                releases.update()
                .where(releases.c.repo_id == repo.id, releases.c.version == row.version)
                .values(yanked_at=None if reason is None else utcnow(), yanked_reason=reason)
            )
            action = f"{repo.kind}.{'unyank' if reason is None else 'yank'}"
            audit(conn, caller, action, f"{repo.kind}:{name}@{row.version}", {"reason": reason})
            emit(conn, action, name, {"id": name, "version": row.version, "reason": reason})
            _changed(conn, repo)
        serial = conn.execute(sa.select(repos.c.serial).where(repos.c.id == repo.id)).scalar_one()
    answer: Yanked = {
        "version": row.version,
        "yanked": reason is not None,
        "yanked_reason": reason,
        "serial": serial,
    }
    return json_response(answer)


def find_release(conn: sa.Connection, repo: int, version: str) -> sa.Row[Any]:
    """The row of a release. Raises Failure 404."""
    row = conn.execute(
        sa.select(releases).where(releases.c.repo_id == repo, releases.c.version == version)
    ).one_or_none()
    if row is None:
        raise not_found(f"There is no release {version}")
    return row


def release_answer(row: sa.Row[Any]) -> Release:
    """A release as the API shows it."""
    return {
        "version": row.version,
        "commit": row.commit,
        "created_at": rfc3339(row.created_at),
        "author": row.author,
        "yanked": row.yanked_at is not None,
        "yanked_reason": row.yanked_reason,
        "message": row.message,
        "requires": list(row.requires),
        "signed": bool(row.signed),
    }


def _known(conn: sa.Connection, repo: Repo, version: str, commit: str) -> str | None:
    """The commit that is sealed as this version already. Raises Failure 409 when that, or a tag, is another commit."""
    sealed = conn.execute(
        sa.select(releases.c.commit).where(releases.c.repo_id == repo.id, releases.c.version == version)
    ).scalar_one_or_none()
    if sealed is not None:
        if sealed != commit:
            raise conflict(
                f"{repo.full_name}@{version} is sealed: it is commit {sealed} and cannot become {commit}",
                hint="release the change as a new version",
            )
        return commit
    named = conn.execute(
        sa.select(refs.c.commit).where(refs.c.repo_id == repo.id, refs.c.name == version)
    ).scalar_one_or_none()
    if named is not None and named != commit:
        raise conflict(
            f"The branch or tag `{version}` of {repo.full_name} leads to commit {named}",
            hint="delete it, or choose another version",
        )
    return None


def _changed(conn: sa.Connection, repo: Repo) -> None:
    conn.execute(
        repos.update().where(repos.c.id == repo.id).values(serial=next_serial(conn), updated_at=utcnow())
    )
    index_repo(conn, repo.id)


def _kind(request: Request) -> str:
    return kind_of(request.params["kinds"])


_BASE = "/v1/{kinds:kinds}/{org}/{name}/releases"
OPERATIONS = (
    Operation("POST", _BASE, create_release, "publish", {200: Release, 201: Release}, body=ReleaseBody),
    Operation("POST", f"{_BASE}/{{version}}/yank", yank_release, "publish", {200: Yanked}, body=YankBody),
    Operation("DELETE", f"{_BASE}/{{version}}/yank", unyank_release, "publish", {200: Yanked}),
)
