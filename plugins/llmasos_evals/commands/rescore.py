"""``llmasos eval rescore``: metrics again from saved answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmasos.api import command_options
from llmasos_evals.records.options import run_argument, task_options


@click.command(short_help="Score the saved answers of a run again.")
@run_argument
@click.option(
    "--task-file",
    "files",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Score with this task file instead of the one of the run. May be repeated.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[:JSON]",
    help="Compute this metric instead of those of the tasks, with options as a JSON object. May be repeated.",
)
@click.option("--bootstrap", type=click.IntRange(min=0), metavar="N", help="Resamples for standard errors.")
@click.option("--cluster-column", metavar="COLUMN", help="Documents with the same value are not independent.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the new run. [default: one beside RUN]",
)
@task_options
@command_options
@click.pass_obj
def command(
    state: Any,
    run: Path,
    files: tuple[str, ...],
    metrics: tuple[str, ...],
    bootstrap: int | None,
    cluster_column: str | None,
    output: Path | None,
    include: tuple[Path, ...],
    allow_task_code: bool,
    allow_code_execution: bool,
) -> None:
    """Compute metrics again from the answers that RUN saved, without the model.

    Filters, metrics, aggregation and statistics are computed anew, with the task files of today or those of --task-file. It is refused
    when a task asks the model anything else than what was answered. The new record names the digest of the old one.
    """
    from llmasos_evals.records.presentation import COLUMNS, rows
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.replay import request_of, tasks_of
    from llmasos_evals.records.rescoring import metric_spec, refuse_imported, rescore

    specs = [metric_spec(text) for text in metrics]
    found = open_run(run)
    refuse_imported(found)
    changes: dict[str, Any] = {
        "tasks": files or tasks_of(found.record),
        "include": include,
        "allow_task_code": allow_task_code,
        "allow_code_execution": allow_code_execution,
    }
    if bootstrap is not None:
        changes["bootstrap"] = bootstrap
    if cluster_column is not None:
        changes["cluster_column"] = cluster_column
    with state.output.progress() as progress:
        result = rescore(
            found, request_of(found.record, **changes), state.hub, progress, metrics=specs, output=output
        )
    state.output.emit(result.record, lambda: state.output.table(COLUMNS, list(rows(result.record))))
    state.output.note(f"record and samples: {result.output}")
