"""How small a difference a number of documents can show, and how many documents a difference needs.

Two models on the same documents: the difference of their means has the variance of the documents' differences,
2 (1 - r) times that of one model's scores when both have it and correlate with r (Miller 2024, section 4). With other
documents for each model r is 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llmasos_evals.statistics.distributions import normal_quantile


class Design(NamedTuple):
    """What is wanted of a test: two-sided level, and the chance that a difference of the wanted size is found."""

    alpha: float = 0.05
    power: float = 0.8

    @property
    def reach(self) -> float:
        """Standard errors between no difference and one that is found: 2.8 for the usual design."""
        return normal_quantile(1 - self.alpha / 2) + normal_quantile(self.power)


USUAL = Design()


def detectable(stderr: float, design: Design = USUAL) -> float:
    """The smallest difference that is found with the wanted power, given the standard error of the difference."""
    return design.reach * stderr


def paired_deviation(deviation: float, correlation: float) -> float:
    """Standard deviation of the difference of a document's two scores, each with ``deviation``."""
    return deviation * math.sqrt(2 * (1 - correlation))


def documents_needed(effect: float, deviation: float, design: Design = USUAL) -> int:
    """Documents that show a difference of ``effect``; ``deviation`` is that of the documents' differences."""
    return max(2, math.ceil((design.reach * deviation / effect) ** 2))
