"""Whether two systems differ on the same documents, by how much, and what difference could have been seen.

The test follows from what the metric is: McNemar's where a document is right or wrong, sign flips for means of other numbers
and for clusters, approximate randomisation for everything that is no mean (BLEU, perplexities, F1, calibration).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmasos_evals.statistics.bootstrap import (
    bootstrap_sums,
    function_replicates,
    native_replicates,
    percentile_interval,
    picks,
)
from llmasos_evals.statistics.clusters import Clusters, clustered_stderr
from llmasos_evals.statistics.distributions import normal_below, normal_quantile, t_quantile
from llmasos_evals.statistics.intervals import LEVEL, UNBOUNDED, Range, is_proportion, statistic_of
from llmasos_evals.statistics.permutation import (
    Tested,
    function_randomisation,
    mcnemar,
    randomisation,
    sign_flip,
)
from llmasos_evals.statistics.power import USUAL, Design, detectable
from llmasos_evals.statistics.sums import Ratio, Sums


@dataclass(frozen=True, slots=True)
class Settings:
    """How to compare: ``samples`` is the most replicates and exchanges drawn."""

    samples: int = 10_000
    seed: int = 0
    design: Design = USUAL


SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Difference:
    """The second system less the first, over the documents both have.

    ``low`` and ``high`` bound the 95 % interval, ``detectable`` is the difference that would have been found with the wanted
    power; ``wins`` counts documents on which the second is better. None: cannot be said for this metric.
    """

    documents: int
    a: float
    b: float
    difference: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    p: float | None = None
    test: str | None = None
    p_bootstrap: float | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    detectable: float | None = None
    #: Independent units: documents, or clusters of them.
    units: int | None = None
    #: Documents' differences where the value is a mean, for comparing groups; not part of the report.
    deltas: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


def compare(
    aggregation: Any,
    a: Sequence[Any],
    b: Sequence[Any],
    *,
    higher_is_better: bool = True,
    limits: Range = UNBOUNDED,
    clusters: Clusters | None = None,
    settings: Settings = SETTINGS,
    scale: float = 1.0,
) -> Difference:
    """Compare two systems by their items on the same documents, in the same order.

    ``scale`` multiplies the first system's value: 0.99 asks how far the second is above 99 % of it. Raises what the
    aggregation raises for items that are none of its own.
    """
    first, second = statistic_of(aggregation, a), statistic_of(aggregation, b)
    values = (_value(aggregation, first, a), _value(aggregation, second, b))
    if (
        isinstance(first, Ratio)
        and isinstance(second, Ratio)
        and first.link.name == ""
        and first.is_mean
        and second.is_mean
    ):
        found = _means(first, second, values, limits, clusters, settings, scale)
    elif first is not None and second is not None:
        found = _sums(_as_sums(first), _as_sums(second), values, clusters, settings, scale)
    else:
        found = _functions(aggregation.value, a, b, values, clusters, settings, scale)
    return _counted(found, first, second, higher_is_better)


def _value(aggregation: Any, statistic: Ratio | Sums | None, items: Sequence[Any]) -> float:
    """The value; from the rows where these are known, because making them (n-grams, edits) is what takes time."""
    return statistic.value() if isinstance(statistic, Sums) else float(aggregation.value(items))


def _as_sums(statistic: Ratio | Sums) -> Sums:
    return statistic.sums() if isinstance(statistic, Ratio) else statistic


def _means(
    first: Ratio,
    second: Ratio,
    values: tuple[float, float],
    limits: Range,
    clusters: Clusters | None,
    settings: Settings,
    scale: float,
) -> Difference:
    deltas = second.top - scale * first.top
    size, difference = len(deltas), float(deltas.mean())
    if not np.isfinite(deltas).all():
        return Difference(size, *values, values[1] - scale * values[0])
    binary = (
        clusters is None and scale == 1 and is_proportion(first, limits) and is_proportion(second, limits)
    )
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    cautious: float | None
    if binary:
        only_b, only_a = int((deltas > 0).sum()), int((deltas < 0).sum())
        tested = mcnemar(only_a, only_b)
        stderr, low, high, cautious = paired_shares(only_a, only_b, size)
        method = "paired-shares"
    else:
        tested = flipped(deltas, clusters, settings)
        units = size if clusters is None else clusters.count
        method = "paired" if clusters is None else f"clustered:{clusters.column}"
        if units > 1:
            stderr = mean_stderr(deltas, clusters)
            reach = t_quantile(0.5 + LEVEL / 2, units - 1) * stderr
            low, high = difference - reach, difference + reach
        cautious = stderr
    return Difference(
        size,
        *values,
        difference,
        stderr,
        low,
        high,
        method,
        tested.p,
        tested.test,
        detectable=_seen(cautious, settings),
        units=size if clusters is None else clusters.count,
        deltas=deltas,
    )


def _seen(stderr: float | None, settings: Settings) -> float | None:
    """What a comparison can show; nothing can be said where no document differs."""
    return detectable(stderr, settings.design) if stderr else None


def mean_stderr(deltas: NDArray[np.float64], clusters: Clusters | None) -> float:
    """Standard error of the mean of documents' differences."""
    centred = deltas - deltas.mean()
    if clusters is not None:
        return clustered_stderr(centred, clusters)
    return math.sqrt(float((centred**2).sum()) / (len(deltas) - 1) / len(deltas))


