"""Keys and values of past tokens, in blocks of one pool that is allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from llmasos.api import AttentionLayout, UsageError

#: Tokens of a block.
BLOCK = 16


class BlockCache:
    """A ``PagedCache``: for each layer one slab of keys and one of values, [blocks * BLOCK, Hk, E].

    A slot has a table of blocks. Neighbours are taken where they are free, so that a sequence is one range of rows or few, which
    attention reads in place. Sequences that begin alike hold the same blocks; one that writes into a block that others hold
    gets a block of its own first (copy on write).

    ``tokens``: room for so many tokens in all, those that slots share counted once; without it every slot can be filled.
    ``capacity`` is the most of one slot.
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
        tokens: int | None = None,
    ) -> None:
        if slots < 1 or capacity < 1 or (tokens is not None and tokens < 1):
            raise UsageError(
                f"a cache of {slots} slots of {capacity} tokens"
                f"{'' if tokens is None else f', {tokens} in all,'} makes no sense",
                hint="they must be positive",
            )
        self.slots = slots
        self.capacity = capacity
        self.lengths: list[int] = [0] * slots
        blocks = slots * _blocks(capacity)
        if tokens is not None:
            # The last block of a slot is not full, nor is the one from which it went its own way: two more each.
            blocks = min(blocks, _blocks(tokens) + 2 * slots)
        self.blocks = blocks
        self._tables: list[list[int]] = [[] for _ in range(slots)]
        #: How many slots hold a block; and whether any does, in a form that is searched fast.
        self._holders = [0] * blocks
        self._used = bytearray(blocks)
        self._free = blocks
        #: Blocks of each slot as ranges [begin, end).
        self._ranges: list[list[tuple[int, int]]] = [[] for _ in range(slots)]
        shape = (layers, blocks * BLOCK, heads, width)
        # Not cleared: the operating system only hands out pages that are written.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    @property
    def free(self) -> int:
        """Blocks that no slot holds."""
        return self._free

    def needs(self, slot: int, length: int) -> int:
        """Blocks to be taken until ``slot`` holds ``length`` tokens."""
        table, held = self._tables[slot], self.lengths[slot]
        shared = held < length and held % BLOCK and self._holders[table[held // BLOCK]] > 1
        return max(0, _blocks(length) - len(table)) + bool(shared)

    def reset(self, slot: int) -> None:
        """Forget a slot."""
        self.rewind(slot, 0)

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` holds: the same blocks, until one of them goes on."""
        if source != target:
            self.share(source, target, self.lengths[source])

    def share(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``, in the same blocks.

        Raises UsageError for tokens that the source has not.
        """
        if source == target or length > self.lengths[source]:
            raise UsageError(f"slot {target} cannot share {length} tokens of slot {source}")
        table = self._tables[source][: _blocks(length)]
        for block in table:
            self._holders[block] += 1
        self._release(target, 0)
        self._tables[target] = table
        self._ranges[target] = _ranges(table)
        self.lengths[target] = length

    def rewind(self, slot: int, length: int) -> bool:
        """Forget all but the first ``length`` tokens of a slot, of which it holds at least as many."""
        self.lengths[slot] = min(length, self.lengths[slot])
        self._release(slot, _blocks(self.lengths[slot]))
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
        """Where ``counts[b]`` new tokens of ``slots[b]`` go in a slab, taking blocks for them: [sum(counts)] int64.

        Raises UsageError as ``past`` does, for more than a slot may hold, and when the pool has no block left.
        """
        places: list[int] = []
        for slot, length, count in zip(slots, self.past(slots), counts, strict=True):
            if length + count > self.capacity:
                raise UsageError(
                    f"{count} new tokens after {length} do not fit a cache of {self.capacity} tokens a sequence",
                    hint="make the cache larger or the sequence shorter",
                )
            self._make_room(slot, length, count)
            table, end = self._tables[slot], length + count
            while length < end:
                begin = table[length // BLOCK] * BLOCK + length % BLOCK
                here = min(end - length, BLOCK - length % BLOCK)
                places += range(begin, begin + here)
                length += here
        return torch.tensor(places, dtype=torch.int64, device=self.keys.device)

    def layout(self, slots: Sequence[int], starts: tuple[int, ...], *, causal: bool) -> AttentionLayout:
        """Where the keys of a pass lie in a slab, its new tokens of ``slots[b]`` among them, for which ``rows`` was asked."""
        counts = [end - start for start, end in pairwise(starts)]
        if all(len(self._ranges[slot]) <= 1 for slot in slots):
            begins = tuple([self._ranges[slot][0][0] * BLOCK if self._ranges[slot] else 0 for slot in slots])
            lengths = tuple([self.lengths[slot] + count for slot, count in zip(slots, counts, strict=True)])
            return AttentionLayout(starts, begins, causal, k_lengths=lengths)
        # New tokens of a sequence that lie apart are sequences to attention, each after those before it.
        q_starts, k_starts = [0], []
        before: list[tuple[tuple[int, int], ...]] = []
        for slot, count in zip(slots, counts, strict=True):
            past, ahead, spans = self.lengths[slot], 0, []
            for first, last in self._ranges[slot]:
                if ahead == past + count:
                    break
                begin = first * BLOCK
                size = min(last * BLOCK - begin, past + count - ahead)
                new = begin + max(0, min(size, past - ahead))
                if new < begin + size:
                    q_starts.append(q_starts[-1] + begin + size - new)
                    k_starts.append(new)
                    before.append((*spans, (begin, new)))
                spans.append((begin, begin + size))
                ahead += size
        return AttentionLayout(
            tuple(q_starts), tuple(k_starts), True, before=tuple(before), visible=(None,) * len(k_starts)
        )

    def slabs(self) -> tuple[Tensor, Tensor]:
        """Slabs of keys and values of all layers: [layers, blocks * BLOCK, Hk, E] each."""
        return self.keys, self.values

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Slabs of keys and values of one layer, views: [blocks * BLOCK, Hk, E] each."""
        return self.keys[index], self.values[index]

    def advance(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """``counts[b]`` tokens of ``slots[b]`` are now held."""
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count

    def _make_room(self, slot: int, length: int, count: int) -> None:
        """Take blocks until ``slot`` has ``count`` rows after its ``length`` tokens that are its alone."""
        table, ranges = self._tables[slot], self._ranges[slot]
        inside = length % BLOCK
        if inside and count and self._holders[table[length // BLOCK]] > 1:
            old = table[length // BLOCK]
            new = self._take(slot)
            for slab in (self.keys, self.values):
                begin = old * BLOCK
                slab[:, new * BLOCK : new * BLOCK + inside] = slab[:, begin : begin + inside]
            self._holders[old] -= 1
            table[length // BLOCK] = new
            ranges[:] = _ranges(table)
        while len(table) * BLOCK < length + count:
            new = self._take(slot)
            table.append(new)
            if ranges and ranges[-1][1] == new:
                ranges[-1] = (ranges[-1][0], new + 1)
            else:
                ranges.append((new, new + 1))

    def _take(self, slot: int) -> int:
        """A free block: the one after the last of ``slot``, or else one where the slot is at home."""
        table = self._tables[slot]
        # The block after one that is shared is where its other holders want to go on.
        if (
            table
            and table[-1] + 1 < self.blocks
            and self._holders[table[-1]] == 1
            and not self._used[table[-1] + 1]
        ):
            found = table[-1] + 1
        else:
            found = self._used.find(0, slot * self.blocks // self.slots)
            if found < 0:
                found = self._used.find(0)
        if found < 0:
            raise UsageError(
                f"the cache is full: its {self.blocks * BLOCK} tokens are in use",
                hint="compute fewer sequences at a time, shorter ones, or make the cache larger",
            )
        self._used[found] = 1
        self._holders[found] = 1
        self._free -= 1
        return found

    def _release(self, slot: int, keep: int) -> None:
        """Let all but the first ``keep`` blocks of a slot go."""
        table = self._tables[slot]
        if len(table) == keep:
            return
        for block in table[keep:]:
            self._holders[block] -= 1
            if not self._holders[block]:
                self._used[block] = 0
                self._free += 1
        del table[keep:]
        self._ranges[slot] = _ranges(table)


def _blocks(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK)


def _ranges(table: Sequence[int]) -> list[tuple[int, int]]:
    """The blocks of a table as ranges [begin, end) of neighbours."""
    found: list[tuple[int, int]] = []
    for block in table:
        if found and found[-1][1] == block:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found
