"""Llama 3 rotary scaling, recognised from the factors that a GGUF file stores instead of the rule.

The rule (Llama 3.1 release, `apply_scaling`): a rotary frequency of wavelength w is divided by ``factor`` when
w > original / low, kept when w < original / high, and interpolated linearly in original / w between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import WeightsError

# Every Llama 3 release uses these; only the factor differs (8 for 3.1, 32 for 3.2).
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192


def llama3_factors(head: int, theta: float, factor: float) -> list[float]:
    """What each of the ``head / 2`` rotary frequencies is divided by."""
    factors = []
    for index in range(head // 2):
        wavelength = 2 * math.pi * theta ** (2 * index / head)
        if wavelength < _ORIGINAL / _HIGH:
            factors.append(1.0)
        elif wavelength > _ORIGINAL / _LOW:
            factors.append(factor)
        else:
            smooth = (_ORIGINAL / wavelength - _LOW) / (_HIGH - _LOW)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def recognise(path: Path, factors: Sequence[float], config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``rope_scaling`` entry that gives these factors. Raises WeightsError when no known rule does."""
    head = config["head_dim"]
    fits = 0 < len(factors) == head // 2 and all(map(math.isfinite, factors))
    factor = round(max(factors), 4) if fits else 0.0
    expected = llama3_factors(head, config["rope_theta"], factor) if factor >= 1 else []
    if not expected or not all(
        math.isclose(stored, wanted, rel_tol=1e-4) for stored, wanted in zip(factors, expected, strict=True)
    ):
        raise WeightsError(
            f"{path}: the {len(factors)} rotary factors in rope_freqs.weight follow no known rule",
            hint="use the model's safetensors, whose config.json states the rule",
        )
    if factor == 1:
        return {"rope_type": "default"}
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }
