"""``llmasos eval power``: what difference will this evaluation be able to show?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.api import UsageError, command_options

if TYPE_CHECKING:
    from llmasos_evals.records.reading import Run
    from llmasos_evals.statistics.power import Design

SCHEMA = "llmasos-power/1"
COLUMNS = (
    "task",
    "metric",
    "documents",
    "deviation",
    "r",
    "paired sees",
    "unpaired sees",
    "needs",
    "needs unpaired",
    "from",
)
#: Correlation of two models' scores on a document where no runs tell it: what neighbouring checkpoints usually exceed.
CORRELATION = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task can show. ``deviation`` is of one model's scores; the ``sees`` are smallest differences, the ``needs`` numbers
    of documents for the wanted one. ``known`` says where the deviation and correlation come from."""

    task: str
    metric: str
    filter: str
    documents: int
    deviation: float
    correlation: float
    paired_sees: float
    unpaired_sees: float
    effect: float | None
    needs: int | None
    needs_unpaired: int | None
    known: str


@click.command()
@click.argument("tasks", nargs=-1, metavar="[TASK...]")
@click.option(
    "--effect",
    metavar="X",
    help="Difference to be found, such as 1pp or 0.02: says how many documents it needs.",
)
@click.option(
    "--documents", type=click.IntRange(min=2), metavar="N", help="Documents of each task, instead of all."
)
@click.option(
    "--baseline",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A run to take deviations from; a second one gives the correlation, too.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of right answers to expect without a baseline; one half is the worst case.",
)
@click.option(
    "--correlation",
    type=click.FloatRange(-1, 1, max_open=True),
    metavar="R",
    help=f"Of the two models' scores on a document. [default: from two baselines, else {CORRELATION}]",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this metric. May be repeated.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Two-sided level of the test.",
)
@click.option(
    "--power",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Chance of finding the difference.",
)
@click.option(
    "--include",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Look for task files here too. May be repeated.",
)
@click.option("--allow-task-code", is_flag=True, help="Let task files run the Python functions beside them.")
@command_options
@click.pass_obj
def command(
    state: Any,
    tasks: tuple[str, ...],
    effect: str | None,
    documents: int | None,
    baseline: tuple[Path, ...],
    rate: float,
    correlation: float | None,
    metrics: tuple[str, ...],
    alpha: float,
    power: float,
    include: tuple[Path, ...],
    allow_task_code: bool,
) -> None:
    """Say before a run what difference between two models it can show.

    With --baseline, what is known of its tasks is used (TASK may be patterns); without, TASKs are looked up and right answers are assumed
    to be a coin of --rate. `paired` compares two models on the same documents, as `llmasos eval compare` does.
    """
    from llmasos_evals.statistics.power import Design

    if len(baseline) > 2:
        raise UsageError("more than two baselines", hint="one gives deviations, two give the correlation")
    if not tasks and not baseline:
        raise UsageError("no task was named", hint="name tasks, or a --baseline to take them from")
    design = Design(alpha, power)
    with state.output.progress() as progress:
        if baseline:
            found = list(
                _from_runs(
                    state.hub, baseline, tasks, metrics, documents, effect, correlation, design, progress
                )
            )
        else:
            found = list(
                _from_files(
                    state.hub, tasks, include, allow_task_code, documents, effect, rate, correlation, design
                )
            )
    if not found:
        raise UsageError("no score was chosen", hint="look at TASK and --metric")
    document = {"schema": SCHEMA, "alpha": alpha, "power": power, "plans": [asdict(plan) for plan in found]}
    state.output.emit(document, lambda: state.output.table(COLUMNS, [_row(plan) for plan in found]))


def _row(plan: Plan) -> tuple[Any, ...]:
    metric = plan.metric if plan.filter == "none" else f"{plan.metric},{plan.filter}"
    shown = (
        "" if plan.needs is None else plan.needs,
        "" if plan.needs_unpaired is None else plan.needs_unpaired,
    )
    return (
        plan.task, metric, plan.documents, plan.deviation, f"{plan.correlation:.2f}",
        plan.paired_sees, plan.unpaired_sees, *shown, plan.known,
    )  # fmt: skip


