"""Values over a whole task and their standard errors.

Aggregations and standard errors equal those of lm-evaluation-harness 0.4.13 (``api/metrics.py``) to the last bit on
Python 3.11. Sums run from left to right on every Python version, so a number does not depend on the interpreter (its
``sum`` is compensated from 3.12 on). Bootstraps use that harness's random stream, but through numpy and sufficient
statistics: the same replicates, one to two orders of magnitude sooner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmasos.api import EvaluationError
from llmasos_evals.statistics.bootstrap import resamples, streams
from llmasos_evals.statistics.sums import BITS, PERPLEXITY, Ratio, Sums, mean_of, ratio_of

#: From here on a table of confusions has too many columns to be summed for each replicate.
MANY_CLASSES = 16


class Aggregation(Protocol):
    """From the items of all documents to one value.

    Where the value is a function of sums over documents, ``statistic(items) -> Ratio | Sums`` says so; intervals and paired
    tests then cost next to nothing. Without it documents are resampled, and the value computed for each replicate.
    """

    #: Name in signatures.
    name: str

    def value(self, items: Sequence[Any]) -> float:
        """The value; ``items`` is never empty."""

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        """Its standard error, None where there is none. ``items`` has at least two entries, ``bootstrap`` is positive."""


def total(values: Iterable[float]) -> float:
    """Sum from left to right."""
    result = 0.0
    for value in values:
        result += value
    return result


def mean(values: Sequence[float]) -> float:
    return total(values) / len(values)


def sample_stddev(values: Sequence[float]) -> float:
    """Standard deviation with n - 1."""
    centre = mean(values)
    return math.sqrt(total((value - centre) ** 2 for value in values) / (len(values) - 1))


def bootstrap_stderr(
    size: int, replicates: int, statistic: Callable[[NDArray[np.int64]], Iterable[float]]
) -> float:
    """Standard deviation of ``statistic`` over replicates; it gets a block of positions, one replicate a row."""
    values = [float(value) for block in resamples(size, replicates) for value in statistic(block)]
    return sample_stddev(values)


def _sums(values: NDArray[Any], block: NDArray[np.int64]) -> NDArray[Any]:
    """Row sums of ``values[block]`` from left to right (``ndarray.sum`` adds in pairs, which differs in the last bit)."""
    return np.cumsum(values[block], axis=1)[:, -1]


class Mean:
    """Arithmetic mean; the standard error is analytic."""

    name = "mean"

    def value(self, items: Sequence[Any]) -> float:
        return mean(items)

    def statistic(self, items: Sequence[Any]) -> Ratio:
        return mean_of(items)

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        return sample_stddev(items) / math.sqrt(len(items))


class NanMean:
    """Mean of what is a number."""

    name = "nanmean"

    def value(self, items: Sequence[Any]) -> float:
        array = np.asarray(items, dtype=np.float64)
        return math.nan if np.isnan(array).all() else float(np.nanmean(array))

    def statistic(self, items: Sequence[Any]) -> Ratio:
        array = np.asarray(items, dtype=np.float64)
        known = ~np.isnan(array)
        return Ratio(np.where(known, array, 0.0), known.astype(np.float64))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        array = np.asarray(items, dtype=np.float64)
        return bootstrap_stderr(
            len(items), bootstrap, lambda block: [self.value(array[row]) for row in block]
        )


class Median:
    """The upper median."""

    name = "median"

    def value(self, items: Sequence[Any]) -> float:
        return float(sorted(items)[len(items) // 2])

    def replicates(self, items: Sequence[Any], count: int, seed: int) -> NDArray[np.float64]:
        """Native bootstrap replicates at the price of one random number each.

        The m-th smallest of n positions drawn with replacement lies where the m-th smallest of n uniform numbers does, and
        that is a Beta variable.
        """
        array, middle = np.sort(np.asarray(items, dtype=np.float64)), len(items) // 2
        drawn = [
            generator.beta(middle + 1, len(array) - middle, size=rows)
            for generator, rows in streams(count, seed)
        ]
        places = (np.concatenate(drawn) * len(array)).astype(np.int64)
        found: NDArray[np.float64] = array[np.minimum(places, len(array) - 1)]
        return found

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        array = np.asarray(items, dtype=np.float64)
        middle = len(items) // 2
        return bootstrap_stderr(len(items), bootstrap, lambda block: np.sort(array[block], axis=1)[:, middle])


class Perplexity:
    """exp of the negative mean of nats a document."""

    name = "perplexity"

    def value(self, items: Sequence[Any]) -> float:
        return _exp(-mean(items))

    def statistic(self, items: Sequence[Any]) -> Ratio:
        return mean_of(items, PERPLEXITY)

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        array, size = np.asarray(items, dtype=np.float64), len(items)
        return bootstrap_stderr(
            size, bootstrap, lambda block: [_exp(-(value / size)) for value in _sums(array, block).tolist()]
        )


class WeightedPerplexity:
    """exp of the negative nats a unit; items are (nats, units). No standard error, as in the harness."""

    name = "weighted_perplexity"

    def value(self, items: Sequence[Any]) -> float:
        return _exp(-_weighted_mean(items))

    def statistic(self, items: Sequence[Any]) -> Ratio:
        return ratio_of(items, PERPLEXITY)

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        return None


class BitsPerByte:
    """Negative bits a byte; items are (nats, bytes)."""

    name = "bits_per_byte"

    def value(self, items: Sequence[Any]) -> float:
        return -_weighted_mean(items) / math.log(2)

    def statistic(self, items: Sequence[Any]) -> Ratio:
        return ratio_of(items, BITS)

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        return None


class F1:
    """F1 of class 1 over (gold, predicted) pairs of two classes, as scikit-learn's ``f1_score`` with its defaults."""

    name = "f1"

    def value(self, items: Sequence[Any]) -> float:
        gold, predicted = _pairs(items)
        return self._of(2.0 * int((gold & predicted).sum()), float(int(gold.sum()) + int(predicted.sum())))

    def statistic(self, items: Sequence[Any]) -> Sums:
        gold, predicted = _pairs(items)
        rows = np.stack([gold & predicted, gold.astype(np.int64) + predicted], axis=1).astype(np.float64)

        def finish(sums: NDArray[np.float64]) -> NDArray[np.float64]:
            marked = sums[:, 1]
            return np.divide(2.0 * sums[:, 0], marked, out=np.zeros_like(marked), where=marked > 0)

        return Sums(rows, finish, lambda: (gold == predicted).astype(np.float64))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        gold, predicted = _pairs(items)
        both, either = (gold & predicted).astype(np.int64), gold.astype(np.int64) + predicted

        def statistic(block: NDArray[np.int64]) -> list[float]:
            hits, marked = both[block].sum(axis=1).tolist(), either[block].sum(axis=1).tolist()
            return [self._of(2.0 * hit, float(mark)) for hit, mark in zip(hits, marked, strict=True)]

        return bootstrap_stderr(len(items), bootstrap, statistic)

    @staticmethod
    def _of(numerator: float, denominator: float) -> float:
        return numerator / denominator if denominator else 0.0


