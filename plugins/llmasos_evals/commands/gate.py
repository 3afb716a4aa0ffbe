"""``llmasos eval gate``: may this model be released?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.api import ExitCode, UsageError, command_options

if TYPE_CHECKING:
    from llmasos_evals.records.reading import Run
    from llmasos_evals.statistics.gate import Verdict

SCHEMA = "llmasos-gate/1"
COLUMNS = ("status", "score", "rule", "value", "baseline", "bound", "p", "sees", "why")
KINDS = ("task", "data", "signature", "shots", "draws", "template", "generation", "windows", "documents")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--baseline", type=click.Path(path_type=Path), metavar="RUN", help="The run to be no worse than."
)
@click.option(
    "--rule",
    "texts",
    multiple=True,
    metavar="RULE",
    help="Such as 'arc_easy.acc>=-0.5pp@p<0.05' or 'mmlu.acc>=0.4'. May be repeated.",
)
@click.option(
    "--rules",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with a rule a line.",
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the verdicts as JUnit XML.",
)
@click.option("--github", is_flag=True, help="Annotate the run of a GitHub workflow, on stderr.")
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(KINDS),
    help="Judge although this differs from the baseline. May be repeated.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Replicates for differences that have no formula.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which are drawn.")
@command_options
@click.pass_obj
def command(
    state: Any,
    run: Path,
    baseline: Path | None,
    texts: tuple[str, ...],
    files: tuple[Path, ...],
    junit: Path | None,
    github: bool,
    allow: tuple[str, ...],
    samples: int,
    seed: int,
) -> ExitCode:
    """Check a run against rules, relative to a baseline or absolute.

    A rule with @p<ALPHA fails only when the loss is significant at that level; without, the values decide. Exit code 1: a rule is broken.
    Exit code 2: a rule could not be judged, because the score or a comparable baseline is missing.
    """
    from llmasos_evals.records.checks import refuse_broken_signature, refuse_other_values
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.standing import IMPORTED
    from llmasos_evals.records.store import write_bytes
    from llmasos_evals.statistics.comparison import Settings
    from llmasos_evals.statistics.gate import judge
    from llmasos_evals.statistics.junit import junit_xml, workflow_lines
    from llmasos_evals.statistics.rules import read_rules

    rules = read_rules(texts, files)
    opened, compared = open_run(run), None if baseline is None else open_run(baseline)
    for judged in (opened, compared):
        if judged is None:
            continue
        judged.refuse_if_touched()
        if judged.imported:
            state.output.warn(IMPORTED.format(judged.folder))
        else:
            refuse_broken_signature(judged, state.hub)
            refuse_other_values(judged, state.hub)
    begin = time.monotonic()
    with state.output.progress() as progress:
        verdicts = judge(
            rules, opened, compared, state.hub,
            allow=frozenset(allow), settings=Settings(samples, seed), progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    if junit is not None:
        try:
            write_bytes(junit, junit_xml(verdicts, opened.folder.name, time.monotonic() - begin))
        except OSError as error:
            raise UsageError(
                f"cannot write {junit}: {error.strerror or error}", hint="choose another --junit"
            ) from None
    if github:
        for line in workflow_lines(verdicts):
            state.output.stderr.write(f"{line}\n")
    status = _status(verdicts)
    document = {
        "schema": SCHEMA,
        "status": status,
        "run": _run(opened),
        "baseline": None if compared is None else _run(compared),
        "verdicts": [_json(verdict) for verdict in verdicts],
    }
    state.output.emit(document, lambda: _human(state, verdicts))
    return {"passed": ExitCode.OK, "failed": ExitCode.RUN_FAILED, "error": ExitCode.USAGE}[status]


def _run(run: Run) -> dict[str, Any]:
    return {"path": str(run.folder), "digest": run.record["digest"], "imported": run.imported}


def _status(verdicts: list[Verdict]) -> str:
    """The worst of all: what could not be judged is worse than what failed."""
    found = {verdict.status for verdict in verdicts}
    return next(status for status in ("error", "failed", "passed") if status in found)


def _json(verdict: Verdict) -> dict[str, Any]:
    return {
        "rule": verdict.rule.text,
        "task": verdict.task,
        "metric": verdict.metric,
        "filter": verdict.filter,
        "status": verdict.status,
        "message": verdict.message,
        "value": verdict.value,
        "baseline": verdict.baseline,
        "bound": verdict.bound,
        "margin": verdict.margin,
        "p": verdict.p,
        "sees": verdict.sees,
    }


def _human(state: Any, verdicts: list[Verdict]) -> str:
    from llmasos_evals.statistics.junit import title

    def shown(value: float | None) -> Any:
        return "" if value is None else value

    rows = [
        (
            verdict.status, title(verdict), verdict.rule.text, shown(verdict.value), shown(verdict.baseline),
            shown(verdict.bound), "" if verdict.p is None else f"{verdict.p:.4g}", shown(verdict.sees), verdict.message,
        )
        for verdict in verdicts
    ]  # fmt: skip
    failed, errors = (sum(verdict.status == status for verdict in verdicts) for status in ("failed", "error"))
    count = "1 verdict" if len(verdicts) == 1 else f"{len(verdicts)} verdicts"
    summary = f"{count}: {len(verdicts) - failed - errors} passed, {failed} failed, {errors} not judged"
    table: str = state.output.table(COLUMNS, rows)
    return f"{table}\n\n{summary}"
