"""The metric ``bits_per_character``: what a compressor that uses the model would need for one Unicode character.

Unlike a perplexity a token it does not depend on how the text is cut into tokens, and unlike bits a byte it does not favour
alphabets that UTF-8 writes with several bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmasos.api import EvaluationError, Outcome, RollingOutcome


class BitsPerCharacter:
    """Bits of all texts over characters of all texts; the standard error is that of a ratio estimator (jackknife)."""

    signature = "bits_per_character|unit:character|agg:ratio|v:1"

    def item(self, outcome: Outcome) -> Any:
        """[bits, characters] of one text."""
        if not isinstance(outcome, RollingOutcome):
            raise EvaluationError(
                f"bits_per_character cannot score {type(outcome).__name__}",
                hint="use it with output_type: loglikelihood_rolling",
            )
        return [-outcome.logprob / math.log(2), len(outcome.text)]

    def aggregate(self, items: Sequence[Any]) -> float:
        """Bits a character over all texts."""
        bits, characters = math.fsum(b for b, _ in items), sum(c for _, c in items)
        if characters == 0:
            raise EvaluationError(
                "bits_per_character has no characters to score", hint="the task's texts are empty"
            )
        return float(bits / characters)

    def stderr(self, items: Sequence[Any], *, bootstrap: int) -> float | None:
        """Jackknife over texts (Efron 1982); None for fewer than two, or when leaving one out leaves nothing."""
        bits, characters = math.fsum(b for b, _ in items), sum(c for _, c in items)
        if len(items) < 2 or any(characters == c for _, c in items):
            return None
        without = [(bits - b) / (characters - c) for b, c in items]
        centre = math.fsum(without) / len(without)
        return math.sqrt(
            (len(without) - 1) / len(without) * math.fsum((value - centre) ** 2 for value in without)
        )
