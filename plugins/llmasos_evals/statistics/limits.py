"""How many documents an evaluation needs for a wanted interval (``--limit auto``).

Two stages, one decision (Stein 1945): a pilot of documents in random order gives the spread, the spread gives the number of
documents, and that many are scored. Nothing is looked at in between, so there is no stopping at a lucky moment, and the
interval over all documents is the usual one. The order is a function of seed, task and document; a prefix of it is a random
sample, and a longer run contains a shorter one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmasos_evals.statistics.distributions import normal_quantile, wilson

#: Documents of the pilot: their standard deviation is known to about a tenth.
PILOT = 200
#: Clusters of the pilot at least, where there are clusters.
PILOT_CLUSTERS = 40
#: Chance that the interval is as narrow as wanted, over what the pilot can be.
ASSURANCE = 0.9
LEVEL = 0.95


class ScoreLike(Protocol):
    """What is used of a task's ``Score``."""

    @property
    def value(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def ci_low(self) -> float | None: ...
    @property
    def ci_high(self) -> float | None: ...
    @property
    def stderr_method(self) -> str | None: ...
    @property
    def range(self) -> tuple[float | None, float | None]: ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """The random order of a task's documents and how many of them the pilot takes; clusters stay together."""

    order: tuple[int, ...]
    pilot: int
    #: Where a cluster ends in ``order``; None without clusters.
    ends: tuple[int, ...] | None = None

    def first(self, count: int) -> list[int]:
        """The first ``count`` documents of the order, or a few more, so that no cluster is torn."""
        if self.ends is not None:
            count = next((end for end in self.ends if end >= count), len(self.order))
        return sorted(self.order[:count])


def sampling(task: str, size: int, seed: int, labels: Sequence[str] | None = None) -> Sampling:
    """The order of the documents 0 to ``size`` - 1 of a task; ``labels`` are their clusters."""

    def key(thing: object) -> bytes:
        return hashlib.sha256(f"{seed}\n{task}\n{thing}".encode("utf-8", "surrogatepass")).digest()

    if labels is None:
        return Sampling(tuple(sorted(range(size), key=key)), min(size, PILOT))
    members: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        members.setdefault(label, []).append(place)
    order: list[int] = []
    ends: list[int] = []
    for label in sorted(members, key=key):
        order += members[label]
        ends.append(len(order))
    clusters = ends[min(len(ends), PILOT_CLUSTERS) - 1] if ends else 0
    return Sampling(tuple(order), min(size, max(PILOT, clusters)), tuple(ends))


@dataclass(frozen=True, slots=True)
class Decision:
    """What the pilot came to: ``documents`` are needed, of which the task may have fewer."""

    pilot: int
    documents: int
    available: int

    @property
    def count(self) -> int:
        """Documents that are scored."""
        return min(self.available, max(self.pilot, self.documents))


def target(interval: float, value: float, limits: tuple[float | None, float | None]) -> float:
    """The wanted half width in the unit of a metric: a share of its range, or of its value where it has none."""
    low, high = limits
    if low is not None and high is not None:
        return interval * (high - low)
    return interval * abs(value)


def decide(
    scores: Sequence[ScoreLike], interval: float, available: int, units: int | None = None
) -> Decision:
    """How many documents make every interval of a task ``interval`` wide on either side, judged by its pilot.

    ``units`` is the number of clusters of the pilot, where there are some.
    """
    pilot = max((score.n for score in scores), default=0)
    needed = max((_needed(score, interval, units) for score in scores), default=pilot)
    return Decision(pilot, needed, available)


def _needed(score: ScoreLike, interval: float, units: int | None) -> int:
    if score.ci_low is None or score.ci_high is None:
        return score.n
    wanted = target(interval, score.value, score.range)
    if wanted <= 0:
        return score.n
    if (score.stderr_method or "").startswith("analytic") and (score.stderr_method or "").endswith("|wilson"):
        # The rate nearest to one half that the pilot does not rule out has the largest spread.
        low, high = wilson(score.value * score.n, score.n, 2 * ASSURANCE - 1)
        rate = min(max(0.5, low), high)
        deviation = math.sqrt(rate * (1 - rate))
        return max(2, math.ceil((normal_quantile(0.5 + LEVEL / 2) * deviation / wanted) ** 2))
    width = (score.ci_high - score.ci_low) / 2 * _caution((units or score.n) - 1)
    return max(2, math.ceil(score.n * (width / wanted) ** 2))


def _caution(df: int) -> float:
    """How much larger a standard deviation may be than the one ``df`` + 1 documents show, with the chance ``ASSURANCE``.

    From the chi-square distribution by Wilson and Hilferty's cube root.
    """
    part = 2 / (9 * max(1, df))
    quantile = max(1e-3, 1 - part + normal_quantile(1 - ASSURANCE) * math.sqrt(part)) ** 3
    return 1 / math.sqrt(quantile)


def section(decision: Decision, scores: Sequence[ScoreLike], interval: float) -> Mapping[str, Any]:
    """What the record says of a sample: the rule, what it asked for, and whether the intervals are as wanted."""
    return {
        "rule": f"two-stage|pilot:{PILOT}|assurance:{ASSURANCE}|order:sha256(seed,task,document)|v:1",
        "pilot": decision.pilot,
        "wanted": decision.documents,
        "reached": reached(scores, interval),
    }


def reached(scores: Sequence[ScoreLike], interval: float) -> bool:
    """Whether every interval is as narrow as wanted."""
    widths = [
        (score.ci_high - score.ci_low) / 2 <= target(interval, score.value, score.range) * (1 + 1e-9)
        for score in scores
        if score.ci_low is not None and score.ci_high is not None
    ]
    return bool(widths) and all(widths)
