"""``llmasos eval export``: a run in the format of another tool."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from llmasos.api import UsageError, command_options
from llmasos_evals.records.exporters import EXPORTERS
from llmasos_evals.records.options import run_argument, task_options


@click.command(short_help="Write a run in the format of another tool.")
@run_argument
@click.option(
    "--to",
    "form",
    type=click.Choice(sorted(EXPORTERS)),
    required=True,
    help="The format. May lack what a record has.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the files.  [default: the folder export/FORMAT of RUN]",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there and differ.")
@click.option(
    "--model-name", metavar="NAME", help="The name of the model there. [default: from its reference]"
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="TASK=ORG/NAME[#TASK_ID]",
    help="The data set of a task on the Hub. May be repeated.",
)
@task_options
@command_options
@click.pass_obj
def command(
    state: Any,
    run: Path,
    form: str,
    output: Path | None,
    overwrite: bool,
    model_name: str | None,
    datasets: tuple[str, ...],
    include: tuple[Path, ...],
    allow_task_code: bool,
    allow_code_execution: bool,
) -> None:
    """Write RUN in the format of another tool.

    lm-eval: results and samples of lm-evaluation-harness. every-eval-ever: aggregate and instances of that data set. eval-results: files for
    the folder .eval_results of a model repository. model-index: metadata for a model card. Documents are in the task files, not in the
    record: with --include, formats that hold them get them.
    """
    from importlib import import_module

    from llmasos_evals.records.checks import refuse_touched
    from llmasos_evals.records.exporters.source import Source
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.replay import request_of, tasks_of
    from llmasos_evals.records.store import require_writable

    found = open_run(run)
    if found.imported:
        raise UsageError(f"{run} was imported", hint="its own files say more than what was read from them")
    refuse_touched(found)
    request = request_of(
        found.record,
        tasks=tasks_of(found.record),
        include=include,
        allow_task_code=allow_task_code,
        allow_code_execution=allow_code_execution,
    )
    named = dict(_named(text) for text in datasets)
    unknown = sorted(set(named) - set(found.tasks))
    if unknown:
        raise UsageError(
            f"--dataset: the run has no task {unknown[0]}", hint=f"it has {', '.join(found.tasks)}"
        )
    with state.output.progress() as progress:
        source = Source(found, request, state.hub, progress, named, model_name)
        folder = output or found.folder / "export" / form
        require_writable(folder)
        try:
            with TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
                made = import_module(EXPORTERS[form]).export(source, Path(scratch))
                written = _moved(made, Path(scratch), folder, overwrite=overwrite)
        except BaseException:
            with suppress(OSError):  # only where nothing is in it
                folder.rmdir()
            raise
    state.output.emit(
        {"format": form, "files": [str(path) for path in written]}, "\n".join(map(str, written))
    )


def _moved(made: Sequence[Path], scratch: Path, folder: Path, *, overwrite: bool) -> list[Path]:
    """Put finished files where they belong. Raises UsageError, with nothing moved, for one that is there and differs."""
    pairs = [(path, folder / path.relative_to(scratch)) for path in made]
    for path, target in pairs:
        if not overwrite and target.exists() and not filecmp.cmp(path, target, shallow=False):
            raise UsageError(
                f"{target} is there already and differs",
                hint="choose another --output, or replace it with --overwrite",
            )
    for path, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    return [target for _, target in pairs]


def _named(text: str) -> tuple[str, str]:
    task, equals, dataset = text.partition("=")
    if not equals or dataset.partition("#")[0].count("/") != 1:
        raise UsageError(f"--dataset {text}", hint="for example --dataset arc_easy=allenai/ai2_arc#ARC-Easy")
    return task, dataset
