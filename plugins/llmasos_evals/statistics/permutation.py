"""Tests whether two systems differ that assume nothing but that their answers to a document could be exchanged.

Exact where that is cheap: McNemar's test is a binomial, sign flips of up to ``EXACT`` documents are all counted. P-values from
samples are (hits + 1) / (samples + 1), which keeps the level whatever the number of samples (Phipson and Smyth 2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmasos_evals.statistics.bootstrap import masks
from llmasos_evals.statistics.distributions import binomial_at_most, normal_below
from llmasos_evals.statistics.sums import Sums

#: Up to this many differences all sign patterns are counted: about a million.
EXACT = 20
#: From this many differences on, the sum of random signs is normal to more digits than a p-value is read with.
MANY = 20_000
#: Statistics this close count as equal: they differ by the order of additions only.
CLOSE = 1e-9


class Tested(NamedTuple):
    """A two-sided p-value and how it was found."""

    p: float
    test: str


def mcnemar(only_a: int, only_b: int) -> Tested:
    """McNemar's test, exact: of the documents that one system alone got right, each had a fair coin (McNemar 1947)."""
    count = only_a + only_b
    p = 1.0 if not count else min(1.0, 2 * binomial_at_most(min(only_a, only_b), count, 0.5))
    return Tested(p, "mcnemar:exact")


def sign_flip(differences: NDArray[np.float64], samples: int, seed: int = 0) -> Tested:
    """Sign-flip permutation test that the mean of ``differences`` is 0.

    Under the null hypothesis a document's difference could as well have the other sign. Documents without a difference do
    not matter. Differences of one size are McNemar's test. All 2^n patterns for up to ``EXACT`` differences, ``samples`` random ones above, and the normal distribution
    that their sum has in the limit for more than ``MANY``, unless a single document decides.
    """
    values = differences[differences != 0]
    if not len(values):
        return Tested(1.0, "sign-flip:exact")
    sizes = np.abs(values)
    if float(sizes.max() - sizes.min()) <= CLOSE * float(sizes.max()):
        return mcnemar(int((values < 0).sum()), int((values > 0).sum()))
    observed = abs(float(values.sum()))
    edge = observed - CLOSE * float(sizes.sum())
    if len(values) <= EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return Tested(float((np.abs(sums) >= edge).mean()), "sign-flip:exact")
    squares = values**2
    if len(values) > MANY and float(squares.max()) < 0.01 * float(squares.sum()):
        z = observed / math.sqrt(float(squares.sum()))
        return Tested(min(1.0, 2 * normal_below(-z)), "sign-flip:normal-limit")
    # In order of size, so that the order of the documents does not matter.
    values = np.sort(values)
    total, hits = float(values.sum()), 0
    for block in masks(len(values), samples, seed):
        hits += int((np.abs(total - 2 * (block @ values)) >= edge).sum())
    return Tested((hits + 1) / (samples + 1), f"sign-flip:{samples}")


def exchanged(a: Sums, b: Sums, blocks: Iterable[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Differences of value (second less first) after documents have changed places between two systems.

    Each row of ``blocks [r, documents]`` says which documents do.
    """
    step, total_a, total_b = b.rows - a.rows, a.rows.sum(axis=0), b.rows.sum(axis=0)
    parts = []
    for block in blocks:
        moved = block.astype(np.float64) @ step
        parts.append(b.finish(total_b - moved) - a.finish(total_a + moved))
    return np.concatenate(parts)


def randomisation(a: Sums, b: Sums, samples: int, seed: int = 0) -> Tested:
    """Approximate randomisation (Noreen 1989, Riezler and Maxwell 2005): for values that are no means of documents.

    Both systems' answers to a document change places with probability one half; the p-value is the share of such exchanges
    with a difference at least as large as the one observed. A system compared with itself has p = 1.
    """
    observed = abs(b.value() - a.value())
    found = exchanged(a, b, masks(len(a.rows), samples, seed))
    edge = observed - CLOSE * max(1.0, abs(a.value()), abs(b.value()))
    hits = int((np.abs(found[~np.isnan(found)]) >= edge).sum())
    return Tested((hits + 1) / (samples + 1), f"randomisation:{samples}")


def function_randomisation(
    a: Sequence[Any], b: Sequence[Any], value: Callable[[Sequence[Any]], float], samples: int, seed: int = 0
) -> Tested:
    """The same for a function that knows no sums. ``a`` and ``b`` are lists of the same documents' items."""
    observed = abs(float(value(b)) - float(value(a)))
    edge, hits = observed - CLOSE * max(1.0, observed), 0
    for block in masks(len(a), samples, seed):
        for row in block.tolist():
            first = [y if swap else x for x, y, swap in zip(a, b, row, strict=True)]
            second = [x if swap else y for x, y, swap in zip(a, b, row, strict=True)]
            hits += abs(float(value(second)) - float(value(first))) >= edge
    return Tested((hits + 1) / (samples + 1), f"randomisation:{samples}")
