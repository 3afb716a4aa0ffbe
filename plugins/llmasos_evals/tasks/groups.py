"""Groups of tasks and their mean scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmasos.api import EvaluationError
from llmasos_evals.statistics.aggregations import pooled_stderr, total, unweighted_stderr
from llmasos_evals.statistics.intervals import of_parts
from llmasos_evals.tasks.task import Score, Task


@dataclass(frozen=True, slots=True)
class MeanRule:
    """One entry of ``aggregate_metric_list``; ``filters`` None takes every filter the members have.

    ``function`` of the group's own code, given values, sizes and ``weight_by_size``, stands in for the mean;
    ``function_digest`` says which file it is from.
    """

    metric: str
    filters: tuple[str, ...] | None = None
    weight_by_size: bool = True
    function: Callable[..., Any] | None = None
    function_digest: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of tasks and groups."""

    name: str
    alias: str
    version: str
    members: tuple[Task | Group, ...]
    rules: tuple[MeanRule, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def tasks(self) -> Iterator[Task]:
        """All tasks below, in order."""
        for member in self.members:
            if isinstance(member, Group):
                yield from member.tasks()
            else:
                yield member

    def groups(self) -> Iterator[Group]:
        """This group and all below, inner ones first."""
        for member in self.members:
            if isinstance(member, Group):
                yield from member.groups()
        yield self

    def aggregate(self, scores: Mapping[str, Sequence[Score]]) -> list[Score]:
        """Means over the tasks of this group; ``scores`` by task name.

        Semantics of lm-evaluation-harness 0.4.13: a task weighs as many documents as its largest metric has; tasks
        without the metric are left out; the standard error is pooled for weighted means and that of a plain mean
        otherwise, and there is none when a member has none.
        """
        members = {task.name: scores[task.name] for task in self.tasks() if task.name in scores}
        out = []
        for rule in self.rules:
            filters = rule.filters
            if filters is None:
                filters = tuple(
                    sorted({s.filter for each in members.values() for s in each if s.metric == rule.metric})
                )
            for name in filters:
                parts = [
                    (score, max(other.n for other in each))
                    for each in members.values()
                    for score in each
                    if score.metric == rule.metric and score.filter == name
                ]
                if parts and rule.function is not None:
                    out.append(_own_score(rule, rule.function, name, parts))
                elif parts:
                    out.append(_mean_score(rule, name, parts))
        return out


def _own_score(
    rule: MeanRule, function: Callable[..., Any], filter_name: str, parts: Sequence[tuple[Score, int]]
) -> Score:
    """What a function of the group's code makes of its members' values; nothing is known of its error."""
    sizes = [size for _, size in parts]
    value = function([score.value for score, _ in parts], sizes, rule.weight_by_size)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvaluationError(f"the aggregation of {rule.metric} gives {type(value).__name__}, not a number")
    return Score(
        metric=rule.metric,
        filter=filter_name,
        value=float(value),
        stderr=None,
        n=sum(sizes),
        higher_is_better=all(score.higher_is_better for score, _ in parts),
        signature=f"function|code:{rule.function_digest[:12]}|weight:{'size' if rule.weight_by_size else 'none'}",
    )


def _mean_score(rule: MeanRule, filter_name: str, parts: Sequence[tuple[Score, int]]) -> Score:
    sizes = [size for _, size in parts]
    weights = sizes if rule.weight_by_size else [1] * len(parts)
    value = total(score.value * weight for (score, _), weight in zip(parts, weights, strict=True)) / sum(
        weights
    )
    stderrs = [score.stderr for score, _ in parts if score.stderr is not None]
    stderr = None
    if len(stderrs) == len(parts) and (not rule.weight_by_size or sum(sizes) > len(sizes)):
        stderr = pooled_stderr(stderrs, sizes) if rule.weight_by_size else unweighted_stderr(stderrs)
    shares = all((score.stderr_method or "").endswith("|wilson") for score, _ in parts)
    found = of_parts(value, stderr, sum(sizes), shares=shares)
    units, ranges = {score.unit for score, _ in parts}, {score.range for score, _ in parts}
    signatures = {score.signature for score, _ in parts}
    inner = signatures.pop() if len(signatures) == 1 else "mixed"
    return Score(
        metric=rule.metric,
        filter=filter_name,
        value=value,
        stderr=stderr,
        ci_low=found.low,
        ci_high=found.high,
        stderr_method=found.method,
        unit=units.pop() if len(units) == 1 else "",
        range=ranges.pop() if len(ranges) == 1 else (None, None),
        n=sum(sizes),
        higher_is_better=all(score.higher_is_better for score, _ in parts),
        signature=f"mean|weight:{'size' if rule.weight_by_size else 'none'}|of:{inner}",
    )
