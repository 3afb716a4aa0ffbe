"""Speculative decoding: tokens are guessed cheaply, and one pass of the model says which guesses are right.

What is generated has the distribution it has without guesses (Leviathan et al. 2023, Chen et al. 2023); greedily they are the
same tokens. Guesses come from the text itself (prompt lookup, Saxena 2023) or from a small model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import CausalLM, SamplingParams
from llmasos.contracts.threads import single_threaded
from llmasos.errors import UsageError
from llmasos.pipelines import passes, sampling

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: Tokens of prompts that a draft model reads in one pass.
PREFILL_TOKENS = 512
#: Lengths of the endings that are looked up, the longest first.
NGRAMS = (4, 3, 2)


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next. ``chances`` [k, V] float64: the distributions they were drawn from; None: they are certain."""

    tokens: Sequence[int] = ()
    chances: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A sequence whose next tokens are to be guessed, ``most`` at most. ``random`` is its random stream, None when greedy."""

    slot: int
    whole: Sequence[int]
    most: int
    params: SamplingParams
    random: Generator | None


class Drafter(Protocol):
    """Guesses. What is guessed for a sequence depends on nothing but that sequence and its random stream."""

    #: Tokens to guess first, and at most. The number in between follows how many guesses of a sequence are right.
    first: int
    most: int

    def start(self, slot: int) -> None:
        """A new sequence begins in ``slot``."""

    def guess(self, asked: Sequence[Asked]) -> list[Guess]:
        """A guess for each sequence, maybe of no tokens."""


class PromptLookup:
    """A ``Drafter`` that finds an earlier place where the sequence read as it ends now, and guesses what came there."""

    first, most = 4, 10

    def __init__(self) -> None:
        #: For each slot where to go on after the last place of each n-gram, and how many tokens of the sequence are in it.
        self._places: dict[int, dict[tuple[int, ...], int]] = {}
        self._seen: dict[int, int] = {}

    def start(self, slot: int) -> None:
        """Forget what was in ``slot``."""
        self._places[slot] = {}
        self._seen[slot] = 0

    def guess(self, asked: Sequence[Asked]) -> list[Guess]:
        """What came after the last place of the longest ending that has come before."""
        return [Guess(self._after(one.slot, one.whole, one.most)) for one in asked]

    def _after(self, slot: int, whole: Sequence[int], most: int) -> list[int]:
        places, size = self._places[slot], len(whole)
        for end in range(max(1, self._seen[slot]), size):
            for n in NGRAMS:
                if n <= end:
                    places[tuple(whole[end - n : end])] = end
        self._seen[slot] = size
        for n in NGRAMS:
            place = places.get(tuple(whole[-n:])) if n <= size else None
            if place is not None:
                found: list[int] = []
                for at in range(place, place + most):  # beyond the end what was guessed goes round
                    found.append(whole[at] if at < size else found[at - size])
                return found
        return []


class DraftModel:
    """A ``Drafter`` that asks a smaller model with the same vocabulary.

    ``slots`` and ``capacity`` are those of the batch. Raises UsageError for a model that cannot guess for ``target``.
    """

    first, most = 4, 8

    def __init__(self, draft: LoadedModel, target: LoadedModel, *, slots: int, capacity: int) -> None:
        name = draft.resolved.ref
        if not isinstance(draft.model, CausalLM):
            raise UsageError(f"{name} is not a causal language model and cannot guess tokens")
        if not _same_tokens(draft, target):
            raise UsageError(
                f"{name} and {target.resolved.ref} do not share a vocabulary: one cannot guess for the other",
                hint="choose a smaller model of the same family, or look guesses up in the text",
            )
        self._model: CausalLM = draft.model
        self._vocabulary = target.model.vocab_size
        self._capacity = min(capacity, draft.model.max_length)
        self._cache = self._model.new_cache(slots, self._capacity)
        #: Tokens the cache holds for each slot.
        self._held: list[list[int]] = [[] for _ in range(slots)]

    def start(self, slot: int) -> None:
        """Forget what was in ``slot``."""
        self._cache.reset(slot)
        self._held[slot] = []

    def guess(self, asked: Sequence[Asked]) -> list[Guess]:
        """What the draft model says, one token after the other, for all sequences together."""
        import torch

        tokens: list[list[int]] = [[] for _ in asked]
        chances: list[list[Tensor]] = [[] for _ in asked]
        # The last guess is not read.
        able = [
            place
            for place, one in enumerate(asked)
            if one.most and len(one.whole) + one.most - 1 <= self._capacity
        ]
        for place in able:
            self._go_back(asked[place].slot, asked[place].whole)
        while able:
            scores = self._read(
                [(asked[place].slot, [*asked[place].whole, *tokens[place]]) for place in able]
            )
            for place, row in zip(able, scores, strict=True):
                one = asked[place]
                if one.random is None:
                    tokens[place].append(int(row.argmax()))
                    continue
                row = sampling.filtered(row[None], one.params)[0]
                tokens[place].append(sampling.draw(row, one.random))
                chances[place].append(row.double().cpu().softmax(dim=-1))
            able = [place for place in able if len(tokens[place]) < asked[place].most]
        return [
            Guess(found, torch.stack(drawn) if drawn else None)
            for found, drawn in zip(tokens, chances, strict=True)
        ]

    def _go_back(self, slot: int, whole: Sequence[int]) -> None:
        """Keep of a slot what ``whole`` begins with, without its last token."""
        held = self._held[slot]
        most = min(len(held), len(whole) - 1)
        # Only guesses can have been wrong, and they are few: look from the end.
        same = most
        while (
            same and held[max(0, same - self.most - 1) : same] != whole[max(0, same - self.most - 1) : same]
        ):
            same -= 1
        if same < len(held):
            if not self._cache.rewind(slot, same):
                self._cache.reset(slot)
                same = 0
            del held[same:]

    def _read(self, wanted: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
        """Scores [B, V of the target] float32 of the next token of each (slot, sequence)."""
        import torch

        last: dict[int, Tensor] = {}
        with torch.inference_mode():
            while len(last) < len(wanted):
                parts: list[passes.Part] = []
                ready: list[tuple[int, int]] = []
                total = 0
                for place, (slot, whole) in enumerate(wanted):
                    held = self._held[slot]
                    fresh = whole[len(held) : len(held) + PREFILL_TOKENS - total]
                    if place in last or not fresh:
                        continue
                    parts.append((slot, len(held), fresh))
                    held += fresh
                    total += len(fresh)
                    if len(held) == len(whole):
                        ready.append((place, total - 1))
                hidden = passes.hidden(self._model, self._cache, parts)
                last |= {place: hidden[row] for place, row in ready}
            scores = self._model.logits(torch.stack([last[place] for place in range(len(wanted))]))
        missing = self._vocabulary - scores.shape[-1]
        with single_threaded():
            # Models of a family may differ in how they fill up their tables.
            return torch.nn.functional.pad(scores.float(), (0, missing), value=-torch.inf)


def chosen(scores: Tensor, guess: Guess, params: SamplingParams, random: Generator | None) -> list[int]:
    """The tokens that follow, one more than guesses are right: scores [k + 1, V] are those of the model after each guess.

    A certain guess is right when it is what would have been drawn, so the tokens are those of decoding without guesses, random
    stream and all. One that was drawn is kept with probability p / q, or else replaced by a draw from what p has more than q.
    """
    tokens: list[int] = []
    if random is None:
        best: list[int] = scores.argmax(dim=-1).tolist()
        for place, token in enumerate(best):
            tokens.append(token)
            if place < len(guess.tokens) and token != guess.tokens[place]:
                break
        return tokens
    scores = sampling.filtered(scores, params)
    for place, row in enumerate(scores):
        if place == len(guess.tokens) or guess.chances is None:
            tokens.append(sampling.draw(row, random))
            if place < len(guess.tokens) and tokens[-1] != guess.tokens[place]:
                break
            continue
        token, right = sampling.accepted(row, guess.chances[place], guess.tokens[place], random)
        tokens.append(token)
        if not right:
            break
    return tokens


def _same_tokens(left: LoadedModel, right: LoadedModel) -> bool:
    ours, theirs = left.tokenizer, right.tokenizer
    if ours.digest() == theirs.digest():
        return True
    return ours.vocab_size == theirs.vocab_size and all(
        ours.token(token) == theirs.token(token) for token in range(ours.vocab_size)
    )
