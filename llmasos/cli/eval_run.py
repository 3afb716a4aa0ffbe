"""``llmasos eval run``: score a model on tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from llmasos.cli.consent import yes_option
from llmasos.cli.placement import device_option, dtype_option
from llmasos.cli.state import State, common_options, pass_state

COLUMNS = ("task", "version", "shots", "metric", "filter", "value", "95 % interval", "stderr", "n")


def _limit(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | Literal["auto"] | None:
    """A number of documents, or ``auto``."""
    if value is None:
        return None
    number: Any = value
    return "auto" if value == "auto" else int(click.IntRange(min=1).convert(number, parameter, context))


def _share(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A share as a number, in percentage points or in per cent."""
    if value is None:
        return None
    text, hundredths = value.strip(), 1.0
    for unit in ("pp", "%"):
        if text.endswith(unit):
            text, hundredths = text.removesuffix(unit), 100.0
    given: Any = text.strip()
    return float(click.FloatRange(min=0, min_open=True).convert(given, parameter, context)) / hundredths


def _settings(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` options as a mapping; a value that is JSON is read as such, anything else is text."""
    import json

    found: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", context, parameter)
        try:
            found[key.strip()] = json.loads(text)
        except (ValueError, RecursionError):
            found[key.strip()] = text
    return found


@click.command("run")
@click.argument("model")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option(
    "--limit", callback=_limit, metavar="N|auto", help="Score only the first N documents of each task."
)
@click.option(
    "--interval",
    callback=_share,
    metavar="X",
    help="With --limit auto: as many documents as make every 95 % interval X wide on either side, such as 1pp or 0.01 of the metric's range.",
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
@device_option
@dtype_option
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
    "--cluster-column",
    metavar="COLUMN",
    help="Column of the data; documents with the same value are not independent, and standard errors say so.",
)
@click.option(
    "--no-resume",
    "resume",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Compute this run's documents again, even those that were finished.",
)
@click.option(
    "--engine",
    type=click.Choice(["tree", "reference", "lm-eval"]),
    default="tree",
    show_default=True,
    help="tree computes what prompts share once; reference does one row a request; lm-eval is that harness itself.",
)
@click.option(
    "--batch-invariant",
    is_flag=True,
    help="The same bits whatever the token budget, order, limit, workers and interruptions. Slower.",
)
@click.option("--token-budget", type=click.IntRange(min=1), metavar="N", help="Tokens in one forward pass.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that score. The record does not depend on it at equal --threads.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of each worker. [default: cores divided by workers; 1 with --batch-invariant]",
)
@click.option("--ray", metavar="ADDRESS", help="Score on a Ray cluster; `local` starts one on this machine.")
@click.option(
    "--cache", is_flag=True, help="Reuse answers of earlier runs to the same tokens by the same weights."
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="N",
    help="Running text: move the window on by N tokens. [default: windows that do not overlap]",
)
@click.option("--apply-chat-template", is_flag=True, help="Put prompts into the model's chat template.")
@click.option(
    "--chat-template", metavar="NAME", help="Like --apply-chat-template, with the template of this name."
)
@click.option("--system-instruction", metavar="TEXT", help="What stands before the first turn of a prompt.")
@click.option(
    "--fewshot-as-multiturn/--no-fewshot-as-multiturn",
    default=None,
    help="Few-shot examples as turns of the conversation. [default: with a chat template]",
)
@click.option(
    "--gen-kwargs",
    multiple=True,
    callback=_settings,
    metavar="KEY=VALUE",
    help="A generation setting that replaces the tasks' own, for example temperature=0.7. May be repeated.",
)
@click.option(
    "--allow-code-execution", is_flag=True, help="Run code that the model writes, in a sandboxed process."
)
@yes_option
@common_options
@pass_state
def command(
    state: State,
    /,
    model: str,
    tasks: tuple[str, ...],
    apply_chat_template: bool,
    chat_template: str | None,
    **settings: Any,
) -> None:
    """Score MODEL on tasks or suites.

    Tasks are names, patterns such as 'mmlu_*', or paths of task files. MODEL is a folder, a file, registry://org/name, hf://org/name or pypi:package/path. Results are written as documents
    finish; the same command goes on where a run was interrupted. The table goes to standard output, with --json the whole record.
    """
    with state.output.progress() as progress:
        state.hub.progress = progress
        result = state.hub.evaluate(
            model,
            tasks,
            progress=progress,
            apply_chat_template=chat_template or apply_chat_template,
            **settings,
        )
    state.output.emit(result.record, lambda: state.output.table(COLUMNS, list(result_rows(result.record))))
    if not result.record["timings"]["documents_computed"]:
        state.output.note(
            "every document was finished before, so nothing was computed; --no-resume does it again"
        )
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
        _interval(score),
        "" if stderr is None else _shown(stderr),
        score["n"],
    )


def _interval(score: Mapping[str, Any]) -> str:
    """The interval of a score, no further than its metric goes: one from a standard error knows no bounds."""
    low, high = score.get("ci_low"), score.get("ci_high")
    if low is None or high is None:
        return ""
    least, most = score.get("range") or (None, None)
    if least is not None and isinstance(low, float):
        low = max(low, least)
    if most is not None and isinstance(high, float):
        high = min(high, most)
    return f"{_shown(low)} to {_shown(high)}"


def _shown(value: Any) -> str:
    """Four decimals; not of large numbers, nor of NaN and infinities, which a record has as text."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"
