"""``llmasos data rm``: take data off the shelf."""

from __future__ import annotations

from typing import Any

import click

from llmasos.api import UnknownName, command_options


@click.command()
@click.argument("name")
@click.option("--config", metavar="NAME", help="Only this configuration.")
@command_options
@click.pass_obj
def command(state: Any, name: str, config: str | None) -> None:
    """Take NAME off the shelf. Copies that were made for it go too; files that are read where they lie stay."""
    from llmasos_evals.datasets.shelf import Shelf

    shelf = Shelf(state.hub.data_dir)
    entries = [entry for entry in shelf.entries() if entry.name == name and config in (None, entry.config)]
    if not entries:
        raise UnknownName(f"the shelf has nothing named {name!r}", hint="llmasos data ls")
    for entry in entries:
        shelf.remove(entry)
    state.output.emit(
        [{"name": entry.name, "config": entry.config} for entry in entries],
        lambda: "\n".join(f"removed {entry.title}" for entry in entries),
    )
