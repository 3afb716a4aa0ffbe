"""Amounts of a metric as people write them: ``1pp`` is a hundredth of a share, ``0.01`` is 0.01 in the metric's unit."""

from __future__ import annotations

import math
import re

from llmasos.api import UsageError

Range = tuple[float | None, float | None]
_AMOUNT = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(pp)?")


def points(value: float, limits: Range) -> float | None:
    """Percentage points in the unit of a metric with these limits; None where they mean nothing."""
    if limits == (0.0, 1.0):
        return value / 100
    if limits == (0.0, 100.0):
        return value
    return None


def amount(text: str, limits: Range, metric: str) -> float:
    """A positive amount in the unit of a metric. Raises UsageError."""
    found = _AMOUNT.fullmatch(text.strip())
    value = float(found.group(1)) if found else math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{text!r} is no amount", hint="for example 1pp, or 0.01")
    if found is None or found.group(2) is None:
        return value
    in_points = points(value, limits)
    if in_points is None:
        raise UsageError(
            f"{metric} is no share, so percentage points mean nothing", hint="give a number in its own unit"
        )
    return in_points
