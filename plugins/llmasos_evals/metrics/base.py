"""What all built-in metrics share: an item rule of their own and an aggregation."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from llmasos.api import EvaluationError, InputError, MissingDependency, Outcome
from llmasos_evals.statistics.aggregations import Aggregation, Mean

#: Options that lm-evaluation-harness accepts on any metric and that only exact_match heeds. Stock task files have them.
IDLE_OPTIONS = frozenset(
    {
        "ignore_case",
        "ignore_punctuation",
        "ignore_numbers",
        "regexes_to_ignore",
        "average",
        "weight_by_size",
        "high_is_better",
    }
)


class AggregatedMetric:
    """A metric made of ``item`` and an aggregation. ``idle`` are options that were given and have no effect."""

    name: str
    version: ClassVar[int] = 1

    def __init__(self, **idle: Any) -> None:
        for option in sorted(set(idle) - IDLE_OPTIONS):
            raise unknown_option(self.name, option, self.options())
        self.idle = tuple(sorted(idle))
        self.aggregation: Aggregation = self.default_aggregation()

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return Mean()

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options that have an effect."""
        return option_names(cls)

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


def option_names(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The keyword arguments of a metric's factory."""
    return tuple(
        name
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def unknown_option(metric: str, option: str, known: Sequence[str]) -> InputError:
    """The error for an option that a metric does not have."""
    near = difflib.get_close_matches(option, known, n=1)
    if near:
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = f"its options: {', '.join(known)}" if known else "it has none"
    return InputError(f"metric {metric} has no option `{option}`", hint=hint)


def said(prediction: Any) -> str:
    """The text of a prediction: the first where the filters kept several."""
    if isinstance(prediction, list):
        prediction = prediction[0] if prediction else ""
    return str(prediction)


def need(package: str, metric: str) -> None:
    """Raise MissingDependency when a metric's library is not installed: a missing library is never a score of 0."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise MissingDependency(
            f"metric {metric} needs the package {package}, which is not installed",
            hint="pip install 'llmasos[evals]'",
        )
