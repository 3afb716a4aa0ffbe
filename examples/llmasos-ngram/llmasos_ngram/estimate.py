"""Estimation: interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3; Kneser & Ney 1995).

For an n-gram h·w of the highest order, c is how often it occurs; below, in how many different words it is preceded (n-grams
at the very start of a text, which nothing precedes, keep their frequency). With D a discount for counts 1, 2 and above::

    p(w | h) = max(c(hw) - D(c(hw)), 0) / Σ c(h·) + g(h) p(w | h')     h' is h without its first word
    g(h)     = Σ D(c(h·)) / Σ c(h·)                                    so that p(· | h) sums to 1

and the empty history interpolates with the uniform distribution over the vocabulary.

The n-grams are a trie, level by level: entry i of level k stands for a k-gram, its children are a range of level k+1, sorted
by token. Level 1 has an entry for every token of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmasos.api import InputError
from llmasos_ngram.words import BOUNDARY

#: Used where a level has too few n-grams to estimate discounts from.
FALLBACK = (0.5, 1.0, 1.5)
#: Most entries a level may have: children are counted in 32 bits.
MAX_ENTRIES = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Level:
    """Entries of one order.

    ``token`` [n] is the last word. ``share`` [n] is the first term of p(w | h); at level 1, all of p(w). ``rest`` [n] is g of
    the entry as a history and ``first`` [n + 1] its range of children; both are missing at the highest level.
    """

    token: NDArray[np.int32]
    share: NDArray[np.float32]
    rest: NDArray[np.float32] | None = None
    first: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A whole model; ``discounts`` are those of counts 1, 2 and above of each level."""

    vocab_size: int
    levels: tuple[Level, ...]
    discounts: tuple[tuple[float, float, float], ...]


def estimate(
    texts: Sequence[Sequence[int]], *, order: int, vocab_size: int, step: Callable[[], None] = lambda: None
) -> Table:
    """Estimate a model of ``order`` 2 to 5 from the token ids of texts (without ``<|text|>`` at their ends).

    ``step`` is called 2 x order times. Raises InputError when there is no text.
    """
    if not any(len(text) for text in texts):
        raise InputError("there is no text to train on", hint="name files that hold text")
    ids = np.concatenate(
        [np.array([BOUNDARY, *text, BOUNDARY], dtype=np.int64) for text in texts if len(text)]
    )
    lengths = [len(text) + 2 for text in texts if len(text)]
    # How many tokens of the same text stand before each one.
    before = np.concatenate([np.arange(length) for length in lengths])

    keys: list[NDArray[np.int64]] = [np.arange(vocab_size)]  # parent entry x vocabulary + token
    ends = [ids]  # for each place, the entry of the k-gram that ends there
    counts = [np.bincount(ids[before > 0], minlength=vocab_size)]
    for k in range(2, order + 1):
        places = np.flatnonzero(before >= k - 1)
        found, first, entry, count = np.unique(
            ends[-1][places - 1] * vocab_size + ids[places],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if len(found) > MAX_ENTRIES:
            raise InputError(
                f"{len(found)} n-grams of order {k} are too many", hint="train with a lower --order"
            )
        _count_predecessors(counts, ends[-1], places[first], before, k - 1)
        keys.append(found)
        counts.append(count)
        whole = np.full(len(ids), -1, dtype=np.int64)
        whole[places] = entry
        ends.append(whole)
        step()
    return _discounted(keys, counts, vocab_size, step)


def _count_predecessors(
    counts: list[NDArray[np.int64]],
    ends: NDArray[np.int64],
    places: NDArray[np.int64],
    before: NDArray[np.int64],
    k: int,
) -> None:
    """Replace frequencies of level ``k`` by numbers of different predecessors; ``places`` has one end of each (k+1)-gram."""
    size = len(counts[k - 1])
    preceded = np.bincount(ends[places], minlength=size)
    starts = np.zeros(size, dtype=bool)
    if k > 1:  # a text's first k tokens: only there is the first of them <|text|> with words behind it
        starts[ends[before == k - 1]] = True
    counts[k - 1] = np.where(starts, counts[k - 1], preceded)


def _discounted(
    keys: list[NDArray[np.int64]], counts: list[NDArray[np.int64]], vocab_size: int, step: Callable[[], None]
) -> Table:
    """Shares and rests of all levels from the adjusted counts."""
    order = len(keys)
    levels: list[Level] = []
    discounts: list[tuple[float, float, float]] = []
    shares, rests = [], []
    for k in range(1, order + 1):
        discount = _discounts(counts[k - 1])
        discounts.append(discount)
        taken = np.array([0.0, *discount])[np.minimum(counts[k - 1], 3)]
        parents = keys[k - 1] // vocab_size if k > 1 else np.zeros(vocab_size, dtype=np.int64)
        size = len(keys[k - 2]) if k > 1 else 1
        total = np.bincount(parents, weights=counts[k - 1], minlength=size)
        mass = np.bincount(parents, weights=taken, minlength=size)
        # A history that nothing follows (the end of a text) leaves everything to the shorter one.
        rests.append(np.divide(mass, total, out=np.ones(size), where=total > 0))
        shares.append((counts[k - 1] - taken) / total[parents])
        step()
    shares[0] = shares[0] + rests[0][0] / vocab_size
    for k in range(1, order + 1):
        token = (keys[k - 1] % vocab_size).astype(np.int32)
        share = shares[k - 1].astype(np.float32)
        if k == order:
            levels.append(Level(token, share))
            continue
        size = len(keys[k - 1])
        children = np.bincount(keys[k] // vocab_size, minlength=size)
        first = np.concatenate([[0], np.cumsum(children)]).astype(np.int32)
        levels.append(Level(token, share, rests[k].astype(np.float32), first))
    return Table(vocab_size, tuple(levels), tuple(discounts))


def _discounts(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """D1, D2 and D3+ of a level (Chen & Goodman 1998, equation 26)."""
    n = [int((counts == count).sum()) for count in (1, 2, 3, 4)]
    if min(n) == 0:
        return FALLBACK
    y = n[0] / (n[0] + 2 * n[1])
    found = tuple(k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3))
    if any(not 0 < discount < k for discount, k in zip(found, (1, 2, 3), strict=True)):
        return FALLBACK
    return found[0], found[1], found[2]
