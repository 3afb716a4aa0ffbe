"""What a statistic needs to know of each document: a row of numbers, of which only the sum counts.

Nearly every aggregation is a function of sums over documents: means, perplexities, F1 and correlations (counts), BLEU (n-gram
counts), calibration (bins). Standard errors, bootstraps and paired tests then need the rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """``rows [documents, k]``; ``finish`` maps sums ``[r, k]`` to values ``[r]``.

    ``alone()``: what each document is worth by itself ``[documents]``, for counting wins; None where that means nothing.
    """

    rows: Rows
    finish: Callable[[Rows], NDArray[np.float64]]
    alone: Callable[[], NDArray[np.float64]] | None = None

    def value(self) -> float:
        """The value over all documents."""
        return float(self.finish(self.rows.sum(axis=0)[None])[0])


@dataclass(frozen=True, slots=True)
class Link:
    """A monotone function of a mean. ``name`` is empty for the mean itself."""

    name: str
    of: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    #: Its derivative at a mean, for the delta method.
    slope: Callable[[float], float]


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _perplexities(means: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.exp(-means)


IDENTITY = Link("", lambda means: means, lambda mean: 1.0)
PERPLEXITY = Link("log", _perplexities, lambda mean: -_exp(-mean))
BITS = Link("bits", lambda means: -means / math.log(2), lambda mean: -1 / math.log(2))


@dataclass(frozen=True, slots=True)
class Ratio:
    """``link(sum of top / sum of bottom)``: means (bottom is 1 a document) and perplexities (bottom counts words)."""

    top: NDArray[np.float64]
    bottom: NDArray[np.float64]
    link: Link = IDENTITY

    @property
    def is_mean(self) -> bool:
        """Whether every document weighs the same."""
        return bool((self.bottom == 1).all())

    @property
    def mean(self) -> float:
        """The ratio, before the link."""
        return float(self.top.sum() / self.bottom.sum())

    @property
    def deviations(self) -> NDArray[np.float64]:
        """How far each document pulls the ratio from its value: they sum to 0 and are on the scale of the ratio.

        For a mean the documents' distances from it; for a ratio its linearisation (Cochran 1977, chapter 6).
        """
        scale = len(self.top) / float(self.bottom.sum())
        return (self.top - self.mean * self.bottom) * scale

    def alone(self) -> NDArray[np.float64]:
        """What each document is worth by itself."""
        return self.link.of(_divided(self.top, self.bottom))

    def sums(self) -> Sums:
        """The same as sums of two columns, or of one where every document weighs the same."""
        if self.is_mean:
            size = len(self.top)
            return Sums(self.top[:, None], lambda sums: self.link.of(sums[:, 0] / size), self.alone)
        with_weights = np.stack([self.top, self.bottom], axis=1)
        return Sums(with_weights, lambda sums: self.link.of(_divided(sums[:, 0], sums[:, 1])), self.alone)


def _divided(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return top / bottom


def mean_of(items: Any, link: Link = IDENTITY) -> Ratio:
    """The mean of one number a document."""
    top = np.asarray(items, dtype=np.float64)
    return Ratio(top, np.ones_like(top), link)


def ratio_of(items: Any, link: Link = IDENTITY) -> Ratio:
    """The ratio of (top, bottom) pairs."""
    pairs = np.asarray(items, dtype=np.float64).reshape(len(items), 2)
    return Ratio(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), link)
