"""The standing of a project: its status, who may see it, what it takes. Owners change it over HTTP, operators on the data
folder; both come through here."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from typing_extensions import TypedDict

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.operation import Body, Text
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.names import is_name, key_of


class ProjectChange(Body):
    """What is not named stays as it is; a new status without a reason has none."""

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


def change_project(
    conn: sa.Connection, caller: Caller, project: sa.Row[Any], change: ProjectChange
) -> ProjectState:
    """The project after the change, which is audited, told to webhooks, and on the project's page when the transaction
    ends; nothing happens when nothing differs.

    ``project`` is the row, locked, that the caller was found to have the right to change.
    """
    given = change.model_dump(exclude_unset=True)
    values = {key: value for key, value in given.items() if value is not None or key == "status_reason"}
    if "status" in values and "status_reason" not in values:
        values["status_reason"] = None
    if any(getattr(project, key) != value for key, value in values.items()):
        conn.execute(projects.update().where(projects.c.id == project.id).values(values))
        audit(conn, caller, "plugin.change", project.key, values)
        emit(conn, "plugin.change", project.key, {"name": project.key, **values})
        project_changed(conn, project.id)
    return project_state(conn, project.id)


def project_state(conn: sa.Connection, project: int) -> ProjectState:
    """The project of an id."""
    return _state(conn.execute(sa.select(projects).where(projects.c.id == project)).one())


def list_projects(conn: sa.Connection) -> list[ProjectState]:
    """All projects, private ones as well, by name. For operators."""
    return [_state(row) for row in conn.execute(sa.select(projects).order_by(projects.c.key))]


def lock_project(conn: sa.Connection, name: str) -> sa.Row[Any] | None:
    """The row of a project by any spelling of its name, locked, without asking who wants it. For operators."""
    if not is_name(name):
        return None
    return conn.execute(
        sa.select(projects).where(projects.c.key == key_of(name)).with_for_update()
    ).one_or_none()


def _state(row: sa.Row[Any]) -> ProjectState:
    return {
        "name": row.name,
        "owner": row.owner,
        "private": bool(row.private),
        "sdists": bool(row.sdists),
        "status": row.status,
        "status_reason": row.status_reason,
        "serial": row.serial,
    }
