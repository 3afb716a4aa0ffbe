"""Which keys each tile of queries reads: an attention layout cut into work of equal kind, once for all layers of a pass.

A layout has sequences; a sequence has spans of keys that all its queries see, and then its own keys of which each query sees
some. Cached, packed, paged and tree layouts all are that. A plan cuts them into items, each a tile of consecutive queries with
a list of spans, so that one kernel computes every layout:

* What consecutive sequences begin with in common is read once for all of them, in tiles that do not stop at a sequence's end.
* Few queries with many keys are split along the keys, at fixed distances, so that all of a device has work to do.

Where a query is in several items, each gives a part of its result and the parts are weighed together afterwards.

Letters: N queries, B sequences, I items, S spans, G query heads that share a key head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmasos.api import AttentionLayout
from llmasos_cuda.launching import power_of_two

#: Numbers of an item: first query, queries, first and last span, first of the own keys, how many of them, the first query's
#: place among the sequence's, where the mask begins (-1: a triangle), length of its rows, first row of its parts.
ITEM = 10
#: Keys that sequences must have in common before they are read together.
_SHARED = 64

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cut:
    """Sizes of work: rows (queries times G) of a tile, keys of a split."""

    rows: int
    keys: int


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Tables on the device of a pass over N queries, in one tensor: ``places`` are where each begins and how long it is.

    Without ``partial`` every query is in one item, which gives its result. Otherwise query i's parts are the rows
    ``parts[offsets[i]:offsets[i + 1]]`` of ``part_rows``.
    """

    tables: Tensor
    places: tuple[Span, Span, Span, Span]
    #: Bytes, or None where every mask is a triangle.
    mask: Tensor | None
    partial: bool
    part_rows: int
    #: Rows of a tile, and whether they were cut for few queries.
    rows: int
    few: bool

    def _table(self, number: int) -> Tensor:
        begin, count = self.places[number]
        return self.tables[begin : begin + count]

    @property
    def items(self) -> Tensor:
        """[I * ITEM] int32."""
        return self._table(0)

    @property
    def spans(self) -> Tensor:
        """[2 S] int32."""
        return self._table(1)

    @property
    def offsets(self) -> Tensor | None:
        """[N + 1] int32."""
        return self._table(2) if self.partial else None

    @property
    def parts(self) -> Tensor | None:
        """Rows of parts, int32."""
        return self._table(3) if self.partial else None

    @property
    def count(self) -> int:
        """I."""
        return self.places[0][1] // ITEM


@dataclass(slots=True)
class _Sequence:
    """Queries ``first`` to ``last``, the spans that all of them see, and their own keys (None: these are among the spans)."""

    first: int
    last: int
    spans: list[Span]
    own: int | None = None
    mask: Tensor | None = None


@dataclass(slots=True)
class _Tables:
    """A plan in the making."""

    items: list[int]
    spans: list[int]
    parts: list[list[int]]
    part_rows: int = 0

    def add(
        self,
        first: int,
        last: int,
        spans: Sequence[Span],
        own: tuple[int, int, int, int, int] = (0, 0, 0, -1, 0),
    ) -> None:
        """One item. ``own``: first key, keys, first query's place, mask, its row length."""
        begin = len(self.spans) // 2
        for span in spans:
            self.spans.extend(span)
        self.items.extend((first, last - first, begin, begin + len(spans), *own, self.part_rows))
        for query in range(first, last):
            self.parts[query].append(self.part_rows + query - first)
        self.part_rows += last - first


def make_plan(
    layout: AttentionLayout, group: int, *, few: Cut, many: Cut, device: torch.device, room: int = 0
) -> AttentionPlan:
    """The plan of a layout for ``group`` query heads a key head.

    ``few`` is the cut where no sequence has more queries than its tile, ``many`` that of all else. With ``room`` the plan is of
    that many queries, those beyond the layout's having no parts, and its tables are filled up to powers of two with items that do
    nothing, so that plans of one shape serve many steps.
    """
    sequences = _sequences(layout)
    longest = max((one.last - one.first for one in sequences), default=0)
    small = longest * group <= few.rows or longest == 1
    cut = few if small else many
    rows = power_of_two(group, cut.rows)
    tile = rows // group
    tables = _Tables([], [], [[] for _ in range(max(room, layout.q_starts[-1]))])
    masks: list[Tensor] = []
    mask_size = 0
    for first, last, common in _shared(sequences):
        for begin in range(first, last, tile):
            end = min(begin + tile, last)
            for pieces in _split([common], cut.keys, split=end - begin < tile):
                tables.add(begin, end, pieces)
    for one in sequences:
        at = -1
        if one.mask is not None:
            masks.append(one.mask.flatten())
            at, mask_size = mask_size, mask_size + one.mask.numel()
        length = one.last - one.first
        for begin in range(0, length, tile):
            end = min(begin + tile, length)
            pieces = _split(one.spans, cut.keys, split=end - begin < tile)
            first, last = one.first + begin, one.first + end
            if one.own is None:
                for piece in pieces:
                    tables.add(first, last, piece)
                continue
            for piece in pieces[:-1]:
                tables.add(first, last, piece)
            tail = pieces[-1] if pieces else []
            tables.add(first, last, tail, (one.own, end, begin, at, length))
    mask = torch.cat(masks).contiguous().view(torch.uint8) if masks else None
    return _placed(tables, mask, rows, small, device, room > 0)


