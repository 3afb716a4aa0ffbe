"""Keys and values of past tokens, in slabs that are allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from llmasos.api import AttentionLayout, UsageError


class SlabCache:
    """A ``KVCache``: for each layer one slab of keys and one of values, [slots, capacity, Hk, E].

    A sequence keeps its slot for life, so its keys are one contiguous range and attention reads them in place; or two, when it
    begins with tokens of another slot.
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
        #: The slot whose first tokens a slot begins with, and how many. Its own rows begin with the token after these.
        self._shared: list[tuple[int, int]] = [(0, 0)] * slots
        shape = (layers, slots, capacity, heads, width)
        # Not cleared: the operating system only hands out pages that are written.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def reset(self, slot: int) -> None:
        """Forget a slot."""
        self.lengths[slot] = 0
        self._shared[slot] = (0, 0)

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` holds."""
        own = self.lengths[source] - self._shared[source][1]
        if source != target:
            self.keys[:, target, :own] = self.keys[:, source, :own]
            self.values[:, target, :own] = self.values[:, source, :own]
        self.lengths[target] = self.lengths[source]
        self._shared[target] = self._shared[source]

    def share(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``, which stay there, and none of its own.

        Raises UsageError for tokens that the source has not, or shares itself.
        """
        if source == target or self._shared[source][1] or length > self.lengths[source]:
            raise UsageError(f"slot {target} cannot share {length} tokens of slot {source}")
        self.lengths[target] = length
        self._shared[target] = (source, length)

    def rewind(self, slot: int, length: int) -> bool:
        """Forget all but the first ``length`` tokens of a slot, of which it holds at least as many."""
        source, shared = self._shared[slot]
        self.lengths[slot] = min(length, self.lengths[slot])
        self._shared[slot] = (source, min(shared, self.lengths[slot]))
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
            own = length - self._shared[slot][1]
            if own + count > self.capacity:
                raise UsageError(
                    f"{count} new tokens after {length} do not fit a cache of {self.capacity} tokens a sequence",
                    hint="make the cache larger or the sequence shorter",
                )
            begin = slot * self.capacity + own
            pieces.append(torch.arange(begin, begin + count))
        return torch.cat(pieces).to(self.keys.device)

    def layout(self, slots: Sequence[int], starts: tuple[int, ...], *, causal: bool) -> AttentionLayout:
        """Where the keys of a pass lie in a flattened slab, its new tokens of ``slots[b]`` among them."""
        counts = [end - start for start, end in pairwise(starts)]
        begins = [slot * self.capacity for slot in slots]
        if not any(self._shared[slot][1] for slot in slots):
            lengths = tuple(self.lengths[slot] + count for slot, count in zip(slots, counts, strict=True))
            return AttentionLayout(starts, tuple(begins), causal, k_lengths=lengths)
        spans, news = [], []
        for slot, begin in zip(slots, begins, strict=True):
            source, shared = self._shared[slot]
            new = begin + self.lengths[slot] - shared
            first = source * self.capacity
            spans.append(((first, first + shared), (begin, new)))
            news.append(new)
        return AttentionLayout(starts, tuple(news), True, before=tuple(spans), visible=(None,) * len(counts))

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
