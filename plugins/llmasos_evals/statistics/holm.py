"""Many tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (Holm 1979): below alpha together they hold the family-wise error at alpha.

    The smallest is multiplied by the number of tests, the next by one less, and so on; none gets below one before it. None
    stands for a test that was not made, and counts for nothing.
    """
    made = [(p, place) for place, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(sorted(made)):
        least = min(1.0, max(least, p * (len(made) - rank)))
        adjusted[place] = least
    return adjusted