def flipped(deltas: NDArray[np.float64], clusters: Clusters | None, settings: Settings) -> Tested:
    """The sign-flip test of documents' differences; a cluster keeps its signs together."""
    units = deltas if clusters is None else clusters.sums(deltas[:, None])[:, 0]
    return sign_flip(units, native_replicates(len(units), settings.samples), settings.seed)


def paired_shares(only_a: int, only_b: int, size: int) -> tuple[float, float, float, float]:
    """The difference of two shares of the same documents: standard error, interval, and an error that is never 0.

    The interval is that of Bonett and Price (2012): one document is added to each kind of disagreement, so that it has a
    width when there is none, and keeps its level with few. The last number is the standard error behind it, which says what
    could have been seen.
    """
    p, q = only_b / size, only_a / size
    stderr = math.sqrt(max(0.0, p + q - (p - q) ** 2) / size)
    p, q = (only_b + 1) / (size + 2), (only_a + 1) / (size + 2)
    cautious = math.sqrt((p + q - (p - q) ** 2) / (size + 2))
    reach = normal_quantile(0.5 + LEVEL / 2) * cautious
    return stderr, max(-1.0, p - q - reach), min(1.0, p - q + reach), cautious


def _sums(
    first: Sums,
    second: Sums,
    values: tuple[float, float],
    clusters: Clusters | None,
    settings: Settings,
    scale: float,
) -> Difference:
    size, difference = len(first.rows), values[1] - scale * values[0]
    if clusters is not None:
        first = Sums(clusters.sums(first.rows), first.finish)
        second = Sums(clusters.sums(second.rows), second.finish)
    finite = np.isfinite(first.rows).all() and np.isfinite(second.rows).all()
    if not finite or first.rows.shape != second.rows.shape or not math.isfinite(difference):
        return Difference(size, *values, difference)
    units, width = first.rows.shape
    count = native_replicates(units, settings.samples)
    tested = randomisation(first, second, count, settings.seed) if scale == 1 else None
    if units < 2:
        return Difference(size, *values, difference)
    both = bootstrap_sums(np.concatenate([first.rows, second.rows], axis=1), count, settings.seed)
    drawn = second.finish(both[:, width:]) - scale * first.finish(both[:, :width])
    return _of_drawn(size, values, difference, drawn, tested, clusters, settings)


def _functions(
    value: Callable[[Sequence[Any]], float],
    a: Sequence[Any],
    b: Sequence[Any],
    values: tuple[float, float],
    clusters: Clusters | None,
    settings: Settings,
    scale: float,
) -> Difference:
    size, difference = len(a), values[1] - scale * values[0]
    if size < 2 or clusters is not None or not math.isfinite(difference):
        return Difference(size, *values, difference)
    count = function_replicates(2 * size, settings.samples)
    tested = function_randomisation(a, b, value, count, settings.seed) if scale == 1 else None
    drawn = np.asarray(
        [
            value([b[i] for i in row]) - scale * value([a[i] for i in row])
            for block in picks(size, count, settings.seed)
            for row in block.tolist()
        ]
    )
    return _of_drawn(size, values, difference, drawn, tested, clusters, settings)


