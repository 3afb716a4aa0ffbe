"""Prompts that begin alike: what one slot of the cache has computed, another begins with.

Where the cache can share, a common beginning is kept once, and read from memory once, however many rows go on from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmasos.contracts.model import KVCache, SharingCache

#: Shared beginnings shorter than this many tokens are computed again: keeping track of them would cost as much.
SHORTEST = 16


class SlotContents:
    """Which tokens each slot of a cache holds or, once its prompt is computed, will hold."""

    def __init__(self, cache: KVCache, slots: int) -> None:
        self._cache = cache
        self._prompts: list[tuple[int, ...]] = [()] * slots

    def begin(self, slot: int, prompt: Sequence[int]) -> int | None:
        """Make ``slot`` hold the longest beginning of ``prompt`` that any slot holds; returns its length in tokens.

        At least the last token is left to be computed. None, and nothing changes, when more of the prompt is being computed in
        another slot: it is worth waiting for.
        """
        ids = tuple(prompt)
        limit = len(ids) - 1
        ready, source, coming = 0, slot, 0
        for other, held in enumerate(self._prompts):
            shared = _shared(held, ids, limit)
            computed = min(shared, self._cache.lengths[other])
            coming = max(coming, shared)
            if computed > ready or (computed == ready and other == slot):
                ready, source = computed, other
        if coming >= ready + SHORTEST:
            return None
        if ready < SHORTEST or not self._fill(slot, source, ready):
            self._cache.reset(slot)
            ready = 0
        self._prompts[slot] = ids
        return ready

    def end(self, slot: int, whole: Sequence[int]) -> None:
        """The row in ``slot``, prompt and continuation, is done or given up. What was computed may still serve others."""
        self._prompts[slot] = tuple(whole[: self._cache.lengths[slot]])

    def forget(self, slot: int) -> None:
        """Empty a slot."""
        self._cache.reset(slot)
        self._prompts[slot] = ()

    def _fill(self, slot: int, source: int, length: int) -> bool:
        """Make ``slot`` hold the first ``length`` tokens of ``source``; False when the cache cannot."""
        if source == slot:
            return self._cache.rewind(slot, length)
        if isinstance(self._cache, SharingCache):
            self._cache.share(source, slot, length)
            return True
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
