"""Prompts that begin alike: what one slot of the cache has computed, another begins with."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos.contracts.model import KVCache

#: Shared beginnings shorter than this many tokens are computed again: copying them would cost as much.
SHORTEST = 16


class SlotContents:
    """Which tokens each slot of a cache holds or, once the next pass is over, will hold."""

    def __init__(self, cache: KVCache, slots: int) -> None:
        self._cache = cache
        self._prompts: list[tuple[int, ...]] = [()] * slots

    def begin(self, slot: int, prompt: Sequence[int]) -> int | None:
        """Make ``slot`` hold the longest beginning of ``prompt`` that any slot holds; returns its length in tokens.

        At least the last token is left to be computed. None, and nothing changes, when more of the prompt is on its way
        in the next pass: it is worth waiting for.
        """
        ids = tuple(prompt)
        limit = len(ids) - 1
        ready, source, coming = 0, slot, 0
        for other, held in enumerate(self._prompts):
            shared = _shared(held, ids, limit)
            computed = min(shared, self._cache.lengths[other])
            coming = max(coming, shared)
            if computed > ready:
                ready, source = computed, other
        if coming >= ready + SHORTEST:
            return None
        if ready < SHORTEST or not self._copy(source, slot, ready):
            self._cache.reset(slot)
            ready = 0
        self._prompts[slot] = ids
        return ready

    def _copy(self, source: int, slot: int, length: int) -> bool:
        if source != slot:
            self._cache.copy(source, slot)
        return self._cache.rewind(slot, length)


def _shared(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    """How many tokens two sequences begin with in common, at most ``limit``."""
    end = min(len(left), limit)
    if left[:end] == right[:end]:
        return end
    low, high = 0, end - 1  # left[:low] is shared, left[: high + 1] is not
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
