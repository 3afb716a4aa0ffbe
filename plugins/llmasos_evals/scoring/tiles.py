"""Tiles: stretches of a radix tree that go through the model in one pass.

Letters: N tokens of a tile, B sequences, n tokens of a sequence.

A tile is consecutive tokens of the tree in depth-first preorder. Whatever ancestors its tokens have outside of it lie on the
path from the root to the tile's first token, so one path of keys and values is all that goes from tile to tile. Inside, the
tile is taken apart into chains and small subtrees, each with a list of the rows that all of it sees: no mask is larger than
a small subtree, however many siblings hang together far above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmasos_evals.scoring.tree import Ints, RadixTree

Span = tuple[int, int]

#: Subtrees of up to this many tokens are one sequence with a mask; more, smaller sequences cost more calls.
BLOCK = 96


class Piece(NamedTuple):
    """Part of a branch in a tile: ``length`` tokens from ``depth`` (tokens above the first) on, rows from ``row`` on."""

    depth: int
    length: int
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Nodes ``begin`` to ``end`` of a tree; spans are of rows of the tile. The fields below ``starts`` as in ``TreeTile``."""

    begin: int
    end: int
    tokens: Ints
    positions: Ints
    starts: tuple[int, ...]
    prefix: tuple[int, ...]
    ancestors: tuple[tuple[Span, ...], ...]
    visible: tuple[NDArray[np.bool_] | None, ...]
    keep: int
    kept: tuple[Span, ...]


class Tiler:
    """Cuts tiles from one tree. ``floor``: how many tokens of the path outlive the last tile."""

    def __init__(self, tree: RadixTree, *, floor: int = 0) -> None:
        self._tokens = tree.tokens
        self._floor = floor
        grown = np.flatnonzero(tree.sizes)
        #: Branches that have tokens of their own: depth of the first, how many, and the node of the first.
        self._forks: list[int] = tree.forks[grown].tolist()
        self._sizes: list[int] = tree.sizes[grown].tolist()
        self._begins = np.cumsum(tree.sizes[grown]) - tree.sizes[grown]
        self.nodes = tree.nodes

    def tile(self, begin: int, budget: int) -> Tile:
        """The tile of up to ``budget`` tokens that begins at node ``begin``.

        It ends where a branch ends rather than inside one, if it is then at least half full.
        """
        pieces, after = self._pieces(begin, budget)
        count = pieces[-1].row + pieces[-1].length
        blocks = _Blocks(pieces)
        keep, kept = _path_at(pieces, after, self._floor)
        return Tile(
            begin=begin,
            end=begin + count,
            tokens=self._tokens[begin : begin + count],
            positions=np.concatenate(
                [np.arange(p.depth, p.depth + p.length, dtype=np.int32) for p in pieces]
            ),
            starts=(*blocks.starts, count),
            prefix=tuple(blocks.prefix),
            ancestors=tuple(blocks.ancestors),
            visible=tuple(blocks.visible),
            keep=keep,
            kept=kept,
        )

    def _pieces(self, begin: int, budget: int) -> tuple[list[Piece], int | None]:
        """The pieces of the tile, and the depth of the first token after it (None when there is none)."""
        branch = int(np.searchsorted(self._begins, begin, side="right")) - 1
        done = begin - int(self._begins[branch])  # tokens of the branch that earlier tiles have
        pieces: list[Piece] = []
        used = 0
        while branch < len(self._forks):
            depth, size = self._forks[branch] + done, self._sizes[branch] - done
            if size > budget - used:
                if 2 * used >= budget:
                    return pieces, depth
                pieces.append(Piece(depth, budget - used, used))
                return pieces, depth + budget - used
            pieces.append(Piece(depth, size, used))
            used += size
            branch, done = branch + 1, 0
        return pieces, None


def _path_at(pieces: list[Piece], depth: int | None, floor: int) -> tuple[int, tuple[Span, ...]]:
    """(tokens of the old path, rows of the tile) that lead to a token at ``depth`` right after the tile."""
    base = pieces[0].depth
    if depth is None:
        return min(base, floor), ()
    path: list[Piece] = []
    for piece in pieces:
        _truncate(path, piece.depth)
        base = min(base, piece.depth)
        path.append(piece)
    _truncate(path, depth)
    return min(base, depth), tuple((p.row, p.row + p.length) for p in path)


