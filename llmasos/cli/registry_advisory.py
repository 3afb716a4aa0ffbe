"""``llmasos registry advisory``: what is known to be wrong with which versions, for the operator, on the data folder itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.cli.registry_accounts import operator
from llmasos.cli.registry_serve import data_option, opened, server_packages
from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import InputError

if TYPE_CHECKING:
    from llmasos_registry.server.api.osv_document import Advisory


@click.group()
def command() -> None:
    """Advisories: which versions not to use, and why."""


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@data_option
@common_options
@pass_state
def add(state: State, files: tuple[Path, ...], data: Path | None) -> None:
    """Publish advisories, or new states of them. Each FILE is one advisory in the OSV format, as JSON.

    All files are read before any is published. `uv audit --service-url` asks this registry for them.
    """
    advisories = [_read(path) for path in files]
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.api.advisories import store_advisory

        stored = [store_advisory(conn, operator(), advisory) for advisory in advisories]
    state.output.emit(stored, "\n".join(f"published {document['id']}" for document in stored))


@command.command()
@click.argument("advisory", metavar="ID")
@data_option
@common_options
@pass_state
def withdraw(state: State, advisory: str, data: Path | None) -> None:
    """Take the advisory ID back: it stays readable, and no query is answered with it any more.

    A file of the advisory names it as well as its ID does.
    """
    path = Path(advisory)
    number = _read(path).id if path.suffix == ".json" else advisory
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.api.advisories import withdraw_advisory

        document = withdraw_advisory(conn, operator(), number)
    state.output.emit(document, f"withdrew {document['id']}")


@command.command("list")
@data_option
@common_options
@pass_state
def list_all(state: State, data: Path | None) -> None:
    """List advisories, the last change first."""
    with opened(data) as registry, registry.db.read() as conn:
        from llmasos_registry.server.api.advisories import list_advisories

        found: list[dict[str, Any]] = [dict(document) for document in list_advisories(conn)]
    rows = [
        (
            document["id"],
            "withdrawn" if "withdrawn" in document else "",
            ", ".join(sorted({part["package"]["name"] for part in document["affected"]})),
            document.get("summary", ""),
        )
        for document in found
    ]
    state.output.emit(found, lambda: state.output.table(("id", "state", "affects", "summary"), rows))


def _read(path: Path) -> Advisory:
    """The advisory in a file. Raises InputError naming file and key."""
    with server_packages():
        from pydantic import ValidationError

        from llmasos_registry.server.api.osv_document import MAX_DOCUMENT, Advisory
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > MAX_DOCUMENT:
        raise InputError(f"{path} has more than {MAX_DOCUMENT} bytes")
    try:
        return Advisory.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: {f'`{where}`: ' if where else ''}{first['msg'].removeprefix('Value error, ')}",
            hint="the format: https://ossf.github.io/osv-schema/",
        ) from error
