"""How far two honest computations of the same thing may lie apart, by the precision of the model.

Sums of floating-point numbers depend on their order, and the order on the engine, the batch, the number of threads and the
processor. The errors of single tokens are as good as independent, so that of a log-likelihood grows with the square root of its
tokens. What was measured is in docs/how-to/verify-a-record.md; the bounds are twice that and more.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds in nats. A log-likelihood of n tokens may be off by ``nats`` times the square root of n; a token of greedy text
    may be less likely than the best one by ``gap``."""

    dtype: str
    nats: float
    gap: float

    def allowed(self, tokens: int) -> float:
        """How far log-likelihoods of so many tokens may lie apart."""
        return self.nats * math.sqrt(max(1, tokens))

    def allows(self, stored: float | None, found: float | None, tokens: int) -> bool:
        """Whether two log-likelihoods can be of the same computation."""
        if stored is None or found is None:
            return stored is found
        if math.isnan(stored) or math.isnan(found):
            return math.isnan(stored) and math.isnan(found)
        if math.isinf(stored) or math.isinf(found):
            return stored == found
        return abs(stored - found) <= self.allowed(tokens)

    def as_json(self) -> dict[str, Any]:
        """For an attestation."""
        return asdict(self)


TOLERANCES = {
    tolerance.dtype: tolerance
    for tolerance in (
        Tolerance("float32", nats=1e-3, gap=1e-3),
        Tolerance("float16", nats=0.07, gap=0.07),
        Tolerance("bfloat16", nats=0.5, gap=0.5),
    )
}
#: For a precision that is not in the table: that of the coarsest one.
COARSEST = TOLERANCES["bfloat16"]


def tolerance_of(dtype: str) -> Tolerance:
    """The bounds for a precision."""
    return TOLERANCES.get(dtype) or Tolerance(dtype, COARSEST.nats, COARSEST.gap)
