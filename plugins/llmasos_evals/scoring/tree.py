"""Rows of token ids as a radix tree: what rows begin with in common is there once.

Letters: R rows, N tree tokens (nodes), L tokens a row. The ids of a row are what the model reads and one more, which is
only scored; the tree is over what the model reads.

Rows are put in an order in which those that begin alike stand next to each other. Then a row is what it shares with the
row before it and what it adds, the tokens added are the nodes of the tree in depth-first preorder, and no pointers are
needed. Sorting compares bytes and the common lengths are found with numpy, so the cost is linear in the tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


class Row(NamedTuple):
    """One row as it comes out of a tree: ``inputs`` [L] are what the model reads, ``wanted`` the ids scored at the last
    positions of ``inputs``. ``nodes`` [L] are the tree nodes of ``inputs``, of which the last ``size`` are the row's own."""

    inputs: Ints
    wanted: Ints
    nodes: Ints
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class RadixTree:
    """R rows. Row i begins with the first ``forks[i]`` tokens of row i - 1 and goes on with its own ``sizes[i]`` tokens, which
    are next in ``tokens`` [N]; ``last[i]`` is the id after them and the last ``targets[i]`` ids are scored."""

    forks: Ints
    sizes: Ints
    tokens: Ints
    last: Ints
    targets: Ints

    def __len__(self) -> int:
        return len(self.forks)

    @property
    def nodes(self) -> int:
        """Tree tokens N."""
        return len(self.tokens)

    @property
    def depth(self) -> int:
        """Tokens of the longest row."""
        return int((self.forks + self.sizes).max(initial=0))

    def rows(self) -> Iterator[Row]:
        """Every row in order. The arrays are copies, but for those of one row, which are its own."""
        path = np.zeros(self.depth, dtype=np.int32)
        nodes = np.zeros(self.depth, dtype=np.int32)
        done = 0
        columns = zip(
            self.forks.tolist(), self.sizes.tolist(), self.last.tolist(), self.targets.tolist(), strict=True
        )
        for fork, size, last, targets in columns:
            length = fork + size
            path[fork:length] = self.tokens[done : done + size]
            nodes[fork:length] = np.arange(done, done + size)
            done += size
            wanted = np.empty(targets, dtype=np.int32)
            wanted[:-1] = path[length - targets + 1 : length]
            wanted[-1] = last
            yield Row(path[:length].copy(), wanted, nodes[:length].copy(), size)

    def part(self, begin: int, end: int) -> RadixTree:
        """Rows ``begin`` to ``end`` as a tree of their own, whose first row is there in full."""
        first = int(self.sizes[:begin].sum())
        forks, sizes = self.forks[begin:end].copy(), self.sizes[begin:end].copy()
        own = self.tokens[first : first + int(sizes.sum())]
        head = self._path(begin)[: forks[0]]
        sizes[0] += forks[0]
        forks[0] = 0
        return _frozen(
            forks, sizes, np.concatenate((head, own)), self.last[begin:end], self.targets[begin:end]
        )

    def _path(self, row: int) -> Ints:
        """Inputs of one row. Walks back to the last row that shares nothing with the one before."""
        needed = int(self.forks[row])
        path = np.empty(needed, dtype=np.int32)
        ends = np.cumsum(self.sizes)
        while needed:
            row -= 1
            fork = int(self.forks[row])
            if fork < needed:
                begin = int(ends[row] - self.sizes[row])
                path[fork:needed] = self.tokens[begin : begin + needed - fork]
                needed = fork
        return path

    def scored_nodes(self) -> int:
        """Nodes after which at least one id is scored: the rows of logits that are needed."""
        marks = np.zeros(self.nodes, dtype=bool)
        for row in self.rows():
            marks[row.nodes[len(row.nodes) - len(row.wanted) :]] = True
        return int(marks.sum())


def packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes that compare and hash fast; rows that begin alike have bytes that begin alike."""
    return array("i", ids).tobytes()


def build(keys: Sequence[bytes], targets: Sequence[int]) -> RadixTree:
    """A tree of rows in the order given; ``keys`` as ``packed`` makes them, at least one target each.

    Every subtree is one run of rows when the keys are sorted; otherwise what lies apart is in the tree more than once.
    """
    count = len(keys)
    forks = np.zeros(count, dtype=np.int32)
    sizes = np.zeros(count, dtype=np.int32)
    last = np.zeros(count, dtype=np.int32)
    pieces = []
    before = np.zeros(0, dtype=np.int32)
    for index, key in enumerate(keys):
        row = np.frombuffer(key, dtype=np.int32)
        inputs = row[:-1]
        fork = common(before, inputs)
        forks[index], sizes[index], last[index] = fork, len(inputs) - fork, row[-1]
        pieces.append(inputs[fork:])
        before = inputs
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)
    return _frozen(forks, sizes, tokens, last, np.array(targets, dtype=np.int32))


def common(left: Ints, right: Ints) -> int:
    """How many tokens two rows begin with in common."""
    shorter = min(len(left), len(right))
    if not shorter:
        return 0
    different = left[:shorter] != right[:shorter]
    place = int(different.argmax())
    return place if different[place] else shorter


def _frozen(forks: Ints, sizes: Ints, tokens: Ints, last: Ints, targets: Ints) -> RadixTree:
    for column in (forks, sizes, tokens, last, targets):
        column.flags.writeable = False
    return RadixTree(forks, sizes, tokens, last, targets)
