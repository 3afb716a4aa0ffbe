"""The tree engine: every shared prefix computed once, logits only where something is scored.

Letters: N tokens of a tile, R rows of logits, M targets, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from llmasos.api import CausalLM, EvaluationError, PackedBatch, PathCache, TreeLM, TreeTile, single_threaded
from llmasos_evals.scoring.plan import (
    CHUNK,
    INVARIANT_BUDGET,
    Answer,
    PlanSettings,
    Shard,
    shared_chunks,
    split_units,
)
from llmasos_evals.scoring.reference import ReferenceEngine
from llmasos_evals.scoring.tiles import Tile, Tiler
from llmasos_evals.scoring.tree import Ints, RadixTree, common

#: A pass that does not fit with so few tokens will not fit at all.
LEAST_BUDGET = 16
#: A pass that only extends the path.
_NOTHING = np.zeros(0, dtype=np.int64)
#: Capacities are multiples of this, so that the slabs of all layers are aligned alike.
ALIGNMENT = 64


class Engine(Protocol):
    """Answers the rows of shards with one model. Each shard is a task of its own: nothing of one reaches the next."""

    #: Short name for the record.
    name: str
    #: Most tokens in one forward pass.
    budget: int

    def run(self, shard: Shard) -> Iterator[Answer]:
        """Every row of the shard once, as soon as it is known. Raises EvaluationError when scores are not numbers."""


def open_engine(
    model: CausalLM,
    settings: PlanSettings,
    *,
    budget: int | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> Engine:
    """The engine that computes plans of these settings with this model.

    ``budget`` takes the place of the plan's, where the machine is known to hold no more. A model that cannot compute trees
    is scored row by row, and ``warn`` is told so.
    """
    if settings.mode == "reference":
        return ReferenceEngine(model)
    if not isinstance(model, TreeLM):
        warn(
            "this model cannot share the computation of common prefixes: every request is computed in full, which is "
            "slower and gives the same numbers"
        )
        return ReferenceEngine(model)
    return TreeEngine(model, settings, budget=budget)


@dataclass(slots=True)
class Work:
    """What was computed so far: tokens, rows of logits, passes."""

    tokens: int = 0
    logit_rows: int = 0
    passes: int = 0


class TreeEngine:
    """Computes shards of radix trees tile by tile. ``budget`` shrinks when an accelerator runs out of memory."""

    name = "tree"

    def __init__(self, model: TreeLM, settings: PlanSettings, *, budget: int | None = None) -> None:
        self._model = model
        self._settings = settings
        self._path: PathCache | None = None
        self.budget = (
            INVARIANT_BUDGET if settings.invariant else min(budget or settings.budget, settings.budget)
        )
        self.work = Work()

    def run(self, shard: Shard) -> Iterator[Answer]:
        """Every row of the shard once, as soon as it is known. Raises EvaluationError when scores are not numbers."""
        if not len(shard):
            return
        if not self._settings.invariant:
            path = self._empty_path(shard.tree.depth + min(self.budget, shard.tree.nodes))
            yield from self._tree(shard.tree, shard.first, path)
            return
        # A matrix product that is split over threads may sum in another order.
        with single_threaded() if self._model.device == "cpu" else nullcontext():
            yield from self._units(shard)

    def _units(self, shard: Shard) -> Iterator[Answer]:
        """Units one after the other. What is on the path was computed in chunks of one size, each alone: it is a function of
        the tokens on the path, so it does not matter which unit it was computed for."""
        units = split_units(shard)
        path = self._empty_path(shard.tree.depth + min(INVARIANT_BUDGET, max(unit.nodes for unit in units)))
        held = np.zeros(0, dtype=np.int32)
        first = shard.first
        for unit in units:
            head = shared_chunks(unit)
            done = common(held, head) // CHUNK * CHUNK
            path.rewind(done)
            for begin in range(done, len(head), CHUNK):
                self._pass(_chunk(head, begin), path, _NOTHING)
            yield from self._tree(unit, first, path, begin=len(head))
            path.rewind(len(head))
            held = head
            first += len(unit)

    def _tree(self, tree: RadixTree, first: int, path: PathCache, begin: int = 0) -> Iterator[Answer]:
        """The rows of one tree, numbered from ``first`` on. The path holds the first ``begin`` nodes, which are a chain."""
        tiler, scores = Tiler(tree, floor=begin), _Scores(tree)
        while begin < tiler.nodes:
            tile = tiler.tile(begin, self.budget)
            wanted = scores.within(tile)
            try:
                hidden_rd = self._pass(tile, path, wanted.places)
            except torch.OutOfMemoryError:
                self._shrink()
                continue
            if len(wanted.targets):
                for row, logprob, greedy in scores.add(wanted, *self._score(hidden_rd, wanted)):
                    yield Answer(first + row, logprob, greedy)
            begin = tile.end

    def _pass(self, tile: Tile, path: PathCache, wanted: NDArray[np.int64]) -> torch.Tensor:
        """Hidden states [R, D] of rows ``wanted`` of a tile; the path then leads to the next one."""
        device = self._model.device
        with torch.inference_mode():
            hidden_rd = self._model.hidden(
                PackedBatch(
                    tokens=torch.from_numpy(tile.tokens.astype(np.int64)).to(device),
                    positions=torch.from_numpy(tile.positions.astype(np.int64)).to(device),
                    starts=tile.starts,
                    tree=TreeTile(
                        prefix=tile.prefix,
                        ancestors=tile.ancestors,
                        visible=_masks(tile, device),
                        keep=tile.keep,
                        kept=tile.kept,
                        wanted=torch.from_numpy(wanted).to(device),
                    ),
                ),
                path,
            )
        self.work.passes += 1
        self.work.tokens += len(tile.tokens)
        return hidden_rd

    def _score(
        self, hidden_rd: torch.Tensor, wanted: _Wanted
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(log-probability, whether it is the arg-max) of each target: the only wait for the device."""
        device = self._model.device
        with torch.inference_mode():
            target_m = torch.from_numpy(wanted.targets).to(device)
            logprob_m, best_m = self._model.token_logprobs(hidden_rd, target_m, torch.from_numpy(wanted.rows))
            found = torch.stack((logprob_m.float(), (best_m == target_m).float())).cpu().numpy()
        self.work.logit_rows += len(wanted.places)
        return found[0], found[1] == 1.0

    def _empty_path(self, capacity: int) -> PathCache:
        """A path cache of at least this capacity, kept from shard to shard."""
        if self._path is None or self._path.capacity < capacity:
            self._path = None  # before the larger one is allocated
            self._path = self._model.new_path(-(-capacity // ALIGNMENT) * ALIGNMENT)
        self._path.rewind(0)
        return self._path

    def _shrink(self) -> None:
        """Half the budget, because the device has no memory for more. Raises EvaluationError when that cannot help."""
        if self._settings.invariant or self.budget <= LEAST_BUDGET:
            raise EvaluationError(
                f"the device has no memory for a pass over {self.budget} tokens",
                hint="use a device with more memory, or a narrower element type (--dtype fast)",
            )
        self.budget //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """What is scored in one tile: target ``targets`` [M] after row ``rows`` [M], ascending, of ``places`` [R], which are rows of
    the tile. ``numbers`` [M]: which of all targets of the tree."""

    places: NDArray[np.int64]
    targets: NDArray[np.int64]
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]


class _Scores:
    """The targets of all rows of a tree, and what is known of them."""

    def __init__(self, tree: RadixTree) -> None:
        nodes, targets = [], []
        for row in tree.rows():
            nodes.append(row.nodes[len(row.nodes) - len(row.wanted) :])
            targets.append(row.wanted)
        node_m = np.concatenate(nodes)
        order = np.argsort(node_m, kind="stable")
        #: Targets in the order of the tree, with the number each has when they are counted row by row.
        self._nodes = node_m[order]
        self._targets = np.concatenate(targets)[order].astype(np.int64)
        self._numbers = order
        self._row_of = np.repeat(np.arange(len(tree)), tree.targets)
        self._ends = np.cumsum(tree.targets, dtype=np.int64)
        self._missing = tree.targets.copy()
        self._logprobs = np.zeros(len(node_m), dtype=np.float64)
        self._hits = np.zeros(len(node_m), dtype=bool)

    def within(self, tile: Tile) -> _Wanted:
        """The targets that are scored after the tokens of a tile."""
        first, last = np.searchsorted(self._nodes, (tile.begin, tile.end))
        places, rows = np.unique(self._nodes[first:last] - tile.begin, return_inverse=True)
        return _Wanted(
            places=places.astype(np.int64),
            targets=self._targets[first:last],
            rows=rows.astype(np.int64),
            numbers=self._numbers[first:last],
        )

    def add(
        self, wanted: _Wanted, logprobs: NDArray[np.float32], hits: NDArray[np.bool_]
    ) -> Iterator[tuple[int, float, bool]]:
        """Take in the scores of a tile: (row, log-probability, whether greedy) of the rows that are complete now."""
        if np.isnan(logprobs).any():
            raise EvaluationError(
                "the model gave log-probabilities that are not numbers",
                hint="check the weights with `llmasos model info`, or try --dtype exact",
            )
        self._logprobs[wanted.numbers] = logprobs
        self._hits[wanted.numbers] = hits
        touched, counts = np.unique(self._row_of[wanted.numbers], return_counts=True)
        self._missing[touched] -= counts.astype(np.int32)
        for row in touched[self._missing[touched] == 0].tolist():
            end = int(self._ends[row])
            begin = int(self._ends[row - 1]) if row else 0
            # Exact, so that it does not matter in how many tiles the targets were.
            total = math.fsum(self._logprobs[begin:end].tolist())
            yield row, total, bool(self._hits[begin:end].all())


def _chunk(head: Ints, begin: int) -> Tile:
    """One chunk of a path, alone in its pass."""
    end = begin + CHUNK
    return Tile(
        begin=begin,
        end=end,
        tokens=head[begin:end],
        positions=np.arange(begin, end, dtype=np.int32),
        starts=(0, CHUNK),
        prefix=(begin,),
        ancestors=((),),
        visible=(None,),
        keep=begin,
        kept=((0, CHUNK),),
    )


def _masks(tile: Tile, device: str) -> tuple[torch.Tensor | None, ...]:
    """The masks of a tile as tensors: one transfer for all of them."""
    masks = [mask for mask in tile.visible if mask is not None]
    if not masks:
        return tuple(None for _ in tile.visible)
    flat = torch.from_numpy(np.concatenate([mask.ravel() for mask in masks])).to(device)
    pieces = iter(flat.split([mask.size for mask in masks]))
    return tuple(None if mask is None else next(pieces).view(mask.shape) for mask in tile.visible)
