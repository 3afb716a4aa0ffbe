"""One forward pass over new tokens of sequences in slots of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmasos.contracts.model import CausalLM, KVCache, PackedBatch

if TYPE_CHECKING:
    from torch import Tensor

#: New tokens of one sequence: its slot, how many tokens the cache holds of it, and the tokens.
Part = tuple[int, int, Sequence[int]]


def hidden(model: CausalLM, cache: KVCache, parts: Sequence[Part]) -> Tensor:
    """Final hidden states [N, D] of the new tokens of all ``parts``, end to end. The cache is advanced by them."""
    import torch

    tokens: list[int] = []
    positions: list[int] = []
    starts = [0]
    for _, past, fresh in parts:
        tokens += fresh
        positions += range(past, past + len(fresh))
        starts.append(len(tokens))
    batch = PackedBatch(
        tokens=torch.tensor(tokens, device=model.device),
        positions=torch.tensor(positions, device=model.device),
        starts=tuple(starts),
        slots=tuple([slot for slot, _, _ in parts]),
    )
    return model.hidden(batch, cache)
