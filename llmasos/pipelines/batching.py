"""Continuous batching: completions come and go while others run, and all that run share every pass.

A completion lives in a slot of one cache. When it is done the next one takes its slot at once; new prompts and next tokens of
running rows travel in the same packed pass, so nothing is padded and nothing waits. Long prompts go in pieces, a few hundred
tokens a pass, so that they do not hold up what is running.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import (
    CausalLM,
    Generation,
    GenerationChunk,
    KVCache,
    PagedCache,
    PagingLM,
    SamplingParams,
)
from llmasos.contracts.threads import single_threaded
from llmasos.errors import UsageError
from llmasos.pipelines import passes, sampling, speculation
from llmasos.pipelines.endings import Endings
from llmasos.pipelines.prefixes import SlotContents
from llmasos.pipelines.speculation import Asked, Drafter, Guess
from llmasos.pipelines.text_stream import TextStream

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: New tokens of prompts in one pass, next to the tokens of what is running.
PREFILL_TOKENS = 512
#: As many at least, however much is running: every prompt gets on.
LEAST_PREFILL = 64


@dataclass(slots=True)
class _Row:
    """One completion on its way."""

    index: int
    #: The prompt and all that was generated.
    whole: list[int]
    prompt_length: int
    params: SamplingParams
    endings: Endings
    #: How many tokens may be generated: what was asked for, or what the context has left.
    room: int
    stream: TextStream
    random: Generator | None
    slot: int = -1
    #: Tokens the cache holds.
    past: int = 0
    logprobs: list[float] = field(default_factory=list)
    #: How many tokens to guess next; how many were guessed, and rightly.
    reach: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def generated(self) -> int:
        """Tokens that were generated."""
        return len(self.whole) - self.prompt_length


class Batch:
    """Completions in ``slots`` slots of one cache, of up to ``capacity`` tokens each (default: the model's context).

    ::

        batch = Batch(loaded, slots=8)
        batch.add(loaded.tokenizer.encode("Once"), SamplingParams())
        while not batch.idle:
            for chunk in batch.step():
                print(chunk.index, chunk.text)

    What a completion says does not depend on what else is in the batch, but for rounding of the arithmetic underneath. Not
    thread-safe: one thread adds, steps and cancels.

    ``cache_tokens``: room for so many tokens in all, where the cache is a pool; a completion begins when there is room for all
    that run to get to their ends. ``prefill_tokens``: how many tokens of prompts a pass takes. Without ``share_prefixes``
    everything is computed anew. ``drafter``: guesses tokens (see ``speculation``), for as many slots.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        slots: int = 8,
        capacity: int | None = None,
        cache_tokens: int | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
        share_prefixes: bool = True,
        drafter: Drafter | None = None,
    ) -> None:
        if not isinstance(loaded.model, CausalLM):
            raise UsageError(
                f"{loaded.resolved.ref} is not a causal language model and cannot generate text",
                hint="`llmasos model info` shows what a model is",
            )
        if slots < 1 or prefill_tokens < 1:
            raise UsageError(f"a batch of {slots} slots that takes {prefill_tokens} tokens a pass")
        self._loaded = loaded
        self._model: CausalLM = loaded.model
        #: Tokens one completion may have in the cache: all but the last token generated.
        self.capacity = self._model.max_length if capacity is None else capacity
        if cache_tokens is not None and isinstance(self._model, PagingLM):
            self.capacity = min(self.capacity, cache_tokens)
            self._cache: KVCache = self._model.new_pages(slots, self.capacity, cache_tokens)
        else:
            self._cache = self._model.new_cache(slots, self.capacity)
        self._contents = SlotContents(self._cache, slots) if share_prefixes else None
        self._prefill_tokens = prefill_tokens
        self._drafter = drafter
        self._seen = sampling.SeenTokens(slots, self._model.vocab_size, self._model.device)
        self._endings: dict[tuple[tuple[str, ...], bool], Endings] = {}
        self._waiting: deque[_Row] = deque()
        self._running: list[_Row] = []
        #: The one that was used longest ago comes first: what the others hold may still serve.
        self._free = deque(range(slots))
        self._added = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    @property
    def waiting(self) -> int:
        """Completions that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Completions that have a slot."""
        return len(self._running)

    def add(self, prompt: Sequence[int], params: SamplingParams, *, occurrence: int = 0) -> int:
        """Ask for a completion of ``prompt``; returns its number, which its chunks carry, counted from 0.

        ``occurrence`` tells equal prompts that are to be sampled differently apart. Raises UsageError for settings that make no
        sense, beams among them (see ``beams``), an empty prompt, and one that the model's context or the cache cannot hold.
        """
        sampling.check(params)
        if params.num_beams > 1:
            raise UsageError(
                f"a batch cannot search with {params.num_beams} beams", hint="set num_beams to 1"
            )
        self._check_prompt(prompt)
        random = None
        if params.temperature > 0:
            random = sampling.row_generator(params.seed, prompt, occurrence)
        room = min(
            params.max_new_tokens, self._model.max_length - len(prompt), self.capacity + 1 - len(prompt)
        )
        row = _Row(
            index=self._added,
            whole=list(prompt),
            prompt_length=len(prompt),
            params=params,
            endings=self._endings_of(params),
            room=room,
            stream=TextStream(self._loaded.tokenizer, params.stop),
            random=random,
        )
        self._waiting.append(row)
        self._added += 1
        return row.index

    def cancel(self, index: int) -> bool:
        """Forget a completion: it gets no more chunks, and its slot is free. False when it was done or never asked for."""
        for row in self._waiting:
            if row.index == index:
                self._waiting.remove(row)
                return True
        for row in self._running:
            if row.index == index:
                self._retire(row)
                return True
        return False

    def step(self) -> list[GenerationChunk]:
        """One pass: a token more for all that run, and a piece of the prompts that have just come.

        Returns what is new, in the order in which the completions began; nothing when it was a pass over pieces of prompts.
        Every completion ends with one chunk that carries ``done``.
        """
        chunks = self._admit()
        guesses = self._guesses()
        rows, parts = self._plan(guesses)
        if not rows:
            return chunks
        for row, found in self._pass(rows, parts, guesses):
            for token, logprob in found:
                chunk = _take(row, token, logprob)
                chunks.append(chunk)
                if chunk.done is not None:
                    break
            if row.slot in guesses:
                self._forget_guesses(row)
            if chunks[-1].done is not None:
                self._retire(row)
        return chunks

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        longest = min(self._model.max_length, self.capacity)
        if not prompt:
            raise UsageError("the prompt is empty", hint="give at least one token of prompt")
        if len(prompt) > longest:
            what = "the model's context" if longest == self._model.max_length else "the cache"
            raise UsageError(
                f"the prompt has {len(prompt)} tokens, {what} holds {longest}",
                hint=f"shorten it by {len(prompt) - longest} tokens",
            )

    def _endings_of(self, params: SamplingParams) -> Endings:
        key = (params.stop, params.ignore_eos)
        if key not in self._endings:
            self._endings[key] = Endings(self._loaded, params)
        return self._endings[key]

    def _admit(self) -> list[GenerationChunk]:
        """Give free slots to those that wait; the chunks of those that have nothing to do."""
        chunks = []
        while self._waiting:
            row = self._waiting[0]
            if row.room < 1:
                self._waiting.popleft()
                chunks.append(_last(row, "length"))
                continue
            if not self._free:
                break
            slot = self._free[0]
            if self._contents is None:
                self._cache.reset(slot)
            else:
                past = self._contents.begin(slot, row.whole)
                if past is None:
                    break
                row.past = past
            if not self._has_room(slot, row):
                self._forget(slot)
                break
            self._waiting.popleft()
            row.slot = self._free.popleft()
            if row.params.repetition_penalty != 1:
                self._seen.start(row.slot, row.whole)
            if self._drafter is not None:
                self._drafter.start(row.slot)
                row.reach = self._drafter.first
            self._running.append(row)
        return chunks

    def _has_room(self, slot: int, row: _Row) -> bool:
        """Whether the pool has room for ``row`` in ``slot``, and for all that run, to get to their ends.

        What ended ones have left there makes room, the oldest first.
        """
        cache = self._cache
        if not isinstance(cache, PagedCache):
            return True
        asked = [(slot, row), *((one.slot, one) for one in self._running)]
        others = [free for free in self._free if free != slot]
        # The last token generated is never fed back.
        while sum(cache.needs(at, one.prompt_length + one.room - 1) for at, one in asked) > cache.free:
            if not others:
                return False
            self._forget(others.pop(0))
        return True

    def _forget(self, slot: int) -> None:
        if self._contents is not None:
            self._contents.forget(slot)
        else:
            self._cache.reset(slot)

    def _guesses(self) -> dict[int, Guess]:
        """What may come next, for the slots of rows whose next token is due."""
        if self._drafter is None:
            return {}
        asked = [
            # One token comes without a guess.
            Asked(row.slot, row.whole, min(row.reach, row.room - row.generated - 1), row.params, row.random)
            for row in self._running
            if len(row.whole) - row.past == 1
        ]
        found = self._drafter.guess(asked)
        return {one.slot: guess for one, guess in zip(asked, found, strict=True) if guess.tokens}

    def _plan(self, guesses: Mapping[int, Guess]) -> tuple[list[_Row], list[passes.Part]]:
        """What the next pass computes: whose tokens, and which."""
        decoding = sum(len(row.whole) - row.past == 1 for row in self._running)
        decoding += sum(len(guess.tokens) for guess in guesses.values())
        budget = max(self._prefill_tokens - decoding, min(LEAST_PREFILL, self._prefill_tokens))
        rows: list[_Row] = []
        parts: list[passes.Part] = []
        for row in self._running:
            fresh = row.whole[row.past :]
            if len(fresh) > 1:
                fresh = fresh[:budget]
                budget -= len(fresh)
                if not fresh:
                    continue
            elif row.slot in guesses:
                fresh += guesses[row.slot].tokens
            rows.append(row)
            parts.append((row.slot, row.past, fresh))
        return rows, parts

    def _pass(
        self, rows: Sequence[_Row], parts: Sequence[passes.Part], guesses: Mapping[int, Guess]
    ) -> list[tuple[_Row, list[tuple[int, float]]]]:
        """Compute the parts: the next tokens, with log-probabilities, of each row that is computed to its end."""
        import torch

        with torch.inference_mode():
            hidden = passes.hidden(self._model, self._cache, parts)
            ready: list[_Row] = []
            last: list[int] = []
            end = 0
            for row, (_, _, fresh) in zip(rows, parts, strict=True):
                end += len(fresh)
                row.past += len(fresh)
                if row.past >= len(row.whole):
                    ready.append(row)
                    last += range(end - 1 - row.past + len(row.whole), end)
            if not ready:
                return []
            if len(last) < len(hidden):
                hidden = hidden[torch.tensor(last, device=hidden.device)]
            raw = self._model.logits(hidden)
            with single_threaded():
                chosen = self._choose(ready, raw.float(), guesses)
        return list(zip(ready, chosen, strict=True))

    def _choose(
        self, rows: Sequence[_Row], raw: Tensor, guesses: Mapping[int, Guess]
    ) -> list[list[tuple[int, float]]]:
        """The next tokens of each row, and their log-probabilities (nan unless asked for), from scores [M, V].

        A row has one row of scores, and one more for each guess.
        """
        if guesses:
            found, begin = [], 0
            for row in rows:
                guess = guesses.get(row.slot, Guess())
                end = begin + 1 + len(guess.tokens)
                found.append(self._verified(row, raw[begin:end], guess))
                begin = end
            return found
        alike: dict[SamplingParams, list[int]] = {}
        for place, row in enumerate(rows):
            alike.setdefault(row.params, []).append(place)
        if len(alike) == 1:
            return self._choose_alike(rows, raw, rows[0].params)
        chosen: list[list[tuple[int, float]]] = [[] for _ in rows]
        for params, places in alike.items():
            same = self._choose_alike([rows[place] for place in places], raw[places], params)
            for place, one in zip(places, same, strict=True):
                chosen[place] = one
        return chosen

    def _choose_alike(
        self, rows: Sequence[_Row], raw: Tensor, params: SamplingParams
    ) -> list[list[tuple[int, float]]]:
        scores = raw
        slots = [row.slot for row in rows]
        if params.repetition_penalty != 1:
            scores = self._seen.penalised(raw, slots, params.repetition_penalty)
        if params.temperature == 0:
            tokens = scores.argmax(dim=-1).tolist()
        else:
            scores = sampling.filtered(scores, params)
            tokens = [
                sampling.draw(s, r.random) for s, r in zip(scores, rows, strict=True) if r.random is not None
            ]
        if params.repetition_penalty != 1:
            self._seen.add(slots, tokens)
        if not params.logprobs:
            return [[(token, float("nan"))] for token in tokens]
        return [[one] for one in zip(tokens, sampling.logprobs(raw, tokens), strict=True)]

    def _verified(self, row: _Row, raw: Tensor, guess: Guess) -> list[tuple[int, float]]:
        """The next tokens of a row whose guesses were computed: those that are right, and one more. raw [k + 1, V]."""
        params, scores = row.params, raw
        if params.repetition_penalty != 1:
            scores = self._seen.penalised_path(raw, row.slot, guess.tokens, params.repetition_penalty)
        tokens = speculation.chosen(scores, guess, params, row.random)
        if params.repetition_penalty != 1:
            self._seen.add([row.slot] * len(tokens), tokens)
        right, guessed = len(tokens) - 1, len(guess.tokens)
        row.drafted += guessed
        row.accepted += right
        if guessed and self._drafter is not None:
            # Guesses cost time: as many as were right last time and one more, or two when all were.
            row.reach = min(self._drafter.most, row.reach + 2) if right == guessed else right + 1
        if not params.logprobs:
            return [(token, float("nan")) for token in tokens]
        return list(zip(tokens, sampling.logprobs(raw[: len(tokens)], tokens), strict=True))

    def _forget_guesses(self, row: _Row) -> None:
        """Leave in the cache what became part of the sequence; all but its last token."""
        held = min(row.past, len(row.whole) - 1)
        if held == row.past:
            return
        if self._cache.rewind(row.slot, held):
            row.past = held
            return
        # A state that cannot go back is computed anew, and guesses no more.
        self._cache.reset(row.slot)
        row.past = 0
        self._drafter = None

    def _retire(self, row: _Row) -> None:
        """The row is done: its slot is free."""
        self._running.remove(row)
        self._free.append(row.slot)
        if self._contents is not None:
            self._contents.end(row.slot, row.whole)


def _take(row: _Row, token: int, logprob: float) -> GenerationChunk:
    """Add one token to a row; says so, or that the row is done."""
    if token in row.endings:
        return _last(row, row.endings.finish(token))
    row.whole.append(token)
    row.logprobs.append(logprob)
    text = row.stream.push(token)
    shown = logprob if row.params.logprobs else None
    if row.stream.stopped:
        return GenerationChunk(row.index, text, token, shown, _done(row, "stop"))
    if row.generated == row.room:
        return GenerationChunk(row.index, text + row.stream.finish(), token, shown, _done(row, "length"))
    return GenerationChunk(row.index, text, token, shown)


def _last(row: _Row, finish: Literal["stop", "length", "eos"]) -> GenerationChunk:
    return GenerationChunk(row.index, row.stream.finish(), done=_done(row, finish))


def _done(row: _Row, finish: Literal["stop", "length", "eos"]) -> Generation:
    return Generation(
        text=row.stream.text,
        tokens=tuple(row.whole[row.prompt_length :]),
        finish=finish,
        prompt_tokens=row.prompt_length,
        logprobs=tuple(row.logprobs) if row.params.logprobs else None,
        drafted=row.drafted,
        accepted=row.accepted,
    )