def _plan(
    task: str,
    score: Mapping[str, Any],
    size: int,
    deviation: float,
    correlation: float,
    effect: str | None,
    design: Design,
    known: str,
) -> Plan:
    from llmasos_evals.statistics.amounts import amount
    from llmasos_evals.statistics.power import detectable, documents_needed, paired_deviation

    paired, unpaired = paired_deviation(deviation, correlation), paired_deviation(deviation, 0.0)
    wanted = (
        None if effect is None else amount(effect, tuple(score["range"] or (None, None)), score["metric"])
    )
    return Plan(
        task,
        score["metric"],
        score["filter"],
        size,
        deviation,
        correlation,
        detectable(paired / math.sqrt(size), design),
        detectable(unpaired / math.sqrt(size), design),
        wanted,
        None if wanted is None else documents_needed(wanted, paired, design),
        None if wanted is None else documents_needed(wanted, unpaired, design),
        known,
    )


def _from_files(
    hub: Any,
    tasks: tuple[str, ...],
    include: tuple[Path, ...],
    allow_task_code: bool,
    documents: int | None,
    effect: str | None,
    rate: float,
    correlation: float | None,
    design: Design,
) -> Iterator[Plan]:
    """Plans for tasks that nobody has run: answers are right or wrong at a rate."""
    from llmasos_evals.tasks.library import select
    from llmasos_evals.tasks.names import Names, expanded

    score = {"metric": "right or wrong", "filter": "none", "range": (0.0, 1.0)}
    r = CORRELATION if correlation is None else correlation
    named = expanded(tasks, Names(include, hub))
    for task in select(named, include=include, hub=hub, allow_task_code=allow_task_code).tasks:
        size = max(2, documents or task.size())
        known = f"assumed: rate {rate:g}" + ("" if correlation is not None else f", r {CORRELATION}")
        yield _plan(task.name, score, size, math.sqrt(rate * (1 - rate)), r, effect, design, known)


def _from_runs(
    hub: Any,
    baseline: tuple[Path, ...],
    tasks: tuple[str, ...],
    metrics: tuple[str, ...],
    documents: int | None,
    effect: str | None,
    correlation: float | None,
    design: Design,
    progress: Any,
) -> Iterator[Plan]:
    """Plans from what a run, or two, have shown."""
    from llmasos_evals.records.reading import open_run

    runs = [open_run(path) for path in baseline]
    for task in runs[0].tasks:
        if tasks and not any(fnmatchcase(task, pattern) for pattern in tasks):
            continue
        seen = _correlations(hub, runs, task, metrics, progress) if len(runs) == 2 else {}
        for score in runs[0].task(task)["scores"]:
            key = (score["metric"], score["filter"])
            stderr = score["stderr"]
            if (
                (metrics and score["metric"] not in metrics)
                or not isinstance(stderr, float | int)
                or stderr <= 0
            ):
                continue
            known, r = "baseline", seen.get(key)
            if correlation is not None:
                r = correlation
            elif r is None:
                known, r = f"baseline, r {CORRELATION} assumed", CORRELATION
            # The standard error grows with the root of n for every metric here; clusters are in it.
            if not score["n"]:
                continue
            deviation = stderr * math.sqrt(score["n"])
            yield _plan(task, score, documents or score["n"], deviation, r, effect, design, known)


def _correlations(
    hub: Any, runs: list[Run], task: str, metrics: tuple[str, ...], progress: Any
) -> dict[tuple[str, str], float]:
    """Correlation of two runs' scores by (metric, filter), from the standard errors of each and of their difference."""
    import glob

    from llmasos_evals.statistics.power import USUAL
    from llmasos_evals.statistics.suites import Choice, compare_runs

    if task not in runs[1].tasks:
        return {}
    found = compare_runs(
        runs[0], runs[1], hub, choice=Choice((glob.escape(task),), metrics), progress=progress
    )
    errors = [
        {(score["metric"], score["filter"]): score["stderr"] for score in run.task(task)["scores"]}
        for run in runs
    ]
    out = {}
    for row in found.rows:
        key = (row.metric, row.filter)
        both = None if row.result.detectable is None else row.result.detectable / USUAL.reach
        a, b = errors[0].get(key), errors[1].get(key)
        if (
            row.kind == "task"
            and both is not None
            and all(isinstance(x, float | int) and x > 0 for x in (a, b))
        ):
            out[key] = min(0.999, max(-0.999, (a**2 + b**2 - both**2) / (2 * a * b)))  # type: ignore[operator]
    return out
