"""Metrics again from the answers that a run saved: other metrics, filters or statistics, no model.

The new record keeps what says where the answers come from (model, tokenizer, plugins, scorer) and names the old record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmasos.api import (
    EvalRequest,
    EvalResult,
    EvaluationError,
    HubAPI,
    InputError,
    Progress,
    UsageError,
    canonical_digest,
    merkle_root,
)
from llmasos_evals.evaluator import aggregate_runs, plan_tasks, select_tasks
from llmasos_evals.records.checks import check_samples
from llmasos_evals.records.reading import Run
from llmasos_evals.records.record import sealed
from llmasos_evals.records.replay import difference, only_these, responses_of
from llmasos_evals.records.results import group_sections
from llmasos_evals.records.runs import TaskRun, settings_section, task_section
from llmasos_evals.records.samples import pack
from llmasos_evals.records.store import SampleStore
from llmasos_evals.statistics.limits import reached
from llmasos_evals.tasks.config import MetricSpec
from llmasos_evals.tasks.library import Selection
from llmasos_evals.tasks.task import PlannedDocument, Score, Task


def rescore(
    run: Run,
    request: EvalRequest,
    hub: HubAPI,
    progress: Progress,
    *,
    metrics: Sequence[MetricSpec] = (),
    output: Path | None = None,
) -> EvalResult:
    """Score the answers of ``run`` again with the tasks that ``request`` names; ``metrics`` replace those of every task.

    Raises InputError and UnknownName for tasks as a run does; InputError when the record or the samples were changed since,
    EvaluationError when a task asks the model other questions than those that were answered, or of documents that were not.
    """
    _refuse_touched(run)
    progress.phase("reading tasks")
    selection = select_tasks(request, hub)
    if metrics:
        selection = with_metrics(selection, metrics, hub, request)
    _check_tasks(run, selection)
    # Without a chat template the questions can be put together where the model is not.
    tokenizer = hub.prepare_model(request.model).tokenizer if request.apply_chat_template else None
    runs = plan_tasks(selection, _only_scored(request, run, selection), progress, tokenizer)
    progress.phase("scoring again", sum(len(task.planned) for task in runs))
    for task in runs:
        answer_again(task, run, progress)
    tallies, scores = aggregate_runs(runs, request.bootstrap, progress, request.compat)
    sections = [
        {
            **task_section(task, request),
            **tallies[task.task.name].section(scores[task.task.name]),
            **_sampling(run.task(task.task.name), scores[task.task.name], request.interval),
        }
        for task in runs
    ]
    _check_generation(run, sections)
    origin = hub.provenance()
    kept = ("model", "tokenizer", "plugins", "scorer")
    identity = {
        **{name: run.record[name] for name in kept},
        "rescored_from": run.record["digest"],
        "rescored_by": [dict(plugin) for plugin in origin["plugins"]],
        "settings": settings_section(request),
        "tasks": [
            {name: section[name] for name in ("name", "digest", "data_digest")} for section in sections
        ],
    }
    run_key = canonical_digest(identity)
    folder = output or run.folder.with_name(f"{run.folder.name}-rescored-{run_key[:8]}")
    record = sealed(
        {
            "run_key": run_key,
            **identity,
            "tasks": sections,
            "groups": group_sections(selection, scores),
            "prompt_digest": merkle_root([tally.prompt_digest for tally in tallies.values()]),
            "samples_digest": merkle_root([tally.samples_digest for tally in tallies.values()]),
            "environment": dict(origin["environment"]),
            "execution": dict(run.record["execution"]),
            "timings": {
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": {},
                "documents_computed": 0,
                "documents_resumed": sum(len(task.planned) for task in runs),
            },
        }
    )
    with SampleStore(folder, identity, resume=False) as store:
        for task in runs:
            for sample in task.ordered:
                store.append(task.task.name, sample)
        store.finish(record)
    return EvalResult(record, folder)


def _sampling(section: Mapping[str, Any], scores: Sequence[Score], interval: float | None) -> dict[str, Any]:
    """How the documents had been chosen, which stays; whether that was enough depends on the new scores."""
    before = section.get("sampling")
    if before is None or interval is None:
        return {}
    return {"sampling": {**before, "reached": reached(scores, interval)}}


def answer_again(task: TaskRun, run: Run, progress: Progress) -> None:
    """Fill ``task.samples`` from the stored answers. Raises EvaluationError when they answer other questions."""
    for planned in task.planned:
        stored = run.sample(task.task.name, planned.index)
        reason = difference(planned, stored)
        if reason is not None:
            raise EvaluationError(
                f"task {task.task.name} asks something else now: document {planned.index}: {reason}",
                hint="the saved answers are no answers to it; run it with `llmasos eval run`",
            )
        task.samples[planned.index] = scored_again(task, planned, stored)
        progress.advance()


def scored_again(run: TaskRun, planned: PlannedDocument, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored document with what the metrics of the task take from its answers."""
    task, responses = run.task, responses_of(planned, stored)
    items, observed = task.items(planned, responses), task.observe(planned, responses)
    cluster, answers = task.cluster(planned, run.cluster_column), task.answers(planned, responses)
    return {
        **{name: value for name, value in stored.items() if name not in ("cluster", "answers")},
        **({} if cluster is None else {"cluster": cluster}),
        **({"answers": pack(answers)} if answers else {}),
        "target": pack(planned.target),
        "items": [[metric, pipeline, pack(value)] for (metric, pipeline), value in items.items()],
        "observed": dict(observed),
    }


def with_metrics(
    selection: Selection, metrics: Sequence[MetricSpec], hub: HubAPI, request: EvalRequest
) -> Selection:
    """The same tasks with other metrics; groups have no scores then, since their rules name the old ones.

    Raises UsageError for a task whose own code makes its values, and what binding a metric raises.
    """
    tasks = []
    for task in selection.tasks:
        if task.config.process_results is not None:
            raise UsageError(
                f"the values of task {task.name} come from its own code (process_results), not from metrics",
                hint="change the task file and pass it with --task-file",
            )
        config = replace(task.config, metric_list=tuple(metrics))
        tasks.append(Task(config, hub, allow_task_code=request.allow_task_code))
    return Selection(tuple(tasks))


def refuse_imported(run: Run) -> None:
    """Raise UsageError for a run of another harness: what its tasks asked is not known here."""
    if run.imported:
        raise UsageError(
            f"{run.folder} was computed by another harness and imported",
            hint="only runs of llmasos can be scored again",
        )


def metric_spec(text: str) -> MetricSpec:
    """A metric from the command line: ``NAME`` or ``NAME:{"option": value}``. Raises UsageError."""
    name, colon, options = text.partition(":")
    try:
        given = json.loads(options) if colon else {}
        if not name or not isinstance(given, dict):
            raise ValueError("not an object")
    except ValueError:
        raise UsageError(
            f"--metric {text}: options are no JSON object",
            hint="""for example --metric 'exact_match:{"ignore_case": true}'""",
        ) from None
    return MetricSpec(name, options=given)


def _refuse_touched(run: Run) -> None:
    """A new record is sealed over the answers: those that are lost or altered must not come out of it as whole."""
    run.refuse_if_touched()
    found = check_samples(run)
    if found:
        raise InputError(
            f"the samples in {run.folder} are not those of its record: {found[0]}",
            hint="compute the run again, or ask whoever gave you the files",
        )


def _check_tasks(run: Run, selection: Selection) -> None:
    absent = [task.name for task in selection.tasks if task.name not in run.tasks]
    if absent:
        raise InputError(
            f"{run.folder} has no answers for task {absent[0]}",
            hint=f"a task file that is to score them has the name of the task: {', '.join(run.tasks)}",
        )


def _only_scored(request: EvalRequest, run: Run, selection: Selection) -> EvalRequest:
    """The request for the very documents that were answered: a limit that was found on the way is no limit to ask for."""
    return only_these(request, {task.name: list(run.offsets(task.name).indices) for task in selection.tasks})


def _check_generation(run: Run, sections: Sequence[Mapping[str, Any]]) -> None:
    for section in sections:
        there = run.task(section["name"])["generation"]
        if section["generation"] != there:
            raise EvaluationError(
                f"task {section['name']} generates with other settings now: {section['generation']}, and was answered with {there}",
                hint="run it with `llmasos eval run`",
            )
