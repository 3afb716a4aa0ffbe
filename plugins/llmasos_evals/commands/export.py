"""``llmasos eval export``: a run in the format of another tool."""

from __future__ import annotations

from pathlib import Path
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
    default=Path("."),
    show_default=True,
    metavar="DIR",
    help="Folder for the files.",
)
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
    output: Path,
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
        written = import_module(EXPORTERS[form]).export(source, output)
    state.output.emit(
        {"format": form, "files": [str(path) for path in written]}, "\n".join(map(str, written))
    )


def _named(text: str) -> tuple[str, str]:
    task, equals, dataset = text.partition("=")
    if not equals or dataset.partition("#")[0].count("/") != 1:
        raise UsageError(f"--dataset {text}", hint="for example --dataset arc_easy=allenai/ai2_arc#ARC-Easy")
    return task, dataset
