"""Do two models differ on the documents that both answered? Exact tests where they are cheap, stated approximations elsewhere.

The registry tests neighbours of a leaderboard; ``llmasos eval compare`` has the whole choice of tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

#: Sign flips are counted one by one up to this many differences.
EXACT = 14


@dataclass(frozen=True, slots=True)
class Paired:
    """``documents`` that both answered, the mean difference (first minus second), two-sided ``p`` and the ``test`` it is of."""

    documents: int
    difference: float
    p: float
    test: str


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> Paired | None:
    """Compare what documents (by digest) contributed. None when no document is in both."""
    shared = [key for key in first if key in second]
    if not shared:
        return None
    left, right = [first[key] for key in shared], [second[key] for key in shared]
    differences = [a - b for a, b in zip(left, right, strict=True)]
    mean = math.fsum(differences) / len(differences)
    if all(value in (0.0, 1.0) for value in (*left, *right)):
        return Paired(
            len(shared), mean, mcnemar(differences.count(1.0), differences.count(-1.0)), "McNemar, exact"
        )
    moved = [value for value in differences if value]
    if len(moved) <= EXACT:
        return Paired(len(shared), mean, flips(moved), "sign flips, exact")
    spread = math.sqrt(math.fsum(value * value for value in moved))
    p = math.erfc(abs(math.fsum(moved)) / spread / math.sqrt(2.0))
    return Paired(len(shared), mean, p, "sign flips, normal approximation")


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test (1947): a fair coin for every document on which exactly one of the two is right."""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = math.fsum(math.exp(_log_choose(n, i) - n * math.log(2.0)) for i in range(k + 1))
    return min(1.0, 2.0 * tail)


def flips(differences: Sequence[float]) -> float:
    """Two-sided exact p of the sign-flip permutation test on a mean difference."""
    if not differences:
        return 1.0
    seen = abs(math.fsum(differences))
    # The last bits of a sum depend on the order of its terms.
    bound = seen - 1e-12 * math.fsum(map(abs, differences))
    counted = sum(
        abs(math.fsum(sign * value for sign, value in zip(signs, differences, strict=True))) >= bound
        for signs in product((1, -1), repeat=len(differences))
    )
    return float(counted / 2 ** len(differences))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
