"""Calibration: does a choice given the probability 0.8 turn out right eight times of ten?

Confidence is the largest probability of softmax over the choices' log-likelihoods (divided by characters or bytes with
``norm``). Guo et al. 2017, "On Calibration of Modern Neural Networks"; equal-mass bins as in Nixon et al. 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmasos.api import ChoiceOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.metrics.likelihood import best, normalisation, probabilities
from llmasos_evals.statistics.resampling import SumAggregation


@dataclass(frozen=True, slots=True)
class Bin:
    """Documents whose confidence is in (low, high]; ``confidence`` and ``accuracy`` are means, None without documents."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def edges(confidences: Sequence[float], bins: int, binning: str) -> NDArray[np.float64]:
    """``bins + 1`` edges from 0 to 1: of the same width, or with the same number of documents between them."""
    if binning == "width":
        return np.linspace(0.0, 1.0, bins + 1)
    inner = np.quantile(np.asarray(confidences), np.linspace(0.0, 1.0, bins + 1)[1:-1], method="higher")
    return np.concatenate([[0.0], inner, [1.0]])


def _places(confidences: NDArray[np.float64], borders: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each confidence: (low, high], so that 1 is in the last one."""
    return np.clip(np.searchsorted(borders, confidences, side="left") - 1, 0, len(borders) - 2)


def reliability(items: Sequence[Any], *, bins: int = 15, binning: str = "width") -> list[Bin]:
    """The bins of a reliability diagram; items are (confidence, right)."""
    confidences = np.asarray([item[0] for item in items], dtype=np.float64)
    right = np.asarray([item[1] for item in items], dtype=np.float64)
    borders = edges(confidences, bins, binning)
    places, found = _places(confidences, borders), []
    for number in range(bins):
        inside = places == number
        count = int(inside.sum())
        found.append(
            Bin(
                low=float(borders[number]),
                high=float(borders[number + 1]),
                count=count,
                confidence=float(confidences[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return found


class CalibrationError(SumAggregation):
    """Mean distance of accuracy and confidence over bins, weighed by documents; items are (confidence, right).

    A row holds, bin by bin: documents, right ones, confidence. Replicates keep the bins of all documents.
    """

    name = "calibration_error"

    def __init__(self, bins: int = 15, binning: str = "width") -> None:
        self.bins, self.binning = bins, binning

    def rows(self, items: Sequence[Any]) -> NDArray[np.float64]:
        confidences = np.asarray([item[0] for item in items], dtype=np.float64)
        places = _places(confidences, edges(confidences, self.bins, self.binning))
        table = np.zeros((len(items), self.bins, 3))
        for row, place, (confidence, right) in zip(table, places, items, strict=True):
            row[place] = (1, right, confidence)
        return table.reshape(len(items), -1)

    def score_of_row(self, row: Any) -> float:
        counts = np.asarray(row, dtype=np.float64).reshape(-1, 3)
        total = float(counts[:, 0].sum())
        return float(np.abs(counts[:, 1] - counts[:, 2]).sum() / total) if total else math.nan


class ExpectedCalibrationError(AggregatedMetric):
    """Expected calibration error of the chosen answers (Guo et al. 2017)."""

    name = "ece"

    def __init__(self, bins: int = 15, binning: str = "width", norm: str = "none", **idle: Any) -> None:
        super().__init__(**idle)
        if binning not in ("width", "mass"):
            raise InputError(f"ece: binning {binning!r} is neither width nor mass")
        if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= 1000:
            raise InputError(f"ece: bins must be a number from 1 to 1000, not {bins!r}")
        self.bins, self.binning, self.norm = bins, binning, norm
        self.scores = normalisation(self.name, norm)
        self.aggregation = CalibrationError(bins, binning)

    @classmethod
    def default_aggregation(cls) -> SumAggregation:
        return CalibrationError()

    def details(self) -> Mapping[str, str]:
        return {"bins": str(self.bins), "binning": self.binning, "norm": self.norm, "tie": "first"}

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, ChoiceOutcome):
            raise self.cannot_score(outcome)
        scores = self.scores(outcome)
        chosen = best(scores)
        return [float(probabilities(scores)[chosen]), float(chosen in outcome.gold)]