def _of_drawn(
    size: int,
    values: tuple[float, float],
    difference: float,
    drawn: NDArray[np.float64],
    tested: Tested | None,
    clusters: Clusters | None,
    settings: Settings,
) -> Difference:
    count, drawn = len(drawn), drawn[np.isfinite(drawn)]
    source = "bootstrap" if clusters is None else f"cluster-bootstrap:{clusters.column}"
    p, test = (tested.p, tested.test) if tested else (None, None)
    if len(drawn) < 0.9 * count:
        return Difference(size, *values, difference, p=p, test=test)
    stderr = float(drawn.std(ddof=1))
    low, high = percentile_interval(drawn)
    return Difference(
        size,
        *values,
        difference,
        stderr,
        low,
        high,
        f"{source}:{count}",
        p,
        test,
        bootstrap_p(drawn, difference),
        detectable=_seen(stderr, settings),
    )


def bootstrap_p(drawn: NDArray[np.float64], difference: float) -> float:
    """Two-sided p-value of the paired bootstrap: how often replicates are as far from their mean as the value from zero."""
    far = np.abs(drawn - drawn.mean()) >= abs(difference)
    return float((far.sum() + 1) / (len(drawn) + 1))


def _counted(
    found: Difference, first: Ratio | Sums | None, second: Ratio | Sums | None, higher_is_better: bool
) -> Difference:
    """Wins, ties and losses, where a document has a value of its own."""
    if first is None or second is None or first.alone is None or second.alone is None:
        return found
    with np.errstate(invalid="ignore"):
        step = second.alone() - first.alone()
    better = step > 0 if higher_is_better else step < 0
    worse = step < 0 if higher_is_better else step > 0
    wins, losses = int(better.sum()), int(worse.sum())
    return replace(found, wins=wins, losses=losses, ties=len(step) - wins - losses)


def compare_means(
    parts: Sequence[tuple[float, Difference]], settings: Settings = SETTINGS, *, scale: float = 1.0
) -> Difference | None:
    """Compare groups from the comparisons of their tasks; ``parts`` are (weight, difference), weights adding up to 1.

    Signs are flipped over all documents at once where all values are means, each document with its weight; otherwise the
    tasks' standard errors give a normal test. None when a task has no standard error.
    """
    size = sum(part.documents for _, part in parts)
    a, b, difference = (
        sum(weight * getattr(part, name) for weight, part in parts) for name in ("a", "b", "difference")
    )
    errors = [(weight, part.stderr) for weight, part in parts if part.stderr is not None]
    if len(errors) < len(parts):
        return None
    stderr = math.sqrt(sum((weight * error) ** 2 for weight, error in errors))
    reach = normal_quantile(0.5 + LEVEL / 2) * stderr
    deltas = [part.deltas for _, part in parts]
    if scale == 1 and all(
        part.deltas is not None and not str(part.method).startswith("clustered") for _, part in parts
    ):
        weighted = np.concatenate(
            [
                weight * values / len(values)
                for (weight, _), values in zip(parts, deltas, strict=True)
                if values is not None
            ]
        )
        tested = flipped(weighted, None, settings)
    else:
        tested = Tested(min(1.0, 2 * normal_below(-abs(difference) / stderr)) if stderr else 1.0, "normal")
    seen = [weight * part.detectable for weight, part in parts if part.detectable is not None]
    counts = [[getattr(part, name) for _, part in parts] for name in ("wins", "ties", "losses")]
    wins, ties, losses = (None if any(x is None for x in column) else sum(column) for column in counts)
    return Difference(
        size, a, b, difference, stderr, difference - reach, difference + reach, "stratified",
        tested.p, tested.test, None, wins, ties, losses, math.hypot(*seen) if len(seen) == len(parts) else None,
    )  # fmt: skip
