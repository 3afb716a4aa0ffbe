"""Keys and values along one path through a tree of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmasos.api import TreeTile, UsageError


class SlabPath:
    """A ``PathCache``: for each layer one slab of keys and one of values, [capacity, Hk, E].

    The path lies in the first ``length`` rows. During a pass the batch's own keys lie right behind it, so that what goes on
    from the end of the path reads one range; afterwards those that extend the path move up and the others are forgotten.
    """

    def __init__(
        self, capacity: int, layers: int, heads: int, width: int, *, dtype: torch.dtype, device: str
    ) -> None:
        if capacity < 1:
            raise UsageError(f"a path of {capacity} tokens makes no sense", hint="it must be positive")
        self.capacity = capacity
        self._length = 0
        shape = (layers, capacity, heads, width)
        # Not cleared: the operating system only hands out pages that are written.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens, of which it holds at least as many."""
        self._length = min(length, self._length)

    def rows(self, count: int) -> Tensor:
        """Where ``count`` new tokens go during a pass: [count] int64. Raises UsageError when they do not fit."""
        end = self._length + count
        if end > self.capacity:
            raise UsageError(
                f"{count} new tokens after {self._length} do not fit a path cache of {self.capacity} tokens",
                hint="make the cache larger or the batch smaller",
            )
        return torch.arange(self._length, end, device=self.keys.device)

    def slabs(self) -> tuple[Tensor, Tensor]:
        """Slabs of keys and values of all layers: [layers, capacity, Hk, E] each."""
        return self.keys, self.values

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Slabs of keys and values of one layer, views: [capacity, Hk, E] each."""
        return self.keys[index], self.values[index]

    def advance(self, tile: TreeTile) -> None:
        """The pass is over: the path becomes its first ``tile.keep`` tokens and the batch's rows ``tile.kept``."""
        rows = [(self._length + begin, self._length + end) for begin, end in tile.kept if begin < end]
        count = sum(end - begin for begin, end in rows)
        if rows and rows != [(tile.keep, tile.keep + count)]:
            for slab in (self.keys, self.values):
                kept = torch.cat([slab[:, begin:end] for begin, end in rows], dim=1)
                slab[:, tile.keep : tile.keep + count] = kept
        self._length = tile.keep + count


def key_spans(tile: TreeTile, length: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Rows of the slab that all tokens of each sequence see, the sequence's own apart; the batch begins at ``length``."""
    return tuple(
        ((0, prefix), *((length + begin, length + end) for begin, end in spans))
        for prefix, spans in zip(tile.prefix, tile.ancestors, strict=True)
    )


def check_tile(tile: TreeTile, starts: Sequence[int], length: int) -> None:
    """Raises UsageError for a tile that does not fit the batch, or a path of ``length`` tokens."""
    count = len(starts) - 1
    if not len(tile.prefix) == len(tile.ancestors) == len(tile.visible) == count:
        raise UsageError(
            f"the tile does not describe the {count} sequences of its batch", hint="one entry each"
        )
    for b, (prefix, spans, mask) in enumerate(zip(tile.prefix, tile.ancestors, tile.visible, strict=True)):
        own = starts[b + 1] - starts[b]
        if not 0 <= prefix <= length:
            raise UsageError(f"sequence {b} sees {prefix} tokens of a path of {length}")
        if any(not 0 <= begin <= end <= starts[b] for begin, end in spans):
            raise UsageError(f"sequence {b} sees rows of its batch that do not come before it")
        if mask is not None and tuple(mask.shape) != (own, own):
            raise UsageError(f"sequence {b} of {own} tokens has a mask of {list(mask.shape)}")
    if not 0 <= tile.keep <= length or any(not 0 <= b <= e <= starts[-1] for b, e in tile.kept):
        raise UsageError(f"the tile keeps rows that neither the path of {length} tokens nor the batch has")
