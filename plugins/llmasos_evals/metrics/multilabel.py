"""Metrics for answers that are a set of labels, written with a separator between them.

Items are (right labels, given labels), each sorted and without repetitions. Formulas of Tsoumakas & Katakis 2007 and of
scikit-learn (checked against it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmasos.api import EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.digests import digest
from llmasos_evals.metrics.base import AggregatedMetric, said
from llmasos_evals.metrics.classification import f1_of_counts
from llmasos_evals.statistics.aggregations import Aggregation
from llmasos_evals.statistics.resampling import SumAggregation


class LabelSets(AggregatedMetric):
    """Reads label sets. ``separator`` splits texts; ``labels`` names all there are, otherwise those that occur count.

    Labels are compared without surrounding white space and, unless ``case`` is true, in lower case. Several references are
    the labels of one set, not alternatives. Given labels that are not in ``labels`` are wrong, not forgotten.
    """

    def __init__(
        self, separator: str = ",", labels: Sequence[str] | None = None, case: bool = False, **idle: Any
    ) -> None:
        super().__init__(**idle)
        if not isinstance(separator, str) or not separator:
            raise InputError(f"{self.name}: separator must be a text")
        if labels is not None and (isinstance(labels, str) or not labels):
            raise InputError(f"{self.name}: labels must be a list of labels")
        self.separator, self.case = separator, bool(case)
        self.labels = None if labels is None else self._cleaned([str(label) for label in labels])

    def details(self) -> Mapping[str, str]:
        return {
            "sep": self.separator if self.separator.isprintable() and "|" not in self.separator else "other",
            "case": "mixed" if self.case else "lower",
            "labels": "seen" if self.labels is None else digest(self.labels)[:8],
        }

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        given = outcome.prediction
        if not isinstance(given, list):
            given = said(given).split(self.separator)
        right = [part for text in outcome.references for part in text.split(self.separator)]
        sets = [self._cleaned(right), self._cleaned([str(label) for label in given])]
        if self.labels is not None and not set(sets[0]) <= set(self.labels):
            raise EvaluationError(f"{self.name}: a document's right labels {sets[0]} are not all in `labels`")
        return self.score(*sets)

    def score(self, right: list[str], given: list[str]) -> Any:
        return [right, given]

    def _cleaned(self, labels: Sequence[str]) -> list[str]:
        stripped = (label.strip() if self.case else label.strip().lower() for label in labels)
        return sorted({label for label in stripped if label})


class SetMatch(LabelSets):
    """Share of documents whose labels are exactly the right ones (subset accuracy)."""

    name = "multilabel_match"

    def score(self, right: list[str], given: list[str]) -> float:
        return float(right == given)


class Jaccard(LabelSets):
    """Mean of labels that are right and given over labels that are right or given; 1 when both sets are empty."""

    name = "multilabel_jaccard"

    def score(self, right: list[str], given: list[str]) -> float:
        either = set(right) | set(given)
        return len(set(right) & set(given)) / len(either) if either else 1.0


class LabelCounts(SumAggregation):
    """Label by label: documents where it is right and given, right, given; the last column counts documents."""

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self.labels = labels

    def rows(self, items: Sequence[Any]) -> NDArray[np.float64]:
        seen = {label for pair in items for side in pair for label in side} | set(self.labels or ())
        number = {label: n for n, label in enumerate(sorted(seen))}
        table = np.zeros((len(items), 3 * len(number) + 1))
        table[:, -1] = 1
        for row, (right, given) in zip(table, items, strict=True):
            for label in right:
                row[3 * number[label] + 1] = 1
            for label in given:
                row[3 * number[label] + 2] = 1
            for label in set(right) & set(given):
                row[3 * number[label]] = 1
        return table


class Hamming(LabelCounts):
    """Share of (document, label) pairs that are wrong."""

    name = "hamming"

    def score_of_row(self, row: Any) -> float:
        counts = np.asarray(row[:-1], dtype=np.float64).reshape(-1, 3)
        wrong = float((counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]).sum())
        cells = len(counts) * float(row[-1])
        return wrong / cells if cells else math.nan


class SetF1(LabelCounts):
    """F1 over label sets, averaged over labels or over all (document, label) pairs."""

    def __init__(self, labels: Sequence[str] | None = None, average: str = "micro") -> None:
        super().__init__(labels)
        self.average, self.name = average, f"multilabel_f1_{average}"

    def score_of_row(self, row: Any) -> float:
        return f1_of_counts(np.asarray(row[:-1], dtype=np.float64).reshape(-1, 3), self.average)


class HammingLoss(LabelSets):
    """Share of all labels of all documents that are given but not right, or right but not given; lower is better."""

    name = "hamming_loss"

    def __init__(
        self, separator: str = ",", labels: Sequence[str] | None = None, case: bool = False, **idle: Any
    ) -> None:
        super().__init__(separator, labels, case, **idle)
        self.aggregation = Hamming(self.labels)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return Hamming()


class MicroSetF1(LabelSets):
    """F1 over all (document, label) pairs."""

    name = "multilabel_f1_micro"
    average: ClassVar[str] = "micro"

    def __init__(
        self, separator: str = ",", labels: Sequence[str] | None = None, case: bool = False, **idle: Any
    ) -> None:
        super().__init__(separator, labels, case, **idle)
        self.aggregation = SetF1(self.labels, self.average)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return SetF1(None, cls.average)


class MacroSetF1(MicroSetF1):
    """Mean of the F1 of each label that occurs or is given."""

    name = "multilabel_f1_macro"
    average = "macro"
