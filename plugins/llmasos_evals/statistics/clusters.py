"""Documents that are not independent: questions about one passage, items of one subject."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which cluster each document belongs to: numbers from 0 in order of appearance."""

    column: str
    codes: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, column: str, labels: Sequence[Hashable]) -> Clusters:
        """From a label a document."""
        numbers: dict[Hashable, int] = {}
        codes = [numbers.setdefault(label, len(numbers)) for label in labels]
        return cls(column, np.asarray(codes, dtype=np.int64), len(numbers))

    def sums(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of documents added up to rows of clusters."""
        return np.stack(
            [np.bincount(self.codes, weights=column, minlength=self.count) for column in rows.T], axis=1
        )

    def members(self) -> list[list[int]]:
        """The documents of each cluster."""
        found: list[list[int]] = [[] for _ in range(self.count)]
        for place, code in enumerate(self.codes.tolist()):
            found[code].append(place)
        return found


def clustered_stderr(deviations: NDArray[np.float64], clusters: Clusters) -> float:
    """The clustered standard error of a mean from the documents' distances to it (Miller 2024, "Adding Error Bars to Evals").

    The square root of the usual variance of a mean plus, for each pair of different documents of one cluster, the product of
    their distances over n squared. Without clusters of more than one document it is the usual standard error.
    """
    size = len(deviations)
    squares = float((deviations**2).sum())
    within = float((np.bincount(clusters.codes, weights=deviations, minlength=clusters.count) ** 2).sum())
    return math.sqrt(max(0.0, squares / (size - 1) / size + (within - squares) / size**2))
