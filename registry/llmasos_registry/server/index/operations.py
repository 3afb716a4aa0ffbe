"""What owners do with a project beside publishing to it: operations of the registry's own API."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.api.access import project_to_change
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.failures import forbidden
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.names import is_reserved, key_of
from llmasos_registry.server.index.projects import create_project, delete_file, delete_project
from llmasos_registry.server.responses import json_response


class NewProject(Body):
    """A project without files yet; publishing the first file makes a public one as well."""

    name: Text = Field(max_length=100)
    owner: Text | None = Field(
        default=None, max_length=96, description="user or organisation; default: the caller"
    )
    private: bool = False


class ProjectChange(Body):
    """What is not named stays as it is."""

    private: bool | None = None
    sdists: bool | None = Field(default=None, description="whether source distributions are taken")
    status: Literal["active", "archived", "deprecated", "quarantined"] | None = None
    status_reason: Text | None = Field(default=None, max_length=500)


class ProjectState(TypedDict):
    """A project as it is now."""

    name: str
    owner: str
    private: bool
    sdists: bool
    status: str
    status_reason: str | None
    serial: int


def create(request: Request) -> Response:
    """Make a project: to hold its name, or to have it private from the start."""
    body, caller = read_body(request, NewProject), request.caller
    settings = request.registry.settings
    reserved = settings.reserved_prefixes
    if (
        settings.upstream_index is not None
        and not (caller.admin and "admin" in caller.scopes)
        and not is_reserved(key_of(body.name), reserved)
    ):
        raise forbidden(
            "With an upstream index, only an administrator makes projects without files",
            hint="publish the first file: then the upstream is asked whether the name is taken there",
        )
    with request.registry.db.write() as conn:
        project = create_project(
            conn, caller, body.name, body.owner or caller.name, reserved, private=body.private
        )
        emit(conn, "plugin.create", project.key, {"name": project.key})
        project_changed(conn, project.id)
        answer = _state(conn, project.id)
    return json_response(answer, 201)


def change(request: Request) -> Response:
    """Change visibility, status or what is taken. Quarantine is the administrators' to set and to lift."""
    body, caller = read_body(request, ProjectChange), request.caller
    given: dict[str, Any] = body.model_dump(exclude_unset=True)
    values = {key: value for key, value in given.items() if value is not None or key == "status_reason"}
    with request.registry.db.write() as conn:
        project = project_to_change(conn, caller, request.params["name"], "owner")
        now = values.get("status", project.status)
        if (
            "quarantined" in (now, project.status)
            and now != project.status
            and not (caller.admin and "admin" in caller.scopes)
        ):
            raise forbidden("Only an administrator may quarantine a project or end its quarantine")
        if "status" in values and "status_reason" not in values:
            values["status_reason"] = None
        if any(getattr(project, key) != value for key, value in values.items()):
            conn.execute(projects.update().where(projects.c.id == project.id).values(values))
            audit(conn, caller, "plugin.change", project.key, values)
            emit(conn, "plugin.change", project.key, {"name": project.key, **values})
            project_changed(conn, project.id)
        answer = _state(conn, project.id)
    return json_response(answer)


def remove(request: Request) -> Response:
    """Delete a project for ever. Its name is never given out again; to discourage use, yank or archive instead."""
    with request.registry.db.write() as conn:
        project = project_to_change(conn, request.caller, request.params["name"], "owner")
        delete_project(conn, request.caller, project)
    return Response(None, 204)


def remove_file(request: Request) -> Response:
    """Delete one file for ever. Its name is never used again; to discourage use, yank the version instead."""
    with request.registry.db.write() as conn:
        project = project_to_change(conn, request.caller, request.params["name"], "owner")
        delete_file(conn, request.caller, project, request.params["filename"])
    return Response(None, 204)


def _state(conn: sa.Connection, project: int) -> ProjectState:
    row = conn.execute(sa.select(projects).where(projects.c.id == project)).one()
    return {
        "name": row.name,
        "owner": row.owner,
        "private": bool(row.private),
        "sdists": bool(row.sdists),
        "status": row.status,
        "status_reason": row.status_reason,
        "serial": row.serial,
    }


OPERATIONS = (
    Operation("POST", "/v1/plugins", create, "publish", {201: ProjectState}, body=NewProject),
    Operation("PATCH", "/v1/plugins/{name}", change, "publish", {200: ProjectState}, body=ProjectChange),
    Operation("DELETE", "/v1/plugins/{name}", remove, "publish", {204: None}),
    Operation("DELETE", "/v1/plugins/{name}/files/{filename}", remove_file, "publish", {204: None}),
)
