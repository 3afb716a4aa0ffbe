"""Choosing the solved examples before each question.

Natively a draw is a function of seed, task and document, so it does not change with ``--limit``, order, resume point or
the number of workers, and neither the document itself nor a row equal to it is ever drawn. ``lm-eval`` reproduces that harness's stream (version
0.4.13, one process): one generator a task, consumed document by document.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmasos.api import InputError
from llmasos_evals.digests import digest

Doc = Mapping[str, Any]


class Draw(Protocol):
    """Positions in the pool of the examples for document ``index``. Called once a document, in document order."""

    def __call__(self, index: int, doc: Doc, doc_digest: str) -> Sequence[int]: ...


class NativeDraw:
    """Draws that depend on seed, task name and the document only.

    ``same_rows``: the pool is the scored split itself, so row ``index`` is the document.
    """

    def __init__(
        self,
        task: str,
        pool: Sequence[Doc],
        shots: int,
        seed: int,
        *,
        first: bool = False,
        indices: Sequence[int] | None = None,
        same_rows: bool = False,
    ) -> None:
        self.task, self.shots, self.seed, self.first = task, shots, seed, first
        for index in indices or ():
            if not -len(pool) <= index < len(pool):
                raise InputError(f"task {task}: fewshot_indices names row {index}, the pool has {len(pool)}")
        self.positions = [index % len(pool) for index in indices] if indices else list(range(len(pool)))
        self._equal: dict[str, set[int]] = {}
        self._places: dict[int, set[int]] = {}
        for place, position in enumerate(self.positions):
            self._equal.setdefault(digest(pool[position]), set()).add(place)
            if same_rows:
                self._places.setdefault(position, set()).add(place)

    def __call__(self, index: int, doc: Doc, doc_digest: str) -> Sequence[int]:
        own = sorted(self._equal.get(doc_digest, set()) | self._places.get(index, set()))
        left = len(self.positions) - len(own)
        if left < self.shots:
            raise _too_few(self.task, self.shots, left)
        if self.first:
            drawn = list(range(self.shots))
        else:
            key = hashlib.sha256(f"{self.seed}\0{self.task}\0{doc_digest}".encode()).digest()
            drawn = random.Random(int.from_bytes(key[:16], "big")).sample(range(left), self.shots)
        return [self.positions[_past(place, own)] for place in drawn]


def _past(place: int, left_out: Sequence[int]) -> int:
    """The ``place``-th of the places that are not left out (sorted)."""
    for other in left_out:
        if other > place:
            break
        place += 1
    return place


class HarnessDraw:
    """The draws of lm-evaluation-harness 0.4.13 (``api/samplers.py``), its quirks included.

    ``leave_out`` is its rule for taking the document itself out of the draw: only when the few-shot split and the test
    split have the same name, or both have none.
    """

    def __init__(
        self, task: str, pool: Sequence[Doc], shots: int, seed: int, *, first: bool = False, leave_out: bool
    ) -> None:
        self.task, self.pool, self.shots, self.first, self.leave_out = task, pool, shots, first, leave_out
        self.random = random.Random(seed)

    def __call__(self, index: int, doc: Doc, doc_digest: str) -> Sequence[int]:
        pool, shots = self.pool, self.shots
        if self.first:
            positions = [i for i in range(len(pool)) if not (self.leave_out and pool[i] == doc)]
            if shots > len(positions):
                raise _too_few(self.task, shots, len(positions))
            return positions[:shots]
        # It draws one more than it needs and drops the document; rows equal to it can make that too few, and then it
        # draws again, which moves the stream on for every later document.
        drawn = self._sample(range(len(pool)), shots + 1 if self.leave_out and doc else shots)
        if not (self.leave_out and doc):
            return drawn
        kept = [i for i in drawn if pool[i] != doc][:shots]
        if len(kept) < shots:
            kept = self._sample([i for i in range(len(pool)) if pool[i] != doc], shots)
        return kept

    def _sample(self, positions: Sequence[int], count: int) -> list[int]:
        if count > len(positions):
            raise _too_few(self.task, count, len(positions))
        return self.random.sample(positions, count)


def _too_few(task: str, wanted: int, there: int) -> InputError:
    return InputError(
        f"task {task}: {wanted} few-shot examples are needed, the pool has {there}",
        hint="use a smaller --num-fewshot, or give the few-shot split more rows",
    )


def no_draw(index: int, doc: Doc, doc_digest: str) -> Sequence[int]:
    """Zero-shot."""
    return ()
