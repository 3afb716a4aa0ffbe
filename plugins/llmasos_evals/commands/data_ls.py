"""``llmasos data ls``: what is on the shelf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from llmasos.api import command_options

COLUMNS = ("name", "config", "split", "rows", "bytes", "columns", "files")


@click.command()
@click.argument("name", required=False)
@command_options
@click.pass_obj
def command(state: Any, name: str | None) -> None:
    """List the data on the shelf, or that of one NAME."""
    from llmasos_evals.datasets.shelf import Shelf

    entries = [entry for entry in Shelf(state.hub.data_dir).entries() if name in (None, entry.name)]
    if not entries:
        state.output.note(
            "the shelf has nothing" + (f" named {name}" if name else "; llmasos data add NAME FILE")
        )
    state.output.emit([facts(entry) for entry in entries], lambda: state.output.table(COLUMNS, rows(entries)))


def facts(entry: Any) -> dict[str, Any]:
    """An entry for --json."""
    return {
        "name": entry.name,
        "config": entry.config,
        "digest": entry.digest,
        "added": entry.added,
        "copied": entry.copied,
        "format": entry.format,
        "options": entry.options,
        "splits": {
            split: {
                "rows": entry.rows[split],
                "columns": entry.columns[split],
                "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in files],
            }
            for split, files in entry.files.items()
        },
    }


def rows(entries: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of the table, one a split."""
    return [
        (
            entry.name if first else "",
            (entry.config or "") if first else "",
            split,
            entry.rows[split],
            sum(file.bytes for file in files),
            ", ".join(entry.columns[split]),
            ", ".join(str(file.path) for file in files),
        )
        for entry in entries
        for first, (split, files) in zip(
            [True, *[False] * len(entry.files)], entry.files.items(), strict=False
        )
    ]
