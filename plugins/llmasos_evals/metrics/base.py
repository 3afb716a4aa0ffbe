"""What all built-in metrics share: an item rule of their own and an aggregation."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llmasos.api import EvaluationError, MissingDependency, Outcome
from llmasos_evals.statistics.aggregations import Aggregation, Mean

#: Options that lm-evaluation-harness accepts on any metric and that only exact_match heeds. Stock task files have them.
IDLE_OPTIONS = frozenset(
    {"ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore", "average", "weight_by_size"}
)


class AggregatedMetric:
    """A metric made of ``item`` and an aggregation. ``idle`` are options that were given and have no effect."""

    name: str
    version: ClassVar[int] = 1

    def __init__(self, **idle: Any) -> None:
        unknown = set(idle) - IDLE_OPTIONS
        if unknown:
            raise TypeError(f"{self.name} has no option {sorted(unknown)[0]!r}")
        self.idle = tuple(sorted(idle))
        self.aggregation: Aggregation = self.default_aggregation()

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return Mean()

    def details(self) -> Mapping[str, str]:
        """Settings that belong into the signature."""
        return {}

    @property
    def signature(self) -> str:
        """``name|setting:value...|agg:name|v:N``: equal signatures mean comparable values."""
        settings = [f"{key}:{value}" for key, value in self.details().items()]
        return "|".join([self.name, *settings, f"agg:{self.aggregation.name}", f"v:{self.version}"])

    def item(self, outcome: Outcome) -> Any:
        raise self.cannot_score(outcome)

    def cannot_score(self, outcome: Outcome) -> EvaluationError:
        return EvaluationError(f"metric {self.name} cannot score {type(outcome).__name__}")

    def aggregate(self, items: Sequence[Any]) -> float:
        if not items:
            raise EvaluationError(f"metric {self.name} has no documents to score")
        return self.aggregation.value(items)

    def stderr(self, items: Sequence[Any], *, bootstrap: int) -> float | None:
        if len(items) < 2 or bootstrap <= 0:
            return None
        return self.aggregation.stderr(items, bootstrap)


def need(package: str, metric: str) -> None:
    """Raise MissingDependency when a metric's library is not installed: a missing library is never a score of 0."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise MissingDependency(
            f"metric {metric} needs the package {package}, which is not installed",
            hint="pip install 'llmasos[evals]'",
        )
