"""``llmasos data verify``: whether the data on the shelf is what was added."""

from __future__ import annotations

from typing import Any

import click

from llmasos.api import ExitCode, UnknownName, command_options

COLUMNS = ("name", "config", "split", "state", "file")


@click.command()
@click.argument("name", required=False)
@command_options
@click.pass_obj
def command(state: Any, name: str | None) -> int:
    """Read every file on the shelf (or of NAME) again, and compare it with what was added.

    Exits with 1 when a file is missing or was changed.
    """
    from llmasos_evals.datasets.shelf import Shelf

    shelf = Shelf(state.hub.data_dir)
    entries = [entry for entry in shelf.entries() if name in (None, entry.name)]
    if name is not None and not entries:
        raise UnknownName(f"the shelf has nothing named {name!r}", hint="llmasos data ls")
    found = []
    with state.output.progress() as progress:
        progress.phase(
            "reading files", sum(len(files) for entry in entries for files in entry.files.values())
        )
        for entry in entries:
            for split, files in entry.files.items():
                for file in files:
                    found.append((entry.name, entry.config, split, file.state(), file.path))
                    progress.advance()
    whole = all(what == "ok" for _, _, _, what, _ in found)
    state.output.emit(
        {"ok": whole, "files": [dict(zip(COLUMNS, row, strict=True)) for row in found]},
        lambda: state.output.table(COLUMNS, [(row[0], row[1] or "", *row[2:]) for row in found]),
    )
    return int(ExitCode.OK if whole else ExitCode.RUN_FAILED)
