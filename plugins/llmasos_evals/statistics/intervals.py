"""The standard error and the 95 % interval of a value, for every metric.

``interval`` picks the method from what the aggregation says of itself: means and ratios have formulas, functions of sums a
bootstrap that costs little, everything else a bootstrap whose work is bounded. Documents of one cluster (a passage, a
subject) are not independent; given clusters, all of them work on clusters.

Methods are named ``STDERR|INTERVAL`` in records, for example ``analytic|wilson``, ``clustered:passage|t``,
``bootstrap:10000:philox|percentile``. docs/explanation/statistics.md says which is used when, and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmasos_evals.statistics.aggregations import Mean, sample_stddev
from llmasos_evals.statistics.bootstrap import (
    LEAST,
    bootstrap_sums,
    bootstrap_values,
    function_replicates,
    native_replicates,
    percentile_interval,
    picks,
)
from llmasos_evals.statistics.clusters import Clusters, clustered_stderr
from llmasos_evals.statistics.distributions import normal_quantile, t_quantile, wilson
from llmasos_evals.statistics.sums import IDENTITY, Ratio, Sums

LEVEL = 0.95
Range = tuple[float | None, float | None]
UNBOUNDED: Range = (None, None)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far a value may be from the one of all documents like these. ``low`` and ``high`` bound the 95 % interval."""

    stderr: float | None
    low: float | None
    high: float | None
    method: str | None


UNKNOWN = Uncertainty(None, None, None, None)


class Measured(Protocol):
    """What ``interval`` asks of a metric: a ``Measure`` of a task, or what a comparison makes of a signature."""

    aggregation: Any
    metric: Any
    range: Range

    def aggregate(self, items: Sequence[Any]) -> float: ...

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None: ...


def interval(
    measure: Measured,
    items: Sequence[Any],
    *,
    bootstrap: int,
    compat: str = "native",
    clusters: Clusters | None = None,
) -> Uncertainty:
    """Standard error and interval of ``measure`` over ``items``; nothing when ``bootstrap`` is 0.

    With ``compat`` "lm-eval" the standard error is that harness's to the last bit (None where it has none); the interval
    is ours in any case. Fewer than two documents, or clusters, have no standard error.
    """
    if bootstrap <= 0 or not items:
        return UNKNOWN
    native = _native(measure, items, bootstrap, clusters)
    if compat != "lm-eval":
        return native
    stderr = measure.stderr(items, bootstrap)
    how = (native.method or "|").partition("|")[2] or "none"
    return Uncertainty(
        stderr, native.low, native.high, f"{_harness_method(measure, bootstrap, stderr)}|{how}"
    )


def _harness_method(measure: Measured, bootstrap: int, stderr: float | None) -> str:
    if stderr is None:
        return "none"
    aggregation = aggregation_of(measure)
    if isinstance(aggregation, Mean):
        return "analytic"
    most = getattr(aggregation, "max_replicates", bootstrap)
    return f"bootstrap:{min(bootstrap, most)}:mt19937"


def aggregation_of(measure: Measured) -> Any:
    """The aggregation of a measure; None for a metric that is not made of one."""
    return measure.aggregation or getattr(measure.metric, "aggregation", None)


