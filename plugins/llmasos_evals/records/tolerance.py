"""How far two honest computations of the same thing may lie apart, by the precision of the model.

Sums of floating-point numbers depend on their order, and the order on the engine, the batch, the number of threads and the
processor. What is measured is in docs/how-to/verify-a-record.md; the bounds are well above it, and well below what changes
an answer on purpose.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds in nats. A log-likelihood x may be off by ``absolute + relative * |x|``; a token of greedy text may be less
    likely than the best one by ``gap``."""

    dtype: str
    absolute: float
    relative: float
    gap: float

    def allows(self, stored: float | None, found: float | None) -> bool:
        """Whether two log-likelihoods can be of the same computation."""
        if stored is None or found is None:
            return stored is found
        if math.isnan(stored) or math.isnan(found):
            return math.isnan(stored) and math.isnan(found)
        if math.isinf(stored) or math.isinf(found):
            return stored == found
        return abs(stored - found) <= self.absolute + self.relative * abs(found)

    def as_json(self) -> dict[str, Any]:
        """For an attestation."""
        return asdict(self)


TOLERANCES = {
    tolerance.dtype: tolerance
    for tolerance in (
        Tolerance("float32", absolute=1e-3, relative=1e-5, gap=1e-3),
        Tolerance("float16", absolute=0.05, relative=5e-3, gap=0.05),
        Tolerance("bfloat16", absolute=0.3, relative=2e-2, gap=0.3),
    )
}
#: For a precision that is not in the table: that of the coarsest one.
COARSEST = TOLERANCES["bfloat16"]


def tolerance_of(dtype: str) -> Tolerance:
    """The bounds for a precision."""
    known = TOLERANCES.get(dtype)
    return known or Tolerance(dtype, COARSEST.absolute, COARSEST.relative, COARSEST.gap)
