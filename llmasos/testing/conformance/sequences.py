"""Token sequences laid end to end, and how far two tensors are apart; shared by the model checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmasos.contracts.model import KVCache, Model, PackedBatch

if TYPE_CHECKING:
    from torch import Tensor

#: Lengths tried: one token, a few, and one more than a power of two.
LENGTHS = (1, 2, 5, 17)


def sequences(model: Model, lengths: Sequence[int] = LENGTHS, *, seed: int = 20261121) -> list[list[int]]:
    """Seeded token sequences of the given lengths, cut to what the model's positions and two spare ones allow."""
    import random

    generator = random.Random(seed)
    most = max(1, model.max_length - 2)
    return [[generator.randrange(model.vocab_size) for _ in range(min(length, most))] for length in lengths]


def pack(
    model: Model,
    parts: Sequence[Sequence[int]],
    *,
    slots: Sequence[int] | None = None,
    begin: Sequence[int] | None = None,
) -> PackedBatch:
    """A batch of sequences on the model's device. ``begin`` is the position of each one's first token (0 by default)."""
    import torch

    firsts = [0] * len(parts) if begin is None else list(begin)
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    positions = [first + i for first, part in zip(firsts, parts, strict=True) for i in range(len(part))]
    return PackedBatch(
        tokens=torch.tensor(
            [token for part in parts for token in part], dtype=torch.int64, device=model.device
        ),
        positions=torch.tensor(positions, dtype=torch.int64, device=model.device),
        starts=tuple(starts),
        slots=None if slots is None else tuple(slots),
    )


def hidden_alone(model: Model, tokens: Sequence[int]) -> Tensor:
    """Hidden states [N, D] of one sequence by itself, without a cache."""
    return model.hidden(pack(model, [tokens]))


def advance(model: Model, cache: KVCache, slots: Sequence[int], parts: Sequence[Sequence[int]]) -> Tensor:
    """Feed more tokens of some slots: hidden states of the new tokens, in order."""
    begin = [cache.lengths[slot] for slot in slots]
    return model.hidden(pack(model, parts, slots=slots, begin=begin), cache)


def difference(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference in fp32; infinite for different shapes or where only one side is NaN."""
    if left.shape != right.shape:
        return float("inf")
    if left.numel() == 0:
        return 0.0
    gap = float((left.float() - right.float()).abs().max())
    return gap if gap == gap else float("inf")