def statistic_of(aggregation: Any, items: Sequence[Any]) -> Ratio | Sums | None:
    """What an aggregation says of itself: a ratio, a function of sums, or nothing."""
    if hasattr(aggregation, "statistic"):
        found: Ratio | Sums | None = aggregation.statistic(items)
        return found
    if not (hasattr(aggregation, "rows") and hasattr(aggregation, "score_of_row")):
        return None
    rows = np.asarray(aggregation.rows(items), dtype=np.float64)

    def finish(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray([aggregation.score_of_row(row) for row in sums], dtype=np.float64)

    alone = (lambda: finish(rows)) if getattr(aggregation, "scores_documents", False) else None
    return Sums(rows, finish, alone)


def _native(
    measure: Measured, items: Sequence[Any], bootstrap: int, clusters: Clusters | None
) -> Uncertainty:
    aggregation = aggregation_of(measure)
    statistic = statistic_of(aggregation, items)
    if isinstance(statistic, Ratio):
        exact = isinstance(aggregation, Mean) and clusters is None
        return of_ratio(statistic, measure.range, clusters, items=items if exact else None)
    if isinstance(statistic, Sums):
        return of_sums(statistic, bootstrap, clusters)
    if clusters is None and hasattr(aggregation, "replicates"):
        count = native_replicates(1, bootstrap)
        replicates = aggregation.replicates(items, count, 0)
        whole = measure.aggregate(items)
        return _of_replicates(replicates, f"bootstrap:{count}:philox", len(items), whole)

    return of_function(measure.aggregate, items, bootstrap, clusters)


def of_ratio(
    ratio: Ratio,
    limits: Range = UNBOUNDED,
    clusters: Clusters | None = None,
    *,
    items: Sequence[Any] | None = None,
) -> Uncertainty:
    """Means and ratios, by formula. With ``items`` the standard error of their mean has the bits of the harness's.

    Intervals: Wilson's for a proportion (with clusters at its effective number of documents), Student's t otherwise, through
    the link of the ratio, so that a perplexity's interval is one of its logarithm.
    """
    size = len(ratio.top)
    units = size if clusters is None else clusters.count
    source = "analytic" if clusters is None else f"clustered:{clusters.column}"
    mean = ratio.mean if ratio.bottom.sum() else math.nan
    value = float(ratio.link.of(np.asarray([mean]))[0])
    if not math.isfinite(value):
        return Uncertainty(math.nan if size > 1 else None, None, None, f"{source}|none")
    proportion = is_proportion(ratio, limits)
    if units < 2:
        if proportion and clusters is None:
            return Uncertainty(None, *wilson(float(ratio.top.sum()), size), "none|wilson")
        return Uncertainty(None, None, None, None)
    if clusters is not None:
        error = clustered_stderr(ratio.deviations, clusters)
    elif items is not None:
        error = sample_stddev(items) / math.sqrt(size)
    else:
        error = math.sqrt(float((ratio.deviations**2).sum()) / (size - 1) / size)
    stderr = abs(ratio.link.slope(mean)) * error
    if proportion:
        effective = _effective(mean, error, size) if clusters is not None else size
        return Uncertainty(stderr, *wilson(mean * effective, effective), f"{source}|wilson")
    reach = t_quantile(0.5 + LEVEL / 2, units - 1) * error
    ends = sorted(ratio.link.of(np.asarray([mean - reach, mean + reach])).tolist())
    how = "t" if ratio.link.name in ("", "bits") else f"t:{ratio.link.name}"
    return Uncertainty(stderr, ends[0], ends[1], f"{source}|{how}")


def is_proportion(ratio: Ratio, limits: Range = UNBOUNDED) -> bool:
    """Whether a ratio is a share of documents: each counts 0 or 1, and the metric cannot be anything else than a share."""
    if ratio.link is not IDENTITY or not ratio.is_mean or limits not in ((0.0, 1.0), UNBOUNDED):
        return False
    return bool(((ratio.top == 0) | (ratio.top == 1)).all())


def _effective(rate: float, stderr: float, size: int) -> float:
    """How many independent documents would give a proportion this standard error."""
    return rate * (1 - rate) / stderr**2 if stderr > 0 else float(size)


def of_sums(statistic: Sums, bootstrap: int, clusters: Clusters | None = None) -> Uncertainty:
    """Functions of sums, by the bootstrap over documents, or over clusters."""
    rows = statistic.rows if clusters is None else clusters.sums(statistic.rows)
    count = native_replicates(len(rows), bootstrap)
    method = f"bootstrap:{count}:philox"
    if clusters is not None:
        method = f"cluster-bootstrap:{clusters.column}:{count}:philox"
    if len(rows) < 2:
        return UNKNOWN
    if not np.isfinite(rows).all():
        return Uncertainty(math.nan, None, None, f"{method}|none")
    return _of_replicates(statistic.finish(bootstrap_sums(rows, count)), method, len(rows), statistic.value())


def of_function(
    value: Any, items: Sequence[Any], bootstrap: int, clusters: Clusters | None = None
) -> Uncertainty:
    """A function that knows no sums, by a bootstrap that evaluates a bounded number of documents.

    A function that fails on a replicate has no standard error: resampled documents are not what it was written for.
    """
    size = len(items) if clusters is None else clusters.count
    if size < 2:
        return UNKNOWN
    count = function_replicates(len(items), bootstrap)
    method = f"bootstrap:{count}:philox"
    try:
        whole = float(value(items))
        if clusters is None:
            values = bootstrap_values(items, value, count)
        else:
            method = f"cluster-bootstrap:{clusters.column}:{count}:philox"
            members = clusters.members()
            values = [
                float(value([items[place] for cluster in row.tolist() for place in members[cluster]]))
                for block in picks(size, count)
                for row in block
            ]
    except Exception:
        return Uncertainty(None, None, None, "none|none")
    return _of_replicates(np.asarray(values), method, size, whole)


def _of_replicates(values: NDArray[np.float64], method: str, size: int, value: float) -> Uncertainty:
    if size < 2 or len(values) < 2:
        return UNKNOWN
    # A replicate without anything to divide by has no value; when these are few, the others speak for all.
    known = values[~np.isnan(values)]
    if len(known) < 0.9 * len(values) or not np.isfinite(known).all() or not math.isfinite(value):
        return Uncertainty(math.nan, None, None, f"{method}|none")
    values = known
    stderr = float(values.std(ddof=1))
    if len(values) >= 0.9 * LEAST:
        return Uncertainty(stderr, *percentile_interval(values), f"{method}|percentile")
    # Too few replicates for their tails; their spread is known well enough.
    reach = t_quantile(0.5 + LEVEL / 2, size - 1) * stderr
    return Uncertainty(stderr, value - reach, value + reach, f"{method}|t")


def of_parts(value: float, stderr: float | None, size: int, *, shares: bool) -> Uncertainty:
    """The mean of several tasks' values, from its standard error (pooled over them). ``shares``: all are proportions."""
    if stderr is None or not math.isfinite(value) or not math.isfinite(stderr):
        return Uncertainty(stderr, None, None, None if stderr is None else "pooled|none")
    if shares and 0 <= value <= 1:
        effective = _effective(value, stderr, size) or float(size)
        return Uncertainty(stderr, *wilson(value * effective, effective), "pooled|wilson")
    reach = normal_quantile(0.5 + LEVEL / 2) * stderr
    return Uncertainty(stderr, value - reach, value + reach, "pooled|normal")
