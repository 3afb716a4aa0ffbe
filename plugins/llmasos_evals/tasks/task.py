"""A task: its documents, the requests each becomes, and what the answers are worth.

``plan`` -> requests -> (a scorer) -> responses -> ``items`` -> ``aggregate``. Everything a task does is a function of
its file, its data, the seed and the arguments; ``digest``, ``data_digest`` and ``code`` say which ones those were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmasos.api import (
    ChoiceOutcome,
    EvaluationError,
    HubAPI,
    InputError,
    Outcome,
    Response,
    UsageError,
)
from llmasos_evals.datasets.rows import copied
from llmasos_evals.digests import digest, plain
from llmasos_evals.metrics.likelihood import Accuracy, ties
from llmasos_evals.metrics.measures import FunctionMetric, Measure, TaskMetric, bind
from llmasos_evals.statistics.clusters import Clusters
from llmasos_evals.statistics.intervals import interval
from llmasos_evals.tasks.chat import PLAIN, ChatSettings
from llmasos_evals.tasks.config import TaskConfig, digest_input
from llmasos_evals.tasks.documents import Documents
from llmasos_evals.tasks.filters import build_pipeline
from llmasos_evals.tasks.functions import TaskCode, repeatable_randomness
from llmasos_evals.tasks.outcomes import outcome_of, plain_answers
from llmasos_evals.tasks.planning import Plan, PlannedDocument, Planner
from llmasos_evals.tasks.rules import Shape, resolve_rules, shape_of


@dataclass(frozen=True, slots=True)
class Score:
    """A value of a task or group. ``n`` documents went into it; ``signature`` says exactly what was computed.

    ``ci_low`` and ``ci_high`` bound the 95 % interval, ``stderr_method`` says how it was found; ``range`` is what the metric
    can be at all.
    """

    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool
    signature: str
    ci_low: float | None = None
    ci_high: float | None = None
    stderr_method: str | None = None
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)


class Task:
    """A task file brought to life. Reads no data before it is asked for some.

    Raises at construction what can be known from the file alone: InputError, UsageError (task code not allowed),
    UnknownName (metric), MissingDependency (a metric's library).
    """

    def __init__(
        self,
        config: TaskConfig,
        hub: HubAPI,
        *,
        allow_task_code: bool = False,
        allow_code_execution: bool = False,
    ) -> None:
        self.config = config
        self.name = config.task
        self.alias = config.task_alias or config.task
        self.version = str(config.metadata.get("version", "unversioned"))
        self.output_type = config.output_type
        self.num_fewshot = config.num_fewshot or 0
        note = config.metadata.get("attribution")
        self.attribution: str | None = None if note is None else str(note)

        if config.unsafe_code and not allow_code_execution:
            raise UsageError(
                f"task {self.name} runs programs that the model writes, which was not allowed",
                hint="read docs/reference/metrics.md on the sandbox, then add --allow-code-execution",
            )
        self._code = code = TaskCode(
            self.name,
            allowed=allow_task_code,
            base=config.source.parent,
            execution=allow_code_execution,
            guarded=config.unsafe_code,
        )
        self._rules = resolve_rules(config, code)
        self._pipelines = []
        for spec in config.filter_list:
            steps = tuple((code.resolve(step), code.resolve(dict(options))) for step, options in spec.steps)
            self._pipelines.append(build_pipeline(replace(spec, steps=steps), config.source, code.filters))
        self._measures, remarks = bind(config, code, hub, execution=allow_code_execution)
        #: Lines the user should see, for example metric options without effect.
        self.remarks: tuple[str, ...] = (
            *remarks,
            *(
                f"its code did without the package {name}, which is not installed"
                for name in sorted(code.missing)
            ),
        )
        #: The same, known once the prompts are built.
        self.notes: tuple[str, ...] = ()
        #: File -> SHA-256 of the Python files that the task runs, relative to the folder of the task file.
        self.code: Mapping[str, str] = dict(code.digests)
        #: SHA-256 of everything in the file that can change a number, and of the code.
        self.digest = digest(digest_input(config, self.code))
        self._documents = Documents(config, self._rules, hub)

    def size(self) -> int:
        """Documents that would be scored without a limit."""
        return len(self._documents.scored)

    @property
    def measures(self) -> Mapping[str, Measure]:
        """The metrics of the task by name, as this task uses them."""
        return self._measures

    def data_digest(self, shots: int) -> str:
        """SHA-256 over the canonical rows that prompts with so many examples are made of, as they lie in the files.

        The scored split, and with examples the pool they are drawn from; without any the pool is not even fetched.
        """
        return self._documents.digest(pool=shots > 0)

    def data_origin(self, shots: int) -> Mapping[str, str | None]:
        """Where the documents come from: kind, name, config, revision, split, and with examples fewshot_split."""
        return self._documents.origin(pool=shots > 0)

    def cluster_column(self, asked: str | None = None) -> str | None:
        """The column whose equal values make documents a cluster: as asked for, else as the task's metadata say."""
        named = asked or self.config.metadata.get("cluster")
        return None if named is None else str(named)

    def cluster(self, planned: PlannedDocument, column: str | None) -> str | None:
        """The cluster of a document. Raises InputError when it has no such column."""
        return None if column is None else self._label(planned.doc, planned.index, column)

    def clusters(self, column: str | None) -> list[str] | None:
        """The clusters of all documents, scored or not. Raises InputError when one has no such column."""
        if column is None:
            return None
        return [self._label(doc, index, column) for index, doc in enumerate(self._documents.scored)]

    def _label(self, doc: Mapping[str, Any], index: int, column: str) -> str:
        if column not in doc:
            raise InputError(
                f"task {self.name}: document {index} has no column {column} to cluster by",
                hint=f"it has {', '.join(doc)}",
            )
        value = doc[column]
        return value if isinstance(value, str) else digest(plain(value))

    def shots(self, num_fewshot: int | None, compat: str = "native") -> int:
        """Few-shot examples a prompt will get. The harness lets nobody override a 0 in the task file; we do.

        Running text has no prompt, whatever was asked for.
        """
        if self.output_type == "loglikelihood_rolling":
            return 0
        if num_fewshot is None or (compat == "lm-eval" and self.config.num_fewshot == 0):
            return self.num_fewshot
        return num_fewshot

    # ---- plan ---------------------------------------------------------------------------------------------------

    def plan(
        self,
        *,
        limit: int | None,
        num_fewshot: int | None,
        seed: int,
        compat: str,
        chat: ChatSettings = PLAIN,
        documents: Collection[int] | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[PlannedDocument]:
        """Documents in file order with their requests; request numbers count from 0 within a document.

        multiple_choice: one ``loglikelihood`` a choice (and one more each without context for ``acc_mutual_info``);
        generate_until: ``repeats`` equal requests. ``documents``: only those with these numbers, asked as they are when all
        are. ``gen_kwargs`` go on top of the task's. Raises InputError naming file, field and document, and what
        ``chat.render`` raises.
        """
        plan = Plan(
            shots=self.shots(num_fewshot, compat),
            seed=seed,
            compat=compat,
            chat=chat,
            generation=dict(gen_kwargs or {}),
            unconditional="acc_mutual_info" in self._measures,
        )
        planner = Planner(
            self._documents.config, self._rules, self._shape, self._documents, runs_code=self._code.used
        )
        yield from planner.documents(plan, limit=limit, wanted=documents)
        self.notes = (*chat.remarks(), *self._documents.remarks, *planner.notes)

    @cached_property
    def _shape(self) -> Shape:
        with repeatable_randomness():
            return shape_of(self.config, self._rules, self._documents.scored)

    # ---- score --------------------------------------------------------------------------------------------------

    def items(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[tuple[str, str], Any]:
        """What one document contributes to each (metric, filter). ``responses`` answer all its requests, in any order.

        The values are JSON values. Raises EvaluationError when a response lacks what its kind must have.
        """
        answers = plain_answers(planned.requests, responses)
        tokens = sum(response.tokens for response in responses)
        out: dict[tuple[str, str], Any] = {}
        with repeatable_randomness() if self._code.used else nullcontext():
            for pipeline in self._pipelines:
                doc = copied(planned.doc)  # task code may change what it is given
                try:
                    if self.output_type == "generate_until":
                        results = [pipeline(answers, doc)]
                    else:
                        results = [pipeline([answer], doc) for answer in answers]
                except EvaluationError as error:
                    raise EvaluationError(
                        f"task {self.name}: filter {pipeline.name!r}: {error.message} (document {planned.index})",
                        hint=error.hint,
                    ) from error
                for name, value in self._contributions(planned, results, tokens).items():
                    out[name, pipeline.name] = plain(value)
        return out

    def aggregate(
        self,
        items: Mapping[tuple[str, str], Sequence[Any]],
        *,
        bootstrap: int,
        compat: str = "native",
        clusters: Clusters | None = None,
    ) -> list[Score]:
        """Scores from the items of all documents, in the order of ``items``. ``bootstrap`` 0 leaves out standard errors.

        With ``compat`` "lm-eval" standard errors are that harness's; ``clusters`` are those of the documents.
        """
        scores = []
        for (name, pipeline), values in items.items():
            measure = self._measure(name)
            # A metric may leave out documents; what is left cannot be matched with clusters.
            whole = clusters if clusters is not None and len(clusters.codes) == len(values) else None
            with repeatable_randomness() if self._code.used else nullcontext():
                value = measure.aggregate(values)
                found = interval(measure, values, bootstrap=bootstrap, compat=compat, clusters=whole)
            scores.append(
                Score(
                    metric=name,
                    filter=pipeline,
                    value=value,
                    stderr=found.stderr,
                    n=len(values),
                    higher_is_better=measure.higher_is_better,
                    signature=measure.signature,
                    ci_low=found.low,
                    ci_high=found.high,
                    stderr_method=found.method,
                    unit=measure.unit,
                    range=measure.range,
                )
            )
        return scores

    def filtered(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[str, list[Any]]:
        """What each filter makes of the answers: filter -> one value a request, for generations one in all."""
        answers = plain_answers(planned.requests, responses)
        groups = [answers] if self.output_type == "generate_until" else [[answer] for answer in answers]
        return {
            pipeline.name: [pipeline(group, planned.doc) for group in groups] for pipeline in self._pipelines
        }

    def answers(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[str, Any]:
        """What each filter makes of what the model wrote, as JSON values; nothing for likelihoods."""
        if self.output_type != "generate_until":
            return {}
        return {name: plain(values[0]) for name, values in self.filtered(planned, responses).items()}

    def observe(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[str, int]:
        """Things worth counting over a task: labels that name no choice, and ties for the best one.

        ``ties`` of the log-likelihoods, ``ties_acc_norm`` and the like of what another metric takes the best of.
        """
        if self.output_type != "multiple_choice":
            return {}
        outcome = self._outcome(planned, plain_answers(planned.requests, responses))
        if not isinstance(outcome, ChoiceOutcome):
            return {}
        outside = any(not 0 <= gold < len(outcome.choices) for gold in outcome.gold)
        found = {"ties": int(ties(outcome)), "labels_out_of_range": int(outside)}
        for name, measure in self._measures.items():
            if isinstance(measure.metric, Accuracy) and name != "acc":
                found[f"ties_{name}"] = int(measure.metric.tied(outcome))
        return found

    def _outcome(self, planned: PlannedDocument, answers: Sequence[Any], tokens: int = 0) -> Outcome:
        try:
            return outcome_of(
                self.output_type,
                self._rules.question,
                self._shape,
                planned.doc,
                planned.target,
                answers,
                tokens,
            )
        except EvaluationError as error:
            raise EvaluationError(f"{error.message} (document {planned.index})", hint=error.hint) from error

    def _contributions(self, planned: PlannedDocument, results: list[Any], tokens: int) -> Mapping[str, Any]:
        process = self._rules.process_results
        if process is not None:
            made = process(copied(dict(planned.doc)), results)
            if not isinstance(made, Mapping):
                raise EvaluationError(f"task {self.name}: process_results must return a mapping of metrics")
            return made
        outcome = self._outcome(planned, results, tokens)
        out: dict[str, Any] = {}
        for name, measure in self._measures.items():
            value = measure.metric.item(outcome)
            out.update(value if isinstance(value, Mapping) else {name: value})
        return out

    def _measure(self, name: str) -> Measure:
        """The measure of a name; names that only the task's code knows are averaged, as in the harness."""
        if name in self._measures:
            return self._measures[name]
        for measure in self._measures.values():
            part = getattr(measure.metric, "part", None)
            if (
                part is not None and (metric := part(name)) is not None
            ):  # one of several values, such as pass@10
                return replace(measure, name=name, metric=metric)
            if isinstance(
                measure.metric, FunctionMetric
            ):  # it returned several values; they share its aggregation
                return replace(measure, name=name, metric=TaskMetric(name, measure.metric.aggregation))
        return Measure(name, TaskMetric(name), higher_is_better=True)
