"""Keys and values of past tokens, in slabs that are allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmasos.api import UsageError


class SlabCache:
    """A ``KVCache``: for each layer one slab of keys and one of values, [slots, capacity, Hk, E].

    A sequence keeps its slot for life, so its keys are always one contiguous range and attention reads them in place.
    """

    def __init__(
        self,
        slots: int,
        capacity: int,
        layers: int,
        heads: int,
        width: int,
        *,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        if slots < 1 or capacity < 1:
            raise UsageError(
                f"a cache of {slots} slots of {capacity} tokens makes no sense", hint="both must be positive"
            )
        self.slots = slots
        self.capacity = capacity
        self.lengths: list[int] = [0] * slots
        shape = (layers, slots, capacity, heads, width)
        # Not cleared: the operating system only hands out pages that are written.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def reset(self, slot: int) -> None:
        """Forget a slot."""
        self.lengths[slot] = 0

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` holds."""
        length = self.lengths[source]
        if source != target:
            self.keys[:, target, :length] = self.keys[:, source, :length]
            self.values[:, target, :length] = self.values[:, source, :length]
        self.lengths[target] = length

    def rewind(self, slot: int, length: int) -> bool:
        """Forget all but the first ``length`` tokens of a slot, of which it holds at least as many."""
        self.lengths[slot] = min(length, self.lengths[slot])
        return True

    def past(self, slots: Sequence[int]) -> list[int]:
        """Tokens held by each of ``slots``. Raises UsageError when one is named twice or does not exist."""
        for slot in slots:
            if not 0 <= slot < self.slots:
                raise UsageError(
                    f"cache slot {slot} does not exist", hint=f"this cache has slots 0 to {self.slots - 1}"
                )
        if len(set(slots)) != len(slots):
            raise UsageError(
                f"a cache slot is used twice in one batch: {list(slots)}",
                hint="give each sequence its own slot",
            )
        return [self.lengths[slot] for slot in slots]

    def rows(self, slots: Sequence[int], counts: Sequence[int]) -> Tensor:
        """Where ``counts[b]`` new tokens of ``slots[b]`` go in a flattened slab: [sum(counts)] int64.

        Raises UsageError as ``past`` does, and when a slot is too small.
        """
        pieces = []
        for slot, length, count in zip(slots, self.past(slots), counts, strict=True):
            if length + count > self.capacity:
                raise UsageError(
                    f"{count} new tokens after {length} do not fit a cache of {self.capacity} tokens a sequence",
                    hint="make the cache larger or the sequence shorter",
                )
            begin = slot * self.capacity + length
            pieces.append(torch.arange(begin, begin + count))
        return torch.cat(pieces).to(self.keys.device)

    def slabs(self) -> tuple[Tensor, Tensor]:
        """Flattened slabs of keys and values of all layers, views: [layers, slots * capacity, Hk, E] each."""
        return self.keys.flatten(1, 2), self.values.flatten(1, 2)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Flattened slabs of keys and values of one layer, views: [slots * capacity, Hk, E] each."""
        return self.keys[index].flatten(0, 1), self.values[index].flatten(0, 1)

    def advance(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """``counts[b]`` tokens of ``slots[b]`` are now held."""
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count
