"""``llmasos eval compare``: do runs differ by more than chance?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.api import UsageError, command_options

if TYPE_CHECKING:
    from llmasos_evals.records.reading import Run
    from llmasos_evals.statistics.suites import Comparison, Row

SCHEMA = "llmasos-comparison/1"
COLUMNS = (
    "task",
    "metric",
    "n",
    "A",
    "B",
    "B - A",
    "95 % interval",
    "p",
    "p Holm",
    "",
    "better/same/worse",
    "sees",
    "test",
)
#: What may differ between two runs; docs/explanation/statistics.md says which are refused.
KINDS = ("task", "data", "signature", "shots", "draws", "template", "generation", "windows")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="A B [C...]", type=click.Path(path_type=Path))
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    help="Only this task or group, or pattern. May be repeated.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this metric. May be repeated.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Level at which a difference counts as one, after Holm's correction.",
)
@click.option(
    "--power",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Chance of finding the difference in the column `sees`.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Random exchanges and replicates, where not all are counted.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which are drawn.")
@click.option(
    "--allow", multiple=True, type=click.Choice(KINDS), help="Compare although this differs. May be repeated."
)
@command_options
@click.pass_obj
def command(
    state: Any,
    runs: tuple[Path, ...],
    tasks: tuple[str, ...],
    metrics: tuple[str, ...],
    alpha: float,
    power: float,
    samples: int,
    seed: int,
    allow: tuple[str, ...],
) -> None:
    """Compare runs with the first of them, document by document.

    A, B are folders of runs, or record files with their samples. Documents are paired by their digests; runs of different tasks, data or
    metrics are refused, other differences are warnings. `sees` is the smallest difference that had a fair chance to be found.
    """
    if len(runs) < 2:
        raise UsageError("one run cannot be compared", hint="name two: llmasos eval compare A B")
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.standing import IMPORTED, standing_of
    from llmasos_evals.statistics.comparison import Settings
    from llmasos_evals.statistics.power import Design
    from llmasos_evals.statistics.suites import Choice, compare_runs, corrected

    opened = [open_run(path) for path in runs]
    settings = Settings(samples, seed, Design(alpha, power))
    choice = Choice(tasks, metrics, frozenset(allow))  # type: ignore[arg-type]
    for run in opened:
        for remark in [IMPORTED.format(run.folder)] if run.imported else standing_of(run, state.hub).remarks:
            state.output.warn(remark)
    with state.output.progress() as progress:
        found = [
            compare_runs(opened[0], other, state.hub, choice=choice, settings=settings, progress=progress)
            for other in opened[1:]
        ]
    corrected(found)
    if not any(comparison.rows for comparison in found):
        raise _nothing(opened, found)
    for comparison, other in zip(found, opened[1:], strict=True):
        named = f"{_name(other)}: " if len(found) > 1 else ""
        for remark in comparison.remarks:
            state.output.warn(f"{named}{remark}")
        for what, why in comparison.skipped:
            state.output.warn(f"{named}{what} is not compared: {why}")
    document = {
        "schema": SCHEMA,
        "alpha": alpha,
        "power": power,
        "samples": samples,
        "seed": seed,
        "tests": sum(row.result.p is not None for comparison in found for row in comparison.rows),
        "baseline": _run(opened[0]),
        "comparisons": [
            {
                "run": _run(other),
                "rows": [row_json(row, alpha) for row in comparison.rows],
                "skipped": [{"what": what, "why": why} for what, why in comparison.skipped],
                "remarks": comparison.remarks,
            }
            for comparison, other in zip(found, opened[1:], strict=True)
        ],
    }
    state.output.emit(document, lambda: _human(state, opened, found, alpha))


def _nothing(runs: Sequence[Run], found: Sequence[Comparison]) -> UsageError:
    """What to say when no score of any run can be compared."""
    reasons = [f"{what}: {why}" for comparison in found for what, why in comparison.skipped]
    refused = sorted({kind for comparison in found for kind in comparison.refused})
    message = f"nothing can be compared: {reasons[0] if reasons else 'no score was chosen'}"
    if not any(set(runs[0].tasks) & set(other.tasks) for other in runs[1:]):
        has = "; ".join(f"{_name(run)} has {_few(run.tasks)}" for run in runs)
        message = f"nothing can be compared: the runs have no task in common ({has})"
        hint = "score both models on the same tasks"
    elif refused:
        hint = f"{' '.join(f'--allow {kind}' for kind in refused)} compares although that differs"
    else:
        hint = "`llmasos eval show RUN` shows what a run has" if reasons else "look at --task and --metric"
    return UsageError(message, hint=hint)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") or "none"


def _name(run: Run) -> str:
    return run.folder.name or str(run.folder)


def _model(run: Run) -> str:
    return str((run.record["model"] or {}).get("ref") or "a model that the record does not name")


def _computed(run: Run) -> str:
    """The model and its precision, in which two runs of one model often differ."""
    dtype = (run.record["model"] or {}).get("dtype")
    return f"{_model(run)}, {dtype}" if dtype else _model(run)


def _run(run: Run) -> dict[str, Any]:
    return {
        "path": str(run.folder),
        "model": _model(run),
        "digest": run.record["digest"],
        "imported": run.imported,
    }


def row_json(row: Row, alpha: float) -> dict[str, Any]:
    """One comparison in JSON types."""
    result = row.result
    return {
        "kind": row.kind,
        "task": row.task,
        "metric": row.metric,
        "filter": row.filter,
        "unit": row.unit,
        "higher_is_better": row.higher_is_better,
        "documents": result.documents,
        "a": result.a,
        "b": result.b,
        "difference": result.difference,
        "stderr": result.stderr,
        "ci_low": result.low,
        "ci_high": result.high,
        "ci_method": result.method,
        "p": result.p,
        "p_holm": row.p_holm,
        "p_bootstrap": result.p_bootstrap,
        "test": result.test,
        "significant": None if row.p_holm is None else row.p_holm < alpha,
        "verdict": verdict(row, alpha),
        "better": result.wins,
        "same": result.ties,
        "worse": result.losses,
        "detectable": result.detectable,
        "note": row.note,
    }


def verdict(row: Row, alpha: float) -> str:
    """``better`` or ``worse`` where the difference is significant after correction, ``untested``, else an empty text."""
    if row.p_holm is None:
        return "untested"
    if row.p_holm >= alpha:
        return ""
    return "better" if (row.result.difference > 0) == row.higher_is_better else "worse"


def _human(state: Any, runs: Sequence[Run], found: Sequence[Comparison], alpha: float) -> str:
    parts = [f"A  {_name(runs[0])}  {_computed(runs[0])}"]
    for other, comparison in zip(runs[1:], found, strict=True):
        parts.append(f"B  {_name(other)}  {_computed(other)}")
        rows = []
        for row in comparison.rows:
            result = row.result
            metric = row.metric if row.filter == "none" else f"{row.metric},{row.filter}"
            counts = "" if result.wins is None else f"{result.wins}/{result.ties}/{result.losses}"
            span = (
                ""
                if result.low is None or result.high is None
                else f"[{result.low:+.4f}, {result.high:+.4f}]"
            )
            rows.append(
                (
                    row.task, metric, result.documents, result.a, result.b, f"{result.difference:+.4f}", span,
                    p_text(result.p), p_text(row.p_holm), verdict(row, alpha), counts,
                    "" if result.detectable is None else result.detectable, result.test or row.note,
                )
            )  # fmt: skip
        parts.append(state.output.table(COLUMNS, rows) if rows else "nothing can be compared")
    return "\n\n".join(parts)


def p_text(p: float | None) -> str:
    """A p-value as people read it."""
    if p is None:
        return ""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
