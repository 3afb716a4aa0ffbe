"""Documents that were computed again against those of the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmasos_evals.records.samples import unpack
from llmasos_evals.records.tolerance import Tolerance

#: (task, document, request number, answer or None) -> nats by which the tokens of a generated answer, or of the continuation
#: that was asked for, are at most less likely than the best ones; None when that cannot be said.
Gap = Callable[[str, int, int, Mapping[str, Any] | None], float | None]
Outcome = Literal["agreed", "undecided", "refuted"]


@dataclass(slots=True)
class Comparison:
    """What documents came to. ``refuted`` has (task, document, what came out otherwise)."""

    tolerance: Tolerance
    #: Asked only where an answer differs in a way that rounding can explain.
    gap: Gap
    #: task -> generation settings of the record, None for likelihoods.
    generation: Mapping[str, Mapping[str, Any] | None]
    agreed: int = 0
    undecided: int = 0
    refuted: list[tuple[str, int, str]] = field(default_factory=list)
    largest: float = 0.0

    def add(self, task: str, stored: Mapping[str, Any], found: Mapping[str, Any]) -> Outcome:
        """Compare one document. ``stored`` is of the record, ``found`` was computed again."""
        doubts = False
        for number, (old, new) in enumerate(zip(stored["responses"], found["responses"], strict=True)):
            what, doubt = self._response(task, int(stored["index"]), number, old, new)
            if what is not None:
                self.refuted.append((task, int(stored["index"]), f"request {number}: {what}"))
                return "refuted"
            doubts = doubts or doubt
        if doubts:
            self.undecided += 1
            return "undecided"
        self.agreed += 1
        return "agreed"

    def _response(
        self, task: str, index: int, number: int, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> tuple[str | None, bool]:
        """(what refutes the document, whether this answer decides nothing)."""
        if old["ids_digest"] != new["ids_digest"]:
            return "the token ids of its prompt are others", False
        for name in ("truncated", "unscored"):
            if old[name] != new[name]:
                return f"{name} is {new[name]}, not {old[name]}", False
        if old["text"] is not None or new["text"] is not None:
            return self._text(task, index, number, old, new)
        if old["tokens"] != new["tokens"]:
            return f"tokens is {new['tokens']}, not {old['tokens']}", False
        stored, computed = unpack(old["logprob"]), unpack(new["logprob"])
        if stored is not None and computed is not None and math.isfinite(stored) and math.isfinite(computed):
            self.largest = max(self.largest, abs(stored - computed))
        if not self.tolerance.allows(stored, computed, int(new["tokens"])):
            return f"the log-likelihood is {computed}, not {stored}", False
        if old["is_greedy"] != new["is_greedy"]:
            # Two tokens that are equally likely: which is the best one is decided by the last bits.
            gap = self.gap(task, index, number, None)
            if gap is None or gap > self.tolerance.gap:
                return f"is_greedy is {new['is_greedy']}, not {old['is_greedy']}", False
        return None, False

    def _text(
        self, task: str, index: int, number: int, stored: Mapping[str, Any], found: Mapping[str, Any]
    ) -> tuple[str | None, bool]:
        old, new = stored["text"], found["text"]
        if old == new:
            return None, False
        if not isinstance(old, str) or not isinstance(new, str):
            return "one of the answers is no text", False
        settings = self.generation.get(task) or {}
        if settings.get("temperature") or settings.get("repetition_penalty", 1.0) != 1.0:
            # One flipped bit and a sampled text goes another way.
            return None, True
        if settings.get("num_beams", 1) != 1:
            # So does a search: the best of several texts need not have the best token anywhere.
            return None, True
        gap = self.gap(task, index, number, stored)
        if gap is None or gap > self.tolerance.gap:
            place = next(
                (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
            )
            why = (
                "and is not what its tokens say"
                if gap is None
                else f"and a token is {gap:.3g} nats less likely than the best"
            )
            return f"the text differs from character {place} on, {why}", False
        return None, False
