"""``llmasos data``: clean, deduplicate and tokenise text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from llmasos.cli.groups import OpenGroup
from llmasos.cli.state import State, common_options, pass_state

if TYPE_CHECKING:
    from llmasos.pipelines.process import ProcessResult

#: Reasons shown for a step in the table; all of them are in the manifest.
_REASONS = 3


class DataGroup(OpenGroup):
    """Plugins add commands as ``data.NAME``."""

    prefix = "data"
    core: ClassVar[Mapping[str, tuple[str, str]]] = {
        "process": ("llmasos.cli.data:process", "Run the steps of the file PIPELINE over its source.")
    }


@click.command(cls=DataGroup)
def command() -> None:
    """Clean and tokenise text; keep data under a name."""


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Folder for the results. Finished work in it is reused.  [default: runs/NAME]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), help="Read only so many records, spread over the input."
)
@common_options
@pass_state
def process(state: State, pipeline: Path, output: Path | None, workers: int, sample: int | None) -> None:
    """Run the steps of the file PIPELINE over its source.

    Running it again continues where a run was stopped, and redoes only what a changed input or option touches. The result
    is the same, byte for byte, for any number of workers.
    """
    from llmasos.pipelines.process import process as run

    with state.output.progress() as progress:
        result = run(pipeline, state.hub, progress, output=output, workers=workers, sample=sample)
    state.output.emit(
        {
            "output": result.output,
            "seconds": round(result.seconds, 3),
            "tasks": result.tasks,
            "reused": result.reused,
            **{name: result.manifest[name] for name in ("documents", "characters", "counts", "steps")},
        },
        lambda: _report(state, result),
    )


def _report(state: State, result: ProcessResult) -> str:
    rows: list[list[object]] = []
    for step in result.manifest["steps"]:
        reasons = sorted(step["reasons"].items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{name} {count}" for name, count in reasons[:_REASONS])
        more = len(reasons) - _REASONS
        rows.append(
            [
                step["step"],
                step["in"],
                step["kept"],
                step["dropped"],
                step["changed"],
                f"{shown} and {more} more" if more > 0 else shown,
            ]
        )
    table = state.output.table(["step", "in", "kept", "dropped", "changed", "reasons"], rows)
    counts = result.manifest["counts"]
    exported = "".join(f", {counts[name]} {name.replace('_', ' ')}" for name in counts if name != "documents")
    total = f"{result.manifest['documents']} documents, {result.manifest['characters']} characters{exported}"
    again = f", {result.reused} of {result.tasks} results were there" if result.reused else ""
    return f"{table}\n\n{total}\n{result.output} ({result.seconds:.1f} s{again})"
