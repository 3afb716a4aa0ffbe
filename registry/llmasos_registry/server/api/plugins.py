"""Pages' data of projects in the package index: versions, manifests, files; and taking versions back (yank)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from packaging.version import InvalidVersion, Version
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.api.access import find_project, project_to_change
from llmasos_registry.server.api.answers import PackageFile, PackageVersion, Project, Yanked
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_index import package_files, package_releases, projects
from llmasos_registry.server.failures import bad_request, not_found
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.pages import QUARANTINED
from llmasos_registry.server.responses import json_response


class YankBody(Body):
    """Why a version should not be used any more."""

    reason: Text = Field(default="", max_length=500)


def plugin(request: Request) -> Response:
    """All versions of a project with their requirements, manifests and files, newest first."""
    with request.registry.db.read() as conn:
        project = find_project(conn, request.caller, request.params["name"])
        releases = conn.execute(
            sa.select(package_releases).where(package_releases.c.project_id == project.id)
        ).all()
        files = conn.execute(
            sa.select(package_files)
            .where(package_files.c.project_id == project.id, package_files.c.deleted_at.is_(None))
            .order_by(package_files.c.filename)
        ).all()
    listed: dict[int, list[PackageFile]] = defaultdict(list)
    if project.status != QUARANTINED:
        for file in files:
            listed[file.release_id].append(_file(request.root, file))
    answer: Project = {
        "name": project.name,
        "plugin_id": project.plugin_id,
        "summary": project.summary,
        "owner": project.owner,
        "private": bool(project.private),
        "status": project.status,
        "status_reason": project.status_reason,
        "sdists": bool(project.sdists),
        "serial": project.serial,
        "downloads": project.downloads,
        "versions": [
            _version(row, listed[row.id])
            for row in sorted(releases, key=lambda row: Version(row.version), reverse=True)
        ],
    }
    return json_response(answer)


def yank(request: Request) -> Response:
    """Take a version back: ranges no longer choose it, exact pins still do (PEP 592)."""
    return _yank(request, read_body(request, YankBody).reason or "yanked")


def unyank(request: Request) -> Response:
    """Offer a yanked version again."""
    return _yank(request, None)


def _yank(request: Request, reason: str | None) -> Response:
    caller, params = request.caller, request.params
    with request.registry.db.write() as conn:
        project = project_to_change(conn, caller, params["name"])
        release = _release(conn, project.id, params["version"])
        if release.yanked_reason != reason:
            conn.execute(
                package_releases.update()
                .where(package_releases.c.id == release.id)
                .values(yanked_at=None if reason is None else utcnow(), yanked_reason=reason)
            )
            action = "plugin.unyank" if reason is None else "plugin.yank"
            payload = {"name": project.key, "version": release.version, "reason": reason}
            audit(conn, caller, action, f"{project.key}=={release.version}", {"reason": reason})
            emit(conn, action, project.key, payload)
            project_changed(conn, project.id)
        serial = conn.execute(sa.select(projects.c.serial).where(projects.c.id == project.id)).scalar_one()
    answer: Yanked = {
        "version": release.version,
        "yanked": reason is not None,
        "yanked_reason": reason,
        "serial": serial,
    }
    return json_response(answer)


def _release(conn: sa.Connection, project: int, text: str) -> sa.Row[Any]:
    try:
        version = str(Version(text[:120]))
    except InvalidVersion:
        raise bad_request(f"`{text[:120]!a}` is no version of a package") from None
    row = conn.execute(
        sa.select(package_releases).where(
            package_releases.c.project_id == project, package_releases.c.version == version
        )
    ).one_or_none()
    if row is None:
        raise not_found(f"There is no version `{text[:120]}` of this project")
    return row


def _version(row: sa.Row[Any], files: list[PackageFile]) -> PackageVersion:
    return {
        "version": row.version,
        "yanked": row.yanked_at is not None,
        "yanked_reason": row.yanked_reason,
        "requires_python": row.requires_python,
        "requires_dist": list(row.requires_dist),
        "manifest": row.manifest,
        "published_at": rfc3339(row.created_at),
        "files": files,
    }


def _file(root: str, row: sa.Row[Any]) -> PackageFile:
    return {
        "filename": row.filename,
        "url": f"{root}/files/{row.sha256}/{row.filename}",
        "sha256": row.sha256,
        "size": row.size,
        "upload_time": rfc3339(row.uploaded_at),
        "metadata_sha256": row.metadata_sha256,
    }


OPERATIONS = (
    Operation("GET", "/v1/plugins/{name}", plugin, "public", {200: Project}),
    Operation(
        "POST",
        "/v1/plugins/{name}/versions/{version}/yank",
        yank,
        "publish",
        {200: Yanked},
        body=YankBody,
    ),
    Operation("DELETE", "/v1/plugins/{name}/versions/{version}/yank", unyank, "publish", {200: Yanked}),
)
