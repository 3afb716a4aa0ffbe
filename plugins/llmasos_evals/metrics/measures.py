"""Binding a task's ``metric_list`` to metrics of the catalogue."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.api import (
    EvaluationError,
    GenerationOutcome,
    HubAPI,
    InputError,
    LlmasosError,
    Metric,
    Outcome,
    UnknownName,
)
from llmasos_evals.metrics.base import AggregatedMetric, option_names, unknown_option
from llmasos_evals.metrics.corpus import CORPUS_AGGREGATIONS
from llmasos_evals.metrics.likelihood import label_pair
from llmasos_evals.metrics.sandbox import require_permission
from llmasos_evals.statistics.aggregations import AGGREGATIONS, Aggregation, FunctionAggregation, Mean
from llmasos_evals.tasks.config import MetricSpec, TaskConfig
from llmasos_evals.tasks.functions import TaskCode
from llmasos_evals.tasks.taskfile import FunctionRef


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as one task uses it."""

    name: str
    metric: Metric
    higher_is_better: bool
    #: Given in the task file for a metric that brings its own.
    aggregation: Aggregation | None = None
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)

    @property
    def signature(self) -> str:
        if self.aggregation is None:
            return self.metric.signature
        return f"{self.metric.signature}|agg:{self.aggregation.name}"

    def aggregate(self, items: Sequence[Any]) -> float:
        """The value over all documents. Raises EvaluationError when there are none."""
        if not items:
            raise EvaluationError(f"metric {self.name} has no documents to score")
        try:
            return self.metric.aggregate(items) if self.aggregation is None else self.aggregation.value(items)
        except (TypeError, ValueError, IndexError) as error:
            raise EvaluationError(
                f"metric {self.name}: its documents cannot be aggregated as the task file asks: {error}",
                hint="check `aggregation` in its metric_list",
            ) from error

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        """Its standard error, None with fewer than two documents and where there is none."""
        if len(items) < 2 or bootstrap <= 0:
            return None
        if self.aggregation is None:
            return self.metric.stderr(items, bootstrap=bootstrap)
        return self.aggregation.stderr(items, bootstrap)


class TaskMetric(AggregatedMetric):
    """A value that the task's own ``process_results`` makes; the name means what the task's code says."""

    def __init__(self, name: str, aggregation: Aggregation | None = None) -> None:
        self.name = name
        super().__init__()
        self.aggregation = aggregation or Mean()

    def details(self) -> Mapping[str, str]:
        return {"from": "task-code"}


