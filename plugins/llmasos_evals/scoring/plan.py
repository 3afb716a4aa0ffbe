"""What a suite has to compute: duplicates removed, rows in tree order, cut into shards.

A plan is a pure function of the rows of the whole suite and of the settings. It knows nothing of what is finished already
or of how many workers there are, so a shard that was interrupted runs again whole and gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from llmasos_evals.scoring.encoding import Scored
from llmasos_evals.scoring.tree import Ints, RadixTree, build, common, packed

Mode = Literal["tree", "reference"]

#: Changes whenever the same shard would be computed in another order of operations.
VERSION = 1
#: Tokens in one forward pass on the CPU: what a layer computes then stays in the caches. Measured: docs/explanation/scoring.md
TOKEN_BUDGET = 1024
#: Tokens in one forward pass on an accelerator, which wants many at a time.
ACCELERATOR_BUDGET = 8192
#: Tokens of a pass with ``--batch-invariant``, where the size may not be chosen.
INVARIANT_BUDGET = 1024
#: What documents have in common is computed in pieces of exactly this many tokens with ``--batch-invariant``.
CHUNK = 128
#: A shard has at least this many tokens, and no more than twice as many if it can be cut where rows share little.
SHARD_TOKENS = 16384
#: Of the tokens of a shard, this many may be beginnings that the shard before it computes as well.
REPLICATED = 0.03


def default_budget(device: str) -> int:
    """Tokens in one forward pass where nobody says how many. A function of the kind of device alone, so that plans are."""
    return TOKEN_BUDGET if device == "cpu" else ACCELERATOR_BUDGET


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """``mode`` tree: shared prefixes are computed once; reference: every request is a row of its own.

    ``invariant``: results do not depend on ``budget``, or on which other documents are in the suite.
    """

    mode: Mode = "tree"
    invariant: bool = False
    budget: int = TOKEN_BUDGET
    shard_tokens: int = SHARD_TOKENS

    def as_json(self) -> dict[str, Any]:
        """For the record and for digests: what decides the order of floating-point operations."""
        settings: dict[str, Any] = {"version": VERSION, **asdict(self)}
        if self.invariant or self.mode == "reference":
            settings["budget"] = INVARIANT_BUDGET
        if self.invariant:
            settings["chunk"] = CHUNK
            del settings["shard_tokens"]
        return settings


@dataclass(frozen=True, slots=True)
class Counts:
    """What a plan costs. ``requested_tokens`` is what one row a request takes, without padding.

    ``ideal_tokens`` are the nodes of one radix tree over all rows, ``ideal_logit_rows`` those of them after which an id is
    scored: with P shared tokens, N documents of Q tokens and m answers of K tokens that is P + N (Q + m (K - 1)) and at most
    N (1 + m (K - 1)).
    """

    requests: int
    rows: int
    shards: int
    requested_tokens: int
    tokens: int
    logit_rows: int
    ideal_tokens: int
    ideal_logit_rows: int

    def as_json(self) -> dict[str, int]:
        """For the record."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Rows that are computed together by one worker: row i of ``tree`` is row ``first + i`` of the plan.

    ``units`` [R] numbers what the rows belong to (documents), in ascending order. ``digest`` is over everything that
    decides the answers, save the model.
    """

    index: int
    first: int
    tree: RadixTree
    units: Ints
    settings: PlanSettings
    digest: str

    def __len__(self) -> int:
        return len(self.tree)


class Answer(NamedTuple):
    """Row ``row`` of the plan: nats of its targets together, and whether each of them is the arg-max."""

    row: int
    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """``row_of`` [requests]: which row of the plan answers a request, -1 for one that asks nothing (no targets)."""

    settings: PlanSettings
    shards: tuple[Shard, ...]
    row_of: Ints
    counts: Counts

    @property
    def digest(self) -> str:
        """sha256 over the digests of all shards, in order."""
        return hashlib.sha256("\n".join(shard.digest for shard in self.shards).encode()).hexdigest()


def plan_rows(rows: Sequence[Scored], *, units: Sequence[int], settings: PlanSettings | None = None) -> Plan:
    """A plan for the rows of all requests of a suite. ``units[i]`` says what row i belongs to (a document, or one window of
    a rolling text): equal numbers belong together.

    In tree mode equal rows are computed once, whichever task they come from. With ``invariant`` only equal units are,
    since a row's bits may depend on the other rows of its unit. In reference mode nothing is shared.
    """
    settings = settings or PlanSettings()
    asked = [index for index, row in enumerate(rows) if row.targets]
    keys = {index: packed(rows[index].ids) for index in asked}
    row_of = np.full(len(rows), -1, dtype=np.int32)
    if settings.mode == "reference":
        groups = _by_unit(asked, units)
        ordered = [[(keys[i], rows[i].targets) for i in members] for members in groups]
        row_of[[i for members in groups for i in members]] = np.arange(len(asked))
    elif settings.invariant:
        ordered = _unique_units(keys, rows, _by_unit(asked, units), row_of)
    else:
        ordered = [_unique_rows(keys, rows, asked, row_of)]
    flat = [row for group in ordered for row in group]
    tree = build([key for key, _ in flat], [targets for _, targets in flat])
    unit_of = np.repeat(np.arange(len(ordered), dtype=np.int32), [len(group) for group in ordered])
    shards = tuple(_shards(tree, unit_of, settings))
    ideal = tree
    if settings.invariant or settings.mode == "reference":
        every = sorted({(key, rows[i].targets) for i, key in keys.items()})
        ideal = build([key for key, _ in every], [targets for _, targets in every])
    counts = _counts(shards, settings)
    return Plan(
        settings,
        shards,
        row_of,
        Counts(
            requests=len(rows),
            rows=len(flat),
            shards=len(shards),
            requested_tokens=sum(len(rows[i].ids) - 1 for i in asked),
            tokens=counts[0],
            logit_rows=counts[1],
            ideal_tokens=ideal.nodes,
            ideal_logit_rows=ideal.scored_nodes(),
        ),
    )


Row = tuple[bytes, int]


def _by_unit(asked: Sequence[int], units: Sequence[int]) -> list[list[int]]:
    """Requests by unit, units in order of appearance."""
    groups: dict[int, list[int]] = {}
    for index in asked:
        groups.setdefault(units[index], []).append(index)
    return list(groups.values())


def _unique_rows(
    keys: dict[int, bytes], rows: Sequence[Scored], asked: Sequence[int], row_of: Ints
) -> list[Row]:
    places = {row: place for place, row in enumerate(sorted({(keys[i], rows[i].targets) for i in asked}))}
    for index in asked:
        row_of[index] = places[keys[index], rows[index].targets]
    return list(places)


def _unique_units(
    keys: dict[int, bytes], rows: Sequence[Scored], groups: Sequence[Sequence[int]], row_of: Ints
) -> list[list[Row]]:
    contents = [tuple(sorted({(keys[i], rows[i].targets) for i in members})) for members in groups]
    ordered = sorted(set(contents))
    begins = dict(zip(ordered, np.cumsum([0, *map(len, ordered)]).tolist(), strict=False))
    for members, content in zip(groups, contents, strict=True):
        places = {row: begins[content] + place for place, row in enumerate(content)}
        for index in members:
            row_of[index] = places[keys[index], rows[index].targets]
    return [list(content) for content in ordered]


def _shards(tree: RadixTree, units: Ints, settings: PlanSettings) -> list[Shard]:
    cuts = _cuts(tree, units, settings)
    shards = []
    for index, (begin, end) in enumerate(pairwise(cuts)):
        part = tree.part(begin, end)
        own = units[begin:end] - units[begin] if settings.invariant or settings.mode == "reference" else None
        local = np.zeros(end - begin, dtype=np.int32) if own is None else own
        local.flags.writeable = False
        shards.append(Shard(index, begin, part, local, settings, _digest(part, local, settings)))
    return shards


def _cuts(tree: RadixTree, units: Ints, settings: PlanSettings) -> list[int]:
    """Where shards begin: the row with the shortest shared beginning between the least and twice the least size."""
    forks, sizes = tree.forks, tree.sizes
    if settings.mode == "reference":  # every row is computed in full
        forks, sizes = np.zeros_like(forks), forks + sizes
    begins = np.cumsum(sizes, dtype=np.int64) - sizes
    borders = np.ones(len(tree), dtype=bool)
    if settings.invariant or settings.mode == "reference":
        borders[1:] = units[1:] != units[:-1]
    allowed = np.flatnonzero(borders)
    cuts = [0] if len(tree) else []
    while cuts and cuts[-1] < len(tree):
        start = cuts[-1]
        size = begins + int(forks[start]) - int(begins[start])  # tokens of a shard that ends before each row
        near = allowed[(size[allowed] >= settings.shard_tokens) & (allowed > start)]
        few = near[forks[near] <= REPLICATED * size[near]]
        within = few[size[few] <= 2 * settings.shard_tokens]
        if len(within):
            cuts.append(int(within[forks[within].argmin()]))
        else:
            cuts.append(int(few[0]) if len(few) else len(tree))
    return cuts


def _digest(tree: RadixTree, units: Ints, settings: PlanSettings) -> str:
    found = hashlib.sha256(json.dumps(settings.as_json(), sort_keys=True).encode())
    for column in (tree.forks, tree.sizes, tree.tokens, tree.last, tree.targets, units):
        found.update(len(column).to_bytes(8, "little"))
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()


def _counts(shards: Sequence[Shard], settings: PlanSettings) -> tuple[int, int]:
    """(tokens, rows of logits) that the shards take."""
    if settings.mode == "reference":
        tokens = sum(int((shard.tree.forks + shard.tree.sizes).sum()) for shard in shards)
        return tokens, sum(int(shard.tree.targets.sum()) for shard in shards)
    if not settings.invariant:
        return sum(shard.tree.nodes for shard in shards), sum(shard.tree.scored_nodes() for shard in shards)
    tokens = logit_rows = 0
    for shard in shards:
        held = np.zeros(0, dtype=np.int32)
        for unit in split_units(shard):
            head = shared_chunks(unit)
            reused = common(held, head) // CHUNK * CHUNK
            tokens += unit.nodes - reused
            logit_rows += unit.scored_nodes()
            held = head
    return tokens, logit_rows


def split_units(shard: Shard) -> list[RadixTree]:
    """The units of a shard, each as a tree of its own."""
    edges = [0, *(np.flatnonzero(np.diff(shard.units)) + 1).tolist(), len(shard)]
    return [shard.tree.part(begin, end) for begin, end in pairwise(edges) if end > begin]


def shared_chunks(unit: RadixTree) -> Ints:
    """What all rows of a unit begin with and none of them scores, cut down to whole chunks: a function of the unit alone."""
    lengths = unit.forks + unit.sizes
    length = min(
        int((lengths - unit.targets).min()),  # the first token after which something is scored
        int(unit.forks[1:].min(initial=int(lengths[0]))),
    )
    return unit.tokens[: length // CHUNK * CHUNK]
