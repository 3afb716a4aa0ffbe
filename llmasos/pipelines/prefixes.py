"""Prompts that begin alike: what one slot of the cache has computed, another begins with.

A long beginning that several prompts share is kept once, in a slot that no row uses, where the cache can do that: then it
is also read from memory once, however many rows go on from it. Otherwise it is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from llmasos.contracts.model import KVCache, SharingCache

#: Shared beginnings shorter than this many tokens are computed again: copying them would cost as much.
SHORTEST = 16
#: From this many tokens on a shared beginning is kept once.
WORTH_SHARING = 64


class SlotContents:
    """Which tokens each slot of a cache holds or, once the next pass is over, will hold.

    ``spare`` is a slot beyond those of rows, for the beginning that is shared; None without one.
    """

    def __init__(self, cache: KVCache, slots: int, spare: int | None = None) -> None:
        self._cache = cache
        self._prompts: list[tuple[int, ...]] = [()] * slots
        self._spare = spare if isinstance(cache, SharingCache) else None
        #: What the spare slot holds.
        self._common: tuple[int, ...] = ()
        #: Slots that begin with tokens of the spare slot, and those of them that rows use.
        self._sharing: set[int] = set()
        self._running: set[int] = set()

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
        common = self._kept_once(source, ids, ready, limit)
        if common is not None:
            self._share(slot, common)
            ready = common
        elif ready < SHORTEST or not self._copy(source, slot, ready):
            self._reset(slot)
            ready = 0
        self._prompts[slot] = ids
        return ready

    def end(self, slot: int, whole: Sequence[int]) -> None:
        """The row in ``slot``, prompt and continuation, is done or given up. What was computed may still serve others."""
        self._running.discard(slot)
        self._prompts[slot] = tuple(whole[: self._cache.lengths[slot]])

    def _kept_once(self, source: int, ids: tuple[int, ...], ready: int, limit: int) -> int | None:
        """How many tokens of ``ids`` to share with the spare slot, which may first get what ``source`` holds; None to copy."""
        if self._spare is None:
            return None
        here = _shared(self._common, ids, limit)
        if here < ready - SHORTEST and ready >= WORTH_SHARING and not self._running:
            for slot in self._sharing.copy():  # rows that are done: what they hold goes with what they share
                self._prompts[slot] = ()
                self._reset(slot)
                if slot == source:
                    return None
            self._cache.copy(source, self._spare)
            self._cache.rewind(self._spare, ready)
            self._common = ids[:ready]
            here = ready
        return here if here >= max(WORTH_SHARING, ready - SHORTEST) else None

    def _share(self, slot: int, length: int) -> None:
        assert self._spare is not None
        assert isinstance(self._cache, SharingCache)
        self._cache.share(self._spare, slot, length)
        self._sharing.add(slot)
        self._running.add(slot)

    def _reset(self, slot: int) -> None:
        self._cache.reset(slot)
        self._sharing.discard(slot)
        self._running.discard(slot)

    def _copy(self, source: int, slot: int, length: int) -> bool:
        if source != slot:
            self._cache.copy(source, slot)
            shares = source in self._sharing
            (self._sharing.add if shares else self._sharing.discard)(slot)
        if slot in self._sharing:
            self._running.add(slot)
        return self._cache.rewind(slot, length)


def worth_sharing(prompts: Sequence[Sequence[int]]) -> bool:
    """Whether any two prompts begin with so much in common that it should be kept once."""
    ordered = sorted(map(tuple, prompts))
    return any(
        len(left) >= WORTH_SHARING and left[:WORTH_SHARING] == right[:WORTH_SHARING]
        for left, right in pairwise(ordered)
    )


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
