"""Resampling a corpus by its sufficient statistics, with the random streams of the libraries that define the intervals.

A corpus metric is a function of a sum of rows, one row a document. A bootstrap replicate is then another sum of the
same rows, so the text is read once whatever the number of replicates. The streams and the order of additions are those
of sacrebleu and rouge-score: intervals equal theirs to the last digit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmasos.api import EvaluationError
from llmasos_evals.statistics.aggregations import sample_stddev
from llmasos_evals.statistics.bootstrap import resamples
from llmasos_evals.statistics.sums import Sums

#: Numbers gathered at once: 32 MB of float64.
BLOCK = 4_000_000
#: sacrebleu's seed when its environment variable is not set, and both libraries' number of replicates.
SACREBLEU_SEED = 12345
REPLICATES = 1000
#: Replicates for the standard error of aggregations that lm-evaluation-harness has none for.
NATIVE_REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval from replicates. ``mean`` is theirs, or their median where the library takes that as its middle."""

    mean: float
    low: float
    high: float
    #: Half of the distance between low and high: what sacrebleu prints after the plus-minus sign.
    half_width: float
    method: str


def summed(rows: NDArray[Any], draws: NDArray[np.int64]) -> NDArray[Any]:
    """``rows [documents, k]`` added up by ``draws [replicates, documents]`` -> ``[replicates, k]``.

    In the rows' own type and from the first document to the last, a block at a time.
    """
    step = max(1, BLOCK // max(1, draws.shape[1] * rows.shape[1]))
    parts = [rows[draws[start : start + step]].sum(axis=1) for start in range(0, len(draws), step)]
    return np.concatenate(parts)


def sacrebleu_draws(size: int, replicates: int = REPLICATES, seed: int = SACREBLEU_SEED) -> NDArray[np.int64]:
    """The documents of each of sacrebleu's replicates, ``[replicates, size]``."""
    drawn: NDArray[np.int64] = np.random.default_rng(seed).choice(size, size=(replicates, size), replace=True)
    return drawn


def sacrebleu_interval(
    rows: Sequence[Sequence[float]],
    score: Callable[[NDArray[np.float32]], Any],
    *,
    replicates: int = REPLICATES,
    seed: int = SACREBLEU_SEED,
) -> Interval:
    """sacrebleu's bootstrap interval (``--confidence``). ``score`` is the metric of one summed row.

    Sums are in float32, as sacrebleu's are, and so is what ``score`` makes of them: the last digits depend on it. Raises
    EvaluationError without documents.
    """
    if not len(rows) or replicates < 2:
        raise EvaluationError("an interval needs documents and at least two replicates")
    table = np.array(rows, dtype=np.float32)
    sums = summed(table, sacrebleu_draws(len(rows), replicates, seed))
    scores = sorted(score(row) for row in sums)
    tail = replicates // 40
    low, high = scores[tail], scores[replicates - tail - 1]
    middle, half = float(statistics.mean(scores)), float(0.5 * (high - low))
    return Interval(middle, float(low), float(high), half, f"sacrebleu:{replicates}:{seed}")


def rouge_means(values: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means of ``values [documents, k]`` over each replicate, added from the first document to the last."""
    step = max(1, BLOCK // max(1, draws.shape[1] * values.shape[1]))
    parts = [
        np.cumsum(values[draws[start : start + step]], axis=1)[:, -1] / draws.shape[1]
        for start in range(0, len(draws), step)
    ]
    return np.concatenate(parts)


def rouge_percentiles(
    values: NDArray[np.float64], state: Any, *, replicates: int = REPLICATES, confidence: float = 0.95
) -> NDArray[np.float64]:
    """rouge-score's ``BootstrapAggregator`` for ``values [documents, k]`` -> ``[low, middle, high] x k``.

    ``state`` is a ``numpy.random.RandomState`` or the module ``numpy.random``, whose stream the library uses.
    """
    size = len(values)
    draws = state.randint(0, size, size=(replicates, size))
    tail = (1 - confidence) / 2
    edges = 100 * np.array([tail, 0.5, 1 - tail])
    found: NDArray[np.float64] = np.percentile(rouge_means(values, draws), edges, axis=0)
    return found


def rouge_interval(values: Sequence[float], *, replicates: int = REPLICATES, seed: int = 1234) -> Interval:
    """rouge-score's interval of a mean, from a seeded stream (the library itself uses numpy's global one)."""
    if not len(values):
        raise EvaluationError("an interval needs documents")
    column = np.asarray(values, dtype=np.float64)[:, None]
    low, middle, high = rouge_percentiles(column, np.random.RandomState(seed), replicates=replicates)[:, 0]
    half = float(0.5 * (high - low))
    return Interval(float(middle), float(low), float(high), half, f"rouge-score:{replicates}:{seed}")


def scores_of_blocks(
    rows: NDArray[Any], blocks: Iterable[NDArray[np.int64]], score: Callable[[Any], float]
) -> Iterator[float]:
    """``score`` of the summed rows of every replicate in ``blocks`` (see ``aggregations.resamples``)."""
    for block in blocks:
        for row in summed(rows, block):
            yield float(score(row))


class SumAggregation:
    """An aggregation that is a function of a sum of rows, one row a document; subclasses say which rows and function.

    Its standard error is a bootstrap over documents with the harness's random stream, at most 1,000 replicates. The value
    may be NaN where there is nothing to divide by; such replicates are left out.
    """

    name: str
    max_replicates = NATIVE_REPLICATES

    def rows(self, items: Sequence[Any]) -> NDArray[np.float64]:
        """``[documents, k]``."""
        return np.asarray(items, dtype=np.float64)

    def score_of_row(self, row: Any) -> float:
        """The value of a sum of rows ``[k]``."""
        return float(row[0])

    def value(self, items: Sequence[Any]) -> float:
        return self.score_of_row(self.rows(items).sum(axis=0))

    def statistic(self, items: Sequence[Any]) -> Sums:
        """The rows, and what their sums come to."""
        return Sums(self.rows(items), lambda sums: np.array([self.score_of_row(row) for row in sums]))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        blocks = resamples(len(items), min(bootstrap, self.max_replicates))
        scores = [
            score
            for score in scores_of_blocks(self.rows(items), blocks, self.score_of_row)
            if not math.isnan(score)
        ]
        return sample_stddev(scores) if len(scores) > 1 else None
