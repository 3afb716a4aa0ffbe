"""What owners do with a project beside publishing to it: operations of the registry's own API."""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import emit
from llmasos_registry.server.api.access import project_to_change
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import forbidden
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.names import is_reserved, key_of
from llmasos_registry.server.index.projects import create_project, delete_file, delete_project
from llmasos_registry.server.index.standing import (
    ProjectChange,
    ProjectState,
    change_project,
    project_state,
)
from llmasos_registry.server.responses import json_response


class NewProject(Body):
    """A project without files yet; publishing the first file makes a public one as well."""

    name: Text = Field(max_length=100)
    owner: Text | None = Field(
        default=None, max_length=96, description="user or organisation; default: the caller"
    )
    private: bool = False


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
        answer = project_state(conn, project.id)
    return json_response(answer, 201)


def change(request: Request) -> Response:
    """Change visibility, status or what is taken. Quarantine is the administrators' to set and to lift."""
    body, caller = read_body(request, ProjectChange), request.caller
    with request.registry.db.write() as conn:
        project = project_to_change(conn, caller, request.params["name"], "owner")
        said = {"status", "status_reason"} & body.model_fields_set
        quarantine = "quarantined" in (body.status, project.status)
        if said and quarantine and not (caller.admin and "admin" in caller.scopes):
            raise forbidden("Only an administrator may quarantine a project, end that, or say why")
        answer = change_project(conn, caller, project, body)
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


OPERATIONS = (
    Operation("POST", "/v1/plugins", create, "publish", {201: ProjectState}, body=NewProject),
    Operation("PATCH", "/v1/plugins/{name}", change, "publish", {200: ProjectState}, body=ProjectChange),
    Operation("DELETE", "/v1/plugins/{name}", remove, "publish", {204: None}),
    Operation("DELETE", "/v1/plugins/{name}/files/{filename}", remove_file, "publish", {204: None}),
)