def _sequences(layout: AttentionLayout) -> list[_Sequence]:
    """Sequences that have queries."""
    found = []
    for b, (first, last) in enumerate(zip(layout.q_starts, layout.q_starts[1:], strict=False)):
        count = last - first
        if count == 0:
            continue
        begin = layout.k_starts[b]
        if layout.before is not None and layout.visible is not None:
            spans = list(layout.before[b])
            if count == 1:
                found.append(_Sequence(first, last, _joined([*spans, (begin, begin + 1)])))
            else:
                mask = layout.visible[b]
                found.append(_Sequence(first, last, _joined(spans), begin, mask))
            continue
        end = layout.k_starts[b + 1] if layout.k_lengths is None else begin + layout.k_lengths[b]
        if layout.causal and count > 1:
            found.append(_Sequence(first, last, _joined([(begin, end - count)]), end - count))
        else:
            found.append(_Sequence(first, last, _joined([(begin, end)])))
    return found


def _joined(spans: Sequence[Span]) -> list[Span]:
    """The same rows in as few spans as possible, the empty ones left out."""
    found: list[Span] = []
    for begin, end in spans:
        if begin >= end:
            continue
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def _shared(sequences: Sequence[_Sequence]) -> list[tuple[int, int, Span]]:
    """(first query, last query, keys) of runs of sequences that begin with the same keys, which are taken off their spans."""
    found = []
    at = 0
    while at < len(sequences):
        end = at
        begin, common = (0, 0) if not sequences[at].spans else (sequences[at].spans[0][0], 1 << 62)
        while end < len(sequences) and sequences[end].spans and sequences[end].spans[0][0] == begin:
            # A short one must not spoil it for its neighbours.
            shorter = min(common, sequences[end].spans[0][1])
            if shorter - begin < _SHARED:
                break
            common, end = shorter, end + 1
        if end - at > 1:
            found.append((sequences[at].first, sequences[end - 1].last, (begin, common)))
            for one in sequences[at:end]:
                one.spans = _joined([(common, one.spans[0][1]), *one.spans[1:]])
        at = max(end, at + 1)
    return found


def _split(spans: Sequence[Span], keys: int, *, split: bool) -> list[list[Span]]:
    """``spans`` in lists of at most ``keys`` keys each, or in one."""
    if not split:
        return [list(spans)] if spans else []
    found: list[list[Span]] = []
    left = 0
    for begin, end in spans:
        while begin < end:
            if left == 0:
                found.append([])
                left = keys
            taken = min(left, end - begin)
            found[-1].append((begin, begin + taken))
            begin, left = begin + taken, left - taken
    return found


def _placed(
    tables: _Tables, mask: Tensor | None, rows: int, few: bool, device: torch.device, room: bool
) -> AttentionPlan:
    """The tables on the device, in one copy."""
    partial = room or any(len(parts) > 1 for parts in tables.parts)
    items, spans = tables.items, tables.spans or [0, 0]
    offsets, parts = [0], []
    if partial:
        for one in tables.parts:
            parts.extend(one)
            offsets.append(len(parts))
    part_rows = tables.part_rows
    if room:
        items = items + [0] * (power_of_two(len(items) // ITEM) * ITEM - len(items))
        spans = spans + [0] * (2 * power_of_two(len(spans) // 2) - len(spans))
        parts = parts + [0] * (power_of_two(len(parts)) - len(parts))
        part_rows = power_of_two(part_rows)
    numbers: list[int] = []
    places = []
    for table in (items, spans, offsets, parts):
        places.append((len(numbers), len(table)))
        # Tables begin at multiples of 16 bytes: kernels are compiled for that or for less.
        numbers += table + [0] * (-len(table) % 4)
    tables_there = torch.tensor(numbers, dtype=torch.int32).to(device, non_blocking=True)
    first, second, third, fourth = places
    there = None if mask is None else mask.to(device)
    return AttentionPlan(tables_there, (first, second, third, fourth), there, partial, part_rows, rows, few)
