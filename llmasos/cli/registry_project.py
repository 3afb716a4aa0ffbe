"""``llmasos registry project``: status and privacy of projects, for the operator, on the data folder itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmasos.cli.registry_accounts import operator
from llmasos.cli.registry_serve import data_option, opened
from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import NotFound, UsageError


@click.group()
def command() -> None:
    """Projects of the package index: list, quarantine, archive, make private."""


@command.command("list")
@data_option
@common_options
@pass_state
def list_all(state: State, data: Path | None) -> None:
    """List projects, private ones as well."""
    with opened(data) as registry, registry.db.read() as conn:
        from llmasos_registry.server.index.standing import list_projects

        found = list_projects(conn)
    rows = [
        (
            project["name"],
            project["owner"],
            project["status"],
            "private" if project["private"] else "public",
            "wheels, sdists" if project["sdists"] else "wheels",
            project["status_reason"] or "",
        )
        for project in found
    ]
    columns = ("name", "owner", "status", "seen", "takes", "reason")
    state.output.emit(found, lambda: state.output.table(columns, rows))


@command.command("set")
@click.argument("name")
@click.option(
    "--status",
    type=click.Choice(("active", "archived", "deprecated", "quarantined")),
    help="archived: takes no files; quarantined: serves none either.",
)
@click.option("--reason", metavar="TEXT", help="Why, for its page; a status set without it has none.")
@click.option("--private/--public", default=None, help="Who may see it: its owners, or everybody.")
@click.option("--sdists/--no-sdists", default=None, help="Whether it takes source distributions.")
@data_option
@common_options
@pass_state
def set_(
    state: State,
    name: str,
    status: str | None,
    reason: str | None,
    private: bool | None,
    sdists: bool | None,
    data: Path | None,
) -> None:
    """Change the project NAME. A running server obeys at once."""
    given: dict[str, Any] = {"status": status, "private": private, "sdists": sdists}
    values = {key: value for key, value in given.items() if value is not None}
    if reason is not None:
        values["status_reason"] = reason or None
    if not values:
        raise UsageError(
            "nothing to change", hint="give --status, --reason, --private, --public, --sdists or --no-sdists"
        )
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.api.operation import checked
        from llmasos_registry.server.index.standing import (
            ProjectChange,
            change_project,
            list_projects,
            lock_project,
        )

        change = checked(ProjectChange, values, "the change")
        project = lock_project(conn, name)
        if project is None:
            raise _unknown(name, [other["name"] for other in list_projects(conn)])
        changed = change_project(conn, operator(), project, change)
    same = changed["serial"] == project.serial
    state.output.emit(changed, f"{'nothing to change in' if same else 'changed'} {changed['name']}")


def _unknown(name: str, known: list[str]) -> NotFound:
    """The error for a name that no project has, with those that are almost it."""
    from llmasos.near_miss import closest
    from llmasos_registry.server.index.names import key_of

    almost = closest(key_of(name[:100]), map(key_of, known))
    return NotFound(
        f"there is no project `{name[:100]}`",
        hint=f"did you mean {' or '.join(f'`{other}`' for other in almost)}?"
        if almost
        else "llmasos registry project list shows all",
    )
