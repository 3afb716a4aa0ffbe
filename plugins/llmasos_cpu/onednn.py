"""oneDNN through operators that torch has for its own compiler: weights laid out once, the product fused with the bias.

Those operators are private, so they are tried before they are used; where one is missing or differs, weights stay as they
are. Letters: N packed tokens, O outputs, I inputs, V vocabulary.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows of one piece of a matrix: a vocabulary is laid out in pieces, so that its logits need not exist all at once.
PIECE = 4096
#: Tokens at which both libraries are timed: one or few are a step of decoding, many are scoring.
_SIZES = (1, 8, 256)
_WIDTH, _SECONDS = 768, 0.004


@dataclass(frozen=True, slots=True, eq=False)
class OneDnnWeight:
    """A ``PackedWeight``: pieces of up to PIECE rows each, and the plain table where rows of it are looked up."""

    pieces: tuple[Tensor, ...]
    table: Tensor | None
    outputs: int
    inputs: int
    nbytes: int


def pack(weight: Tensor, lookup: bool) -> OneDnnWeight:
    """Lay out ``weight`` [O, I] on the CPU."""
    reorder = torch.ops.mkldnn._reorder_linear_weight
    plain = weight.contiguous()
    pieces = tuple(reorder(part, None) for part in plain.split(PIECE))
    kept = plain.nbytes if lookup else 0
    return OneDnnWeight(pieces, plain if lookup else None, *weight.shape, weight.nbytes + kept)


def linear(x: Tensor, weight: OneDnnWeight, bias: Tensor | None) -> Tensor:
    """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]."""
    if len(weight.pieces) == 1:
        return product(x, weight.pieces[0], bias)
    biases = [None] * len(weight.pieces) if bias is None else bias.split(PIECE)
    return torch.cat(
        [product(x, piece, part) for piece, part in zip(weight.pieces, biases, strict=True)], dim=1
    )


def product(x: Tensor, piece: Tensor, bias: Tensor | None) -> Tensor:
    """x [N, I] with one piece [o, I] of a matrix, plus bias [o] -> [N, o]."""
    # The operator reads a bias with gaps as if it had none.
    dense = None if bias is None else bias.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, piece, dense, "none", [], "")
    return found


# ---- whether to use it ------------------------------------------------------------------------------------------------


def refusal(dtype: torch.dtype) -> str | None:
    """Why oneDNN cannot be used for this element type, or None: a small product is compared with torch's own."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(16, 24, generator=generator).to(dtype)
    x = torch.randn(8, 24, generator=generator).to(dtype)
    try:
        found = linear(x, pack(weight, lookup=False), None)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"torch {torch.__version__} does not have it: {str(error).splitlines()[0]}"
    largest = float((found.float() - F.linear(x, weight).float()).abs().max())
    allowed = 1e-4 if dtype == torch.float32 else 0.1
    if not largest <= allowed:
        return f"differs from torch by {largest:.3g} (allowed {allowed:.3g})"
    return None


def is_faster(dtype: torch.dtype, folder: Path) -> tuple[bool, str]:
    """Whether oneDNN beats torch's own products here, and the figures. Measured once for each machine and torch, for about
    50 ms, and kept in ``folder``."""
    entry = folder / f"onednn-{torch.__version__}-{str(dtype).removeprefix('torch.')}.json"
    stamp = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    try:
        stored = json.loads(entry.read_text(encoding="utf-8"))
        if {key: stored[key] for key in stamp} == stamp:
            ratios = [float(ratio) for ratio in stored["ratios"]]
            return _verdict(ratios)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet
    ratios = _measure(dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(stamp | {"ratios": ratios}), encoding="utf-8")
        os.replace(temporary, entry)
    except OSError:
        pass  # measured again next time
    return _verdict(ratios)


def _verdict(ratios: list[float]) -> tuple[bool, str]:
    shown = ", ".join(f"{ratio:.2f} at {size}" for size, ratio in zip(_SIZES, ratios, strict=True))
    return statistics.geometric_mean(ratios) > 1.0, f"speed against torch's own products: {shown} tokens"


def _measure(dtype: torch.dtype) -> list[float]:
    """Seconds of torch over seconds of oneDNN, at each of _SIZES."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(4 * _WIDTH, _WIDTH, generator=generator).to(dtype)
    packed = pack(weight, lookup=False)
    ratios = []
    with torch.inference_mode():
        for size in _SIZES:
            x = torch.randn(size, _WIDTH, generator=generator).to(dtype)
            plain = _seconds(lambda x=x: F.linear(x, weight))  # type: ignore[misc]
            ratios.append(plain / _seconds(lambda x=x: linear(x, packed, None)))  # type: ignore[misc]
    return ratios


def _seconds(work: Callable[[], object]) -> float:
    """Median seconds of one call."""
    work()
    samples: list[float] = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(samples) < 3:
        begin = time.perf_counter()
        work()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples)
