"""The ``harness`` evaluator: task files to prompts to scores to a record.

Order of work: task files first (a misspelt field should not cost a model load), then what can be known of the model without
its weights, then every prompt, then scoring, shard by shard, each document written as its last answer arrives, then metrics
and the record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from llmasos.api import (
    EvalRequest,
    EvalResult,
    EvaluationError,
    Evaluator,
    HubAPI,
    InputError,
    LlmasosError,
    MissingDependency,
    ModelNotFound,
    PreparedModel,
    Progress,
    Tokenizer,
    UnknownName,
    UsageError,
    canonical_digest,
    merkle_root,
)
from llmasos_evals.records.record import sealed
from llmasos_evals.records.results import Tally, group_sections
from llmasos_evals.records.runs import TaskRun, describe, execution_section
from llmasos_evals.records.samples import is_whole, sample_line
from llmasos_evals.records.store import SampleStore, require_writable
from llmasos_evals.samples import Samples
from llmasos_evals.scoring.session import ScoringSession
from llmasos_evals.scoring.suite import Finished
from llmasos_evals.tasks.chat import chat_settings
from llmasos_evals.tasks.library import Selection, select
from llmasos_evals.tasks.names import Misspelt, Names, expanded
from llmasos_evals.tasks.task import Score, Task


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begin, 3)


class HarnessEvaluator:
    """Runs lm-evaluation-harness task files natively."""

    def evaluate(self, request: EvalRequest, hub: HubAPI, progress: Progress) -> EvalResult:
        """Run the tasks and write samples and record.

        Raises InputError and UnknownName for tasks, what ``load_model`` raises for the model, UsageError when the output
        folder holds another run, EvaluationError when scoring cannot be completed. Finished documents are kept in any case.
        """
        require_writable(Path(request.output or hub.cache_dir / "evals"))
        request = replace(request, tasks=expanded(request.tasks, Names(request.include, hub, progress)))
        if request.engine == "lm-eval":
            return _elsewhere(request, hub, progress)
        watch = Stopwatch()
        with watch.phase("tasks"):
            progress.phase("reading tasks")
            selection = select_tasks(request, hub)
        with watch.phase("model"):
            progress.phase(f"opening {request.model}")
            prepared = _prepared(request, hub)
        samples = Samples(request, selection) if request.limit == "auto" else None
        with watch.phase("prompts"):
            asked = request if samples is None else samples.pilot()
            runs = plan_tasks(selection, asked, progress, prepared.tokenizer)
        request = without_idle(request, runs, progress)
        session = ScoringSession(request, prepared, hub)
        origin = hub.provenance()
        described = describe(request, prepared, session, runs, origin)
        identity = described | {"libraries": origin["environment"]["libraries"]}
        run_key = canonical_digest(identity)
        folder = request.output or hub.cache_dir / "evals" / run_key[:16]
        with SampleStore(Path(folder), identity, resume=request.resume) as store:

            def answer(runs: Sequence[TaskRun]) -> None:
                try:
                    with watch.phase("scoring"):
                        take_over(runs, store)
                        for document in session.answer(
                            runs,
                            {run.task.name: run.samples for run in runs},
                            folder=store.work,
                            context=run_key,
                            origin=origin,
                            progress=progress,
                        ):
                            _finish(document, store)
                except BaseException as error:
                    _say_what_is_kept(runs, store, progress, stopped=isinstance(error, KeyboardInterrupt))
                    raise

            answer(runs)
            if samples is not None:
                _, scores = aggregate_runs(runs, request.bootstrap, progress, request.compat)
                rest = samples.rest(runs, scores)
                if rest is not None:
                    more = plan_tasks(selection, rest, progress, prepared.tokenizer)
                    answer(more)
                    samples.join(runs, more)
            with watch.phase("metrics"):
                tallies, scores = aggregate_runs(runs, request.bootstrap, progress, request.compat)
            for run in runs:
                _report_counts(run, tallies[run.task.name], progress)
            if samples is not None:
                samples.report(runs, scores, progress)
            record = sealed(
                {
                    "run_key": run_key,
                    **described,
                    "tasks": [
                        section
                        | tallies[run.task.name].section(scores[run.task.name])
                        | ({} if run.sampling is None else {"sampling": dict(run.sampling)})
                        for section, run in zip(described["tasks"], runs, strict=True)
                    ],
                    "groups": sorted(group_sections(selection, scores), key=lambda group: group["name"]),
                    "prompt_digest": merkle_root([tally.prompt_digest for tally in tallies.values()]),
                    "samples_digest": merkle_root([tally.samples_digest for tally in tallies.values()]),
                    "environment": dict(origin["environment"]),
                    "execution": execution_section(request, session.counts()),
                    "timings": {
                        "started": watch.started,
                        "seconds": watch.seconds,
                        "documents_computed": sum(len(run.samples) - run.resumed for run in runs),
                        "documents_resumed": sum(run.resumed for run in runs),
                    },
                }
            )
            store.finish(record)
        return EvalResult(record, Path(folder))


def _elsewhere(request: EvalRequest, hub: HubAPI, progress: Progress) -> EvalResult:
    """Have the evaluator ``lm-eval``, which another plugin brings, do it. Raises MissingDependency without it."""
    if not any(provided.name == "lm-eval" for provided in hub.names("evaluator")):
        raise MissingDependency(
            "the engine lm-eval needs the plugin llmasos-lmeval, which is not enabled or not installed",
            hint='pip install "llmasos[lm-eval]"; `llmasos plugin list` shows the plugins',
        )
    evaluator: Evaluator = hub.get("evaluator", "lm-eval")()
    return evaluator.evaluate(request, hub, progress)


# ---- planning ---------------------------------------------------------------------------------------------------------


def select_tasks(request: EvalRequest, hub: HubAPI) -> Selection:
    """The tasks that were asked for; also for those who score or check a finished run again. Raises what ``select`` raises."""

    def found() -> Selection:
        return select(
            request.tasks,
            include=request.include,
            hub=hub,
            allow_task_code=request.allow_task_code,
            allow_code_execution=request.allow_code_execution,
        )

    try:
        return found()
    except InputError:
        _refuse_swapped(request, hub)
        raise
    except UnknownName as error:
        _refuse_swapped(request, hub)
        # The task may be one of a plugin that the model requires: looking at the model offers to install it. Only models of
        # a registry say what they require before they are here, and a name with a slip in it is worth no download.
        registered = request.model.startswith("registry://")
        with suppress(ModelNotFound):
            hub.resolve_model(request.model, fetch=registered and not isinstance(error, Misspelt))
        try:
            return found()
        except Misspelt as again:
            if registered:
                again.hint = f"{again.hint} Or, if a plugin that the model requires has it: llmasos model pull {request.model}"
            raise


def _refuse_swapped(request: EvalRequest, hub: HubAPI) -> None:
    """Raise UsageError where the model is a task, and a task is a model."""
    if not _is_task(request.model, request, hub):
        return
    for name in request.tasks:
        remote = name.startswith(("hf://", "registry://", "pypi:")) and not name.startswith("hf://datasets/")
        if remote or name.endswith(".gguf") or Path(name, "config.json").is_file():
            rest = [request.model, *(other for other in request.tasks if other != name)]
            raise UsageError(
                f"{request.model} is a task and {name} a model: the model comes first",
                hint=f"llmasos eval {name} {' '.join(rest)}",
            )


def _is_task(name: str, request: EvalRequest, hub: HubAPI) -> bool:
    path = Path(name)
    if path.exists():
        return path.suffix in (".yaml", ".yml")
    with suppress(LlmasosError):
        return Names(request.include, hub).known(name, None) is not None
    return False


def _prepared(request: EvalRequest, hub: HubAPI) -> PreparedModel:
    """The model without its weights. Raises what ``prepare_model`` does, with another hint where a task was named."""
    try:
        return hub.prepare_model(
            request.model, device=request.device, dtype=request.dtype, allow_pickle=request.allow_pickle
        )
    except ModelNotFound as error:
        if _is_task(request.model, request, hub):
            error.hint = (
                f"{request.model} is a task; the model comes first: llmasos eval MODEL {request.model}"
            )
        raise


def plan_tasks(
    selection: Selection, request: EvalRequest, progress: Progress, tokenizer: Tokenizer | None = None
) -> list[TaskRun]:
    """Every document that was asked for, with its requests; tasks by name, since their order decides nothing.

    ``tokenizer`` is needed for a chat template only. Raises InputError, UsageError for documents that are not there and for
    a template the model does not have.
    """
    chat = chat_settings(
        tokenizer,
        apply_chat_template=request.apply_chat_template,
        system_instruction=request.system_instruction,
        fewshot_as_multiturn=request.fewshot_as_multiturn,
    )
    chosen = request.samples or {}
    sizes = [
        len(chosen.get(task.name, range(min(task.size(), request.limit or task.size()))))
        for task in selection.tasks
    ]
    progress.phase("building prompts", sum(sizes))
    runs = []
    for task in sorted(selection.tasks, key=lambda task: task.name):
        for remark in task.remarks:
            progress.warn(f"{task.name}: {remark}")
        wanted = _wanted(request, task)
        planned = []
        for document in task.plan(
            limit=request.limit,
            num_fewshot=request.num_fewshot,
            seed=request.seed,
            compat=request.compat,
            chat=chat,
            documents=wanted,
            gen_kwargs=request.gen_kwargs,
        ):
            planned.append(document)
            progress.advance()
        for note in task.notes:
            progress.warn(f"{task.name}: {note}")
        if wanted is not None and not wanted:
            continue
        if not planned:
            raise EvaluationError(f"task {task.name} has no documents", hint="check its data file and split")
        column = task.cluster_column(request.cluster_column)
        task.cluster(planned[0], column)  # a column that is not there is said before anything is computed
        runs.append(TaskRun(task, tuple(planned), column))
    return runs


def without_idle(request: EvalRequest, runs: Sequence[TaskRun], progress: Progress) -> EvalRequest:
    """The request without the settings that change no answer of these tasks, one warning for each.

    They must not be in the record either: it would be another run than the same one without them.
    """
    asked = {
        "--num-fewshot": ("num_fewshot", None, "running text has no prompt to put examples into"),
        "--stride": ("stride", None, "no task scores running text"),
        "--gen-kwargs": ("gen_kwargs", {}, "no task has the model write"),
        "--limit": ("limit", None, "no task has more documents"),
    }
    given = {name: told for name, told in asked.items() if getattr(request, told[0]) != told[1]}
    if not given:
        return request
    kinds = {one.kind for run in runs for planned in run.planned for one in planned.requests}
    used = {
        "--num-fewshot": kinds != {"loglikelihood_rolling"},
        "--stride": "loglikelihood_rolling" in kinds,
        "--gen-kwargs": "generate_until" in kinds,
        "--limit": request.samples is not None
        or request.limit == "auto"
        or any(run.task.size() > int(request.limit or 0) for run in runs),
    }
    for name, (attribute, default, why) in given.items():
        if not used[name]:
            progress.warn(f"{name} has no effect: {why}")
            request = replace(request, **{attribute: default})
    return request


def _wanted(request: EvalRequest, task: Task) -> frozenset[int] | None:
    """The documents of a task that were asked for, None for all. Raises UsageError for one that is not there."""
    named = None if request.samples is None else request.samples.get(task.name)
    if named is None:
        return None
    absent = [index for index in named if not 0 <= index < min(task.size(), request.limit or task.size())]
    if absent:
        raise UsageError(
            f"task {task.name} has no document {absent[0]}", hint=f"it has documents 0 to {task.size() - 1}"
        )
    return frozenset(named)


# ---- scoring ----------------------------------------------------------------------------------------------------------


def take_over(runs: Sequence[TaskRun], store: SampleStore) -> None:
    """Fill ``samples`` of each run with its finished documents. Raises EvaluationError for one that is damaged."""
    for run in runs:
        wanted = {document.index: document for document in run.planned}
        run.samples = store.finished(run.task.name).only(wanted)
        for index, sample in run.samples.items():
            if not is_whole(sample, wanted[index]):
                raise EvaluationError(
                    f"document {index} of task {run.task.name} in {store.folder} is damaged",
                    hint="--no-resume computes the documents again; or use another --output",
                )
        run.resumed = len(run.samples)


def _finish(document: Finished, store: SampleStore) -> None:
    """Write a document down: it survives a kill from here on."""
    run, planned, responses = document.run, document.planned, document.responses
    items, observed = run.task.items(planned, responses), run.task.observe(planned, responses)
    cluster = run.task.cluster(planned, run.cluster_column)
    answers = run.task.answers(planned, responses)
    sample = sample_line(planned, responses, items, observed, cluster, answers)
    run.samples.add(planned.index, *store.append(run.task.name, sample))


def _report_counts(run: TaskRun, tally: Tally, progress: Progress) -> None:
    """One warning line for each thing that did not go as the task intended."""
    counts = tally.counts()
    name, requests = run.task.name, counts["requests"]
    if counts["truncated_requests"]:
        progress.warn(
            f"{name}: {counts['truncated_requests']} of {requests} requests are longer than the model's context; "
            f"{counts['truncated_tokens']} tokens were left out on the left"
        )
    if counts["cut_continuations"]:
        progress.warn(
            f"{name}: {counts['cut_continuations']} of {requests} continuations alone are longer than the model's context; "
            f"{counts['unscored_tokens']} of their tokens are not scored"
        )
    if counts["empty_continuations"]:
        progress.warn(
            f"{name}: {counts['empty_continuations']} of {requests} continuations are empty; "
            "their log-probability counts as 0"
        )
    if counts["observed"].get("labels_out_of_range"):
        progress.warn(
            f"{name}: the label of {counts['observed']['labels_out_of_range']} of {len(run.planned)} documents names no "
            "choice; they count as wrong"
        )


def _say_what_is_kept(
    runs: Sequence[TaskRun], store: SampleStore, progress: Progress, *, stopped: bool
) -> None:
    done, total = sum(len(run.samples) for run in runs), sum(len(run.planned) for run in runs)
    if done:
        progress.warn(
            f"{done} of {total} documents are kept in {store.folder}; the same command goes on from there"
        )
    elif stopped:
        progress.warn(
            "nothing is kept yet: documents are written when the part of the work that they are in is done"
        )


# ---- results ----------------------------------------------------------------------------------------------------------


def aggregate_runs(
    runs: Sequence[TaskRun], bootstrap: int, progress: Progress, compat: str = "native"
) -> tuple[dict[str, Tally], dict[str, list[Score]]]:
    """What came out of each task, from the finished documents."""
    progress.phase("computing metrics", len(runs))
    tallies, scores = {}, {}
    for run in runs:
        tally = tallies[run.task.name] = Tally(run.ordered)
        scores[run.task.name] = run.task.aggregate(
            tally.columns, bootstrap=bootstrap, compat=compat, clusters=tally.clusters(run.cluster_column)
        )
        progress.advance()
    return tallies, scores
