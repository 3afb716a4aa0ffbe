"""``llmasos eval run``: score a model on tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from llmasos.cli.consent import yes_option
from llmasos.cli.state import State, common_options, pass_state

COLUMNS = ("task", "version", "shots", "metric", "filter", "value", "±", "stderr", "n")


@click.command("run")
@click.argument("model")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Score only the first N documents of each task."
)
@click.option(
    "--num-fewshot",
    type=click.IntRange(min=0),
    metavar="N",
    help="Examples in each prompt, instead of the task's own number.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Prompts generated together. Likelihoods do not depend on it.",
)
@click.option(
    "--seed", type=int, default=1234, show_default=True, help="Decides few-shot draws and sampled text."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for samples and record. [default: a folder of the cache that belongs to exactly this run]",
)
@click.option("--device", default="auto", show_default=True, help="For example cpu or cuda:0.")
@click.option(
    "--dtype",
    default="exact",
    show_default=True,
    help="exact (float32), fast (bfloat16), or an element type.",
)
@click.option(
    "--include",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Look for task files here too. May be repeated.",
)
@click.option(
    "--compat",
    type=click.Choice(["native", "lm-eval"]),
    default="native",
    show_default=True,
    help="lm-eval: draw few-shot examples exactly as lm-evaluation-harness does.",
)
@click.option("--allow-task-code", is_flag=True, help="Let task files run the Python functions beside them.")
@click.option("--allow-pickle", is_flag=True, help="Read weights from pickle files (tensors only).")
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=100_000,
    show_default=True,
    metavar="N",
    help="Resamples for standard errors that have no formula; 0 leaves standard errors out.",
)
@click.option(
    "--no-resume", is_flag=True, help="Compute this run's documents again, even those that were finished."
)
@yes_option
@common_options
@pass_state
def command(
    state: State,
    model: str,
    tasks: tuple[str, ...],
    limit: int | None,
    num_fewshot: int | None,
    batch_size: int,
    seed: int,
    output: Path | None,
    device: str,
    dtype: str,
    include: tuple[Path, ...],
    compat: str,
    allow_task_code: bool,
    allow_pickle: bool,
    bootstrap: int,
    no_resume: bool,
) -> None:
    """Score MODEL on tasks or suites.

    Tasks are names, or paths of task files. MODEL is a folder, a file, registry://org/name, hf://org/name or pypi:package/path. Results are written as documents
    finish; the same command goes on where a run was interrupted. The table goes to standard output, with --json the whole record.
    """
    with state.output.progress() as progress:
        state.hub.progress = progress
        result = state.hub.evaluate(
            model,
            tasks,
            progress=progress,
            limit=limit,
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            seed=seed,
            output=output,
            device=device,
            dtype=dtype,
            include=include,
            compat=compat,
            allow_task_code=allow_task_code,
            allow_pickle=allow_pickle,
            bootstrap=bootstrap,
            resume=not no_resume,
        )
    state.output.emit(result.record, lambda: state.output.table(COLUMNS, list(result_rows(result.record))))
    state.output.note(f"record and samples: {result.output}")


def result_rows(record: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of the table: groups with their members below them, a dash for each level, then tasks that belong to no group."""
    tasks = {task["name"]: task for task in record["tasks"]}
    groups = {group["name"]: group for group in record["groups"]}
    inner = {member for group in groups.values() for member in group["members"]}

    def rows(name: str, depth: int) -> Iterator[tuple[Any, ...]]:
        entry = groups.get(name) or tasks[name]
        label, shots = "- " * depth + entry["alias"], entry.get("num_fewshot", "")
        scores = entry["scores"] or [None]
        for place, score in enumerate(scores):
            head = (label, entry["version"], shots) if place == 0 else ("", "", "")
            yield (*head, *_score_cells(score))
        for member in entry.get("members", ()):
            yield from rows(member, depth + 1)

    for name in [
        *(name for name in groups if name not in inner),
        *(name for name in tasks if name not in inner),
    ]:
        yield from rows(name, 0)


def _score_cells(score: Mapping[str, Any] | None) -> tuple[Any, ...]:
    if score is None:
        return ("", "", "", "", "", "")
    stderr = score["stderr"]
    return (
        score["metric"],
        score["filter"],
        score["value"],
        "" if stderr is None else "±",
        "" if stderr is None else f"{stderr:.4f}" if isinstance(stderr, float) else stderr,
        score["n"],
    )