def _truncate(path: list[Piece], depth: int) -> None:
    """Cut a path of pieces off at ``depth``."""
    while path and path[-1].depth >= depth:
        path.pop()
    if path and path[-1].depth + path[-1].length > depth:
        path[-1] = path[-1]._replace(length=depth - path[-1].depth)


class _Blocks:
    """The sequences of a tile, in the order of its rows."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.starts: list[int] = []
        self.prefix: list[int] = []
        self.ancestors: list[tuple[Span, ...]] = []
        self.visible: list[NDArray[np.bool_] | None] = []
        self._pieces = pieces
        #: Where the subtree of each piece ends, as a number of pieces.
        self._ends = _subtree_ends(pieces)
        #: Tokens before each piece, and of all.
        self._rows = [*(piece.row for piece in pieces), pieces[-1].row + pieces[-1].length]
        # What is left to do, the next on top: (first piece, end, ancestors), siblings that hang at one place.
        self._todo: list[tuple[int, int, int, tuple[Span, ...]]] = []
        self._push(0, len(pieces), ())
        while self._todo:
            self._take(*self._todo.pop())

    def _push(self, begin: int, end: int, above: tuple[Span, ...], trunk: Piece | None = None) -> None:
        """Queue the subtrees of pieces ``begin`` to ``end``, which hang off ``trunk`` (or the path)."""
        groups: list[tuple[int, int, int, tuple[Span, ...]]] = []
        while begin < end:
            piece, stop = self._pieces[begin], self._ends[begin]
            if trunk is None:
                prefix, spans = piece.depth, above
            else:
                prefix, spans = -1, (*above, (trunk.row, trunk.row + piece.depth - trunk.depth))
            size = self._rows[stop] - self._rows[begin]
            if (
                groups
                and self._pieces[groups[-1][0]].depth == piece.depth
                and self._rows[begin] - self._rows[groups[-1][0]] + size <= BLOCK
            ):
                groups[-1] = (groups[-1][0], stop, *groups[-1][2:])
            else:
                groups.append((begin, stop, prefix, spans))
            begin = stop
        if trunk is not None:
            groups = [(first, stop, self.prefix[-1], spans) for first, stop, _, spans in groups]
        self._todo.extend(reversed(groups))

    def _take(self, begin: int, end: int, prefix: int, above: tuple[Span, ...]) -> None:
        """One sequence for a group of subtrees that is small enough; otherwise for its trunk, and queue what hangs off it."""
        size = self._rows[end] - self._rows[begin]
        self.starts.append(self._rows[begin])
        self.prefix.append(prefix)
        self.ancestors.append(above)
        if end - begin == 1 or size > BLOCK:
            self.visible.append(None)
            self._push(begin + 1, end, above, self._pieces[begin])
        else:
            self.visible.append(_mask(self._pieces[begin:end], size))


def _subtree_ends(pieces: list[Piece]) -> list[int]:
    """For each piece, the first later one that hangs at or above its first token."""
    ends = [len(pieces)] * len(pieces)
    open_: list[int] = []
    for index, piece in enumerate(pieces):
        while open_ and pieces[open_[-1]].depth >= piece.depth:
            ends[open_.pop()] = index
        open_.append(index)
    return ends


def _mask(pieces: list[Piece], size: int) -> NDArray[np.bool_]:
    """[n, n]: which rows of a few subtrees each of their rows descends from, itself included."""
    first = pieces[0].row
    mask = np.zeros((size, size), dtype=bool)
    path: list[Piece] = []
    for piece in pieces:
        _truncate(path, piece.depth)
        begin = piece.row - first
        rows = mask[begin : begin + piece.length]
        for above in path:
            rows[:, above.row - first : above.row - first + above.length] = True
        rows[:, begin : begin + piece.length] = np.tri(piece.length, dtype=bool)
        path.append(piece)
    return mask
