"""Metrics over (right, given) labels of all documents: F1 in its averages and Matthews correlation.

Labels are numbers of choices, or texts when the model writes its answer. Formulas are those of scikit-learn (checked
against it), which is too large a dependency for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmasos.api import ChoiceOutcome, EvaluationError, GenerationOutcome, Outcome
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.metrics.likelihood import best, label_pair
from llmasos_evals.statistics.aggregations import F1, Aggregation, MatthewsCorrelation
from llmasos_evals.statistics.resampling import SumAggregation


class F1Score(AggregatedMetric):
    """F1 of the choice number 1, over all documents: scikit-learn's ``f1_score`` with its defaults, as the harness uses it.

    The harness takes no notice of an option ``average``; f1_macro, f1_micro and f1_weighted are metrics of their own here.
    """

    name = "f1"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return F1()

    def details(self) -> Mapping[str, str]:
        return {"positive": "1", "tie": "first"}

    def item(self, outcome: Outcome) -> Any:
        if isinstance(outcome, GenerationOutcome):
            return label_pair(outcome)
        if not isinstance(outcome, ChoiceOutcome):
            raise self.cannot_score(outcome)
        if outcome.multiple:
            raise EvaluationError(
                f"metric {self.name} needs one right choice a document, this task has several"
            )
        return [outcome.gold[0], best(outcome.logprobs)]


class Matthews(F1Score):
    """Matthews correlation of right and chosen answers."""

    name = "mcc"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return MatthewsCorrelation()

    def details(self) -> Mapping[str, str]:
        return {"tie": "first"}


class AveragedF1(SumAggregation):
    """F1 a label, averaged; items are (right, given). Labels that neither occur nor are given do not count.

    A row holds, label by label: documents where it is right and given, right, given.
    """

    def __init__(self, average: str) -> None:
        self.average = average
        self.name = f"f1_{average}"

    def rows(self, items: Sequence[Any]) -> NDArray[np.float64]:
        labels = {label: n for n, label in enumerate(sorted({str(x) for pair in items for x in pair}))}
        table = np.zeros((len(items), len(labels), 3))
        for row, (right, given) in zip(table, items, strict=True):
            row[labels[str(right)], 1] = row[labels[str(given)], 2] = 1
            if str(right) == str(given):
                row[labels[str(right)], 0] = 1
        return table.reshape(len(items), -1)

    def score_of_row(self, row: Any) -> float:
        return f1_of_counts(np.asarray(row, dtype=np.float64).reshape(-1, 3), self.average)


def f1_of_counts(counts: NDArray[np.float64], average: str) -> float:
    """F1 from ``[labels, 3]``: both, right, given. ``average``: micro, macro or weighted (by how often right)."""
    counts = counts[counts[:, 1] + counts[:, 2] > 0]
    if not len(counts):
        return 0.0
    if average == "micro":
        counts = counts.sum(axis=0, keepdims=True)
    each = 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])
    if average == "weighted":
        weight = float(counts[:, 1].sum())
        return float(np.dot(each, counts[:, 1]) / weight) if weight else 0.0
    return float(each.mean())


class MacroF1(F1Score):
    """Mean of the F1 of each label."""

    name = "f1_macro"
    average: ClassVar[str] = "macro"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return AveragedF1(cls.average)

    def details(self) -> Mapping[str, str]:
        return {"average": self.average, "labels": "seen", "tie": "first"}


class MicroF1(MacroF1):
    """F1 over all labels together: with one label a document, the accuracy."""

    name = "f1_micro"
    average = "micro"


class WeightedF1(MacroF1):
    """Mean of the F1 of each label, weighed by how often the label is right."""

    name = "f1_weighted"
    average = "weighted"