class MatthewsCorrelation:
    """Matthews correlation over (gold, predicted) pairs of any number of classes, as in scikit-learn."""

    name = "matthews_corrcoef"

    def value(self, items: Sequence[Any]) -> float:
        codes, classes = self._codes(items)
        return self._of(np.bincount(codes, minlength=classes * classes).reshape(classes, classes))

    def statistic(self, items: Sequence[Any]) -> Sums | None:
        codes, classes = self._codes(items)
        if classes > MANY_CLASSES:
            return None
        rows = np.zeros((len(codes), classes * classes))
        rows[np.arange(len(codes)), codes] = 1.0

        def finish(sums: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray([self._of(row.reshape(classes, classes)) for row in sums])

        return Sums(rows, finish, lambda: (codes % (classes + 1) == 0).astype(np.float64))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        codes, classes = self._codes(items)

        def statistic(block: NDArray[np.int64]) -> list[float]:
            return [
                self._of(np.bincount(codes[row], minlength=classes * classes).reshape(classes, classes))
                for row in block
            ]

        return bootstrap_stderr(len(items), bootstrap, statistic)

    @staticmethod
    def _codes(items: Sequence[Any]) -> tuple[NDArray[np.int64], int]:
        labels = {
            label: number for number, label in enumerate(sorted({label for pair in items for label in pair}))
        }
        codes = [labels[gold] * len(labels) + labels[predicted] for gold, predicted in items]
        return np.asarray(codes, dtype=np.int64), len(labels)

    @staticmethod
    def _of(confusion: NDArray[Any]) -> float:
        true, predicted = confusion.sum(axis=1, dtype=np.float64), confusion.sum(axis=0, dtype=np.float64)
        right, count = np.trace(confusion, dtype=np.float64), predicted.sum()
        covariance = right * count - np.dot(true, predicted)
        spread = (count**2 - np.dot(predicted, predicted)) * (count**2 - np.dot(true, true))
        return float(covariance / np.sqrt(spread)) if spread else 0.0


class Brier:
    """Mean squared distance of the probabilities from the right choice; items are (gold, probabilities)."""

    name = "brier_score"

    def value(self, items: Sequence[Any]) -> float:
        return float(np.mean(self._distances(items)))

    @staticmethod
    def _distances(items: Sequence[Any]) -> NDArray[np.float64]:
        widths = {len(probabilities) for _, probabilities in items}
        if len(widths) != 1:
            raise EvaluationError("brier_score needs the same number of choices in every document")
        predicted = np.asarray([probabilities for _, probabilities in items], dtype=np.float64)
        wanted = np.eye(widths.pop())[[gold for gold, _ in items]]
        found: NDArray[np.float64] = np.sum((predicted - wanted) ** 2, axis=1)
        return found

    def statistic(self, items: Sequence[Any]) -> Ratio:
        return mean_of(self._distances(items))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        return None


class FunctionAggregation:
    """A function of the task's own; it has no standard error, as in the harness."""

    def __init__(self, function: Callable[[Sequence[Any]], Any], name: str) -> None:
        self.function = function
        self.name = f"function:{name}"

    def value(self, items: Sequence[Any]) -> float:
        return float(self.function(list(items)))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        return None


def pooled_stderr(stderrs: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard error of a mean weighted by size, from the parts' standard errors (pooled variance)."""
    variance = total((size - 1) * stderr**2 * size for size, stderr in zip(sizes, stderrs, strict=True))
    return math.sqrt(variance / (sum(sizes) - len(sizes)) / sum(sizes))


def unweighted_stderr(stderrs: Sequence[float]) -> float:
    """Standard error of the plain mean of independent parts."""
    return math.sqrt(total(stderr**2 for stderr in stderrs)) / len(stderrs)


def _weighted_mean(items: Sequence[Any]) -> float:
    weight = total(item[1] for item in items)
    if weight <= 0:
        raise EvaluationError("perplexity over no words or bytes at all: the texts are empty")
    return total(item[0] for item in items) / weight


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _pairs(items: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    labels = {label for pair in items for label in pair}
    if not labels <= {0, 1}:
        raise EvaluationError(
            f"f1 needs labels 0 and 1, the documents have {sorted(map(str, labels))[:6]}",
            hint="use mcc or acc for more than two classes",
        )
    array = np.asarray(items)
    return array[:, 0] == 1, array[:, 1] == 1


#: Aggregations by the name task files use; the corpus metrics add bleu, chrf, chrf++ and ter.
AGGREGATIONS: dict[str, type[Any]] = {
    "mean": Mean,
    "nanmean": NanMean,
    "median": Median,
    "perplexity": Perplexity,
    "weighted_perplexity": WeightedPerplexity,
    "bits_per_byte": BitsPerByte,
    "f1": F1,
    "matthews_corrcoef": MatthewsCorrelation,
    "brier_score": Brier,
}