class FunctionMetric(TaskMetric):
    """A metric that is a function of the task's own, called as lm-evaluation-harness calls it."""

    def __init__(self, name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.function = function
        self.options = dict(options)
        parameters = inspect.signature(inspect.unwrap(function)).parameters
        self.by_keyword = {"references", "predictions"} <= set(parameters) or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        values = [self._call(reference, outcome.prediction) for reference in outcome.references]
        if outcome.multiple:
            return 1.0 if any(values) else 0.0
        return values[0]

    def _call(self, reference: str, prediction: Any) -> Any:
        if self.by_keyword:
            return self.function(references=[reference], predictions=[prediction], **self.options)
        return self.function([reference, prediction])


class HubMetric(TaskMetric):
    """A metric of Hugging Face ``evaluate`` (``hf_evaluate: true``), one document at a time, as the harness calls it."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        from llmasos_evals.tasks.standins.scripts import SCRIPTS

        super().__init__(name)
        if name not in SCRIPTS:
            # Same names, other definitions: its bleu is between 0 and 1.
            raise InputError(
                f"metric {name} is a script of the `evaluate` hub, which is code from elsewhere",
                hint=f"known without it: {', '.join(sorted(SCRIPTS))}; or leave out `hf_evaluate` to use the metric of "
                "that name that a plugin provides, if there is one",
            )
        self.function = SCRIPTS[name]
        self.options = dict(options)

    def details(self) -> Mapping[str, str]:
        given = {key: str(value) for key, value in sorted(self.options.items())}
        return {"from": "evaluate"} | given

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        right, given = label_pair(outcome)
        try:
            value = self.function([given], [right], **self.options)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"metric {self.name}: {error}") from error
        return value.get(self.name, value)


def bind(
    config: TaskConfig, code: TaskCode, hub: HubAPI, *, execution: bool = False
) -> tuple[dict[str, Measure], list[str]]:
    """The measures of a task by name, and remarks about options that have no effect.

    ``execution``: metrics may run programs that the model wrote. Raises InputError for options and combinations that make
    no sense, UnknownName for a metric no plugin provides, MissingDependency when its library is not installed, UsageError
    for a metric that runs programs without permission.
    """
    measures, remarks = {}, []
    for spec in config.metric_list:
        measure = _bind(spec, config, code, hub)
        if getattr(measure.metric, "runs_programs", False):
            require_permission(execution, f"task {config.task}: metric {measure.name}")
            measure.metric.permitted = True  # type: ignore[attr-defined]
        measures[measure.name] = measure
        idle = getattr(measure.metric, "idle", ())
        if idle:
            remarks.append(f"metric {measure.name} takes no notice of {', '.join(idle)}")
    return measures, remarks


def _bind(spec: MetricSpec, config: TaskConfig, code: TaskCode, hub: HubAPI) -> Measure:
    source = config.source
    aggregation = _aggregation(spec.aggregation, code, source)
    if config.process_results is not None:
        default = None if aggregation else _catalogued_aggregation(spec.name, hub)
        better = _higher(spec.higher_is_better, spec.name, hub)
        return Measure(spec.name, TaskMetric(spec.name, aggregation or default), better)
    if isinstance(spec.metric, FunctionRef):
        metric = FunctionMetric(spec.name, code.resolve(spec.metric), spec.options)
        if aggregation is not None:
            metric.aggregation = aggregation
        return Measure(spec.name, metric, spec.higher_is_better is not False)
    if _from_hub(spec, config):
        return Measure(
            spec.name, _hub_metric(spec, source, aggregation), _higher(spec.higher_is_better, spec.name, hub)
        )
    definition, made = _from_catalogue(spec, config, hub)
    better = definition.higher_is_better if spec.higher_is_better is None else spec.higher_is_better
    if spec.metric == "acc" and config.output_type == "generate_until" and aggregation is None:
        raise InputError(
            f"{source}: metric acc of generated text needs an aggregation function of the task's own",
            hint="exact_match compares texts",
        )
    if aggregation is not None and isinstance(made, AggregatedMetric):
        if made.aggregation.name != aggregation.name:
            made.aggregation = aggregation
        aggregation = None
    return Measure(spec.name, made, better, aggregation, definition.unit, definition.range)


def _from_hub(spec: MetricSpec, config: TaskConfig) -> bool:
    """Whether the harness would ask ``evaluate`` for the metric and call it; for choices it computes its own."""
    asked = bool(spec.options.get("hf_evaluate", False))
    return asked and config.output_type == "generate_until" and spec.metric != "exact_match"


def _hub_metric(spec: MetricSpec, source: Path, aggregation: Aggregation | None) -> HubMetric:
    options = {key: value for key, value in spec.options.items() if key != "hf_evaluate"}
    try:
        made = HubMetric(spec.name, options)
    except InputError as error:
        raise InputError(f"{source}: {error.message}", hint=error.hint) from error
    if aggregation is not None:
        made.aggregation = aggregation
    return made


def _higher(given: bool | None, name: str, hub: HubAPI) -> bool:
    return _catalogued_direction(name, hub) if given is None else given


def _from_catalogue(spec: MetricSpec, config: TaskConfig, hub: HubAPI) -> tuple[Any, Metric]:
    source = config.source
    options = dict(spec.options)
    options.pop("hf_evaluate", None)
    try:
        definition: Any = hub.contribution("metric", spec.metric)
    except UnknownName as error:
        raise UnknownName(f"{source}: {error.message}", hint=error.hint) from error
    if config.output_type not in definition.scores:
        raise InputError(
            f"{source}: metric {spec.metric} cannot score output_type {config.output_type}, "
            f"only {', '.join(definition.scores)}"
        )
    factory = hub.get("metric", spec.metric)
    try:
        return definition, _made(spec.metric, factory, options)
    except InputError as error:
        raise InputError(f"{source}: {error.message}", hint=error.hint) from error
    except LlmasosError:
        raise
    except Exception as error:
        raise InputError(f"{source}: metric {spec.metric}: {error}") from error


def _made(name: str, factory: Any, options: Mapping[str, Any]) -> Metric:
    """The metric, its options checked by name first: a typing error must not read like one of Python's."""
    parameters = inspect.signature(factory).parameters.values()
    known = option_names(factory)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for option in options:
            if option not in known:
                raise unknown_option(name, option, known)
    made: Metric = factory(**options)
    return made


def _aggregation(given: Any, code: TaskCode, source: Path) -> Aggregation | None:
    if given is None:
        return None
    if isinstance(given, FunctionRef):
        return FunctionAggregation(code.resolve(given), given.name)
    factory = AGGREGATIONS.get(given) or CORPUS_AGGREGATIONS.get(given)
    if factory is None:
        known = sorted({*AGGREGATIONS, *CORPUS_AGGREGATIONS})
        near = difflib.get_close_matches(given, known, n=1)
        guess = f", did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}"
        raise InputError(f"{source}: unknown aggregation `{given}`{guess}")
    made: Aggregation = factory()
    return made


def _catalogued_aggregation(name: str, hub: HubAPI) -> Aggregation | None:
    """What the catalogue's metric of that name would use, for task code that leaves it to the name."""
    try:
        metric = hub.get("metric", name)
    except UnknownName:
        return None
    return metric.default_aggregation() if hasattr(metric, "default_aggregation") else None


def _catalogued_direction(name: str, hub: HubAPI) -> bool:
    try:
        definition: Any = hub.contribution("metric", name)
    except UnknownName:
        return True
    return bool(definition.higher_is_better)
