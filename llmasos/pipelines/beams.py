"""Beam search with the meaning it has in transformers: same candidates, same scores, same ends.

Letters: B beams, V vocabulary. Scores are sums of log-probabilities, float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from llmasos.contracts.model import CausalLM, Generation, GenerationChunk, KVCache, PagingLM, SamplingParams
from llmasos.contracts.threads import single_threaded
from llmasos.contracts.tokenizer import Tokenizer
from llmasos.pipelines import passes, sampling
from llmasos.pipelines.endings import Endings
from llmasos.pipelines.text_stream import up_to_stop

if TYPE_CHECKING:
    from torch import Tensor

#: Tokens of one prompt that are computed in one pass.
PREFILL_TOKENS = 512


@dataclass(slots=True)
class _Beam:
    """A continuation that may still grow. The cache holds all of it but the last token in ``slot``."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A continuation that has ended, without its end token; ``score`` has the length penalty in it."""

    score: float
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length", "eos"]


class BeamSearch:
    """The search for the best continuations of one prompt, in ``num_beams`` slots of a cache that are its own.

    ``room``: how many tokens may be generated.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        room: int,
        params: SamplingParams,
        endings: Endings,
        tokenizer: Tokenizer,
        slots: Sequence[int],
    ) -> None:
        import torch

        self.prompt = list(prompt)
        #: Tokens of the prompt that the cache holds.
        self.computed = 0
        self.slots = tuple(slots)
        self.live = [_Beam(self.slots[0])]
        #: The search is over.
        self.over = False
        self._room = room
        self._params = params
        self._endings = endings
        self._tokenizer = tokenizer
        self._scores = torch.zeros(1)
        #: The best that have ended, best first.
        self._ended: list[_Ended] = []

    def parts(self) -> list[passes.Part]:
        """What has to be computed next."""
        if self.computed < len(self.prompt):
            fresh = self.prompt[self.computed : self.computed + PREFILL_TOKENS]
            return [(self.slots[0], self.computed, fresh)]
        past = len(self.prompt) - 1
        return [(beam.slot, past + len(beam.tokens), beam.tokens[-1:]) for beam in self.live]

    def take(self, logits: Tensor, cache: KVCache) -> None:
        """``logits`` [B, V] come after the parts: choose what goes on, and move what the cache holds accordingly.

        While the prompt is not computed to its end, they are of no use.
        """
        if self.computed < len(self.prompt):
            self.computed += min(PREFILL_TOKENS, len(self.prompt) - self.computed)
            if self.computed < len(self.prompt):
                return
        logprobs = logits.float().log_softmax(dim=-1)
        count, vocabulary = self._params.num_beams, logits.shape[-1]
        penalised = self._penalised(logprobs).cpu()
        # Whatever ends, there are as many left that go on: an end token is one continuation of each beam.
        keep = min(penalised.numel(), max(2, 1 + self._endings.count) * count)
        best, places = (penalised + self._scores[:, None]).flatten().topk(keep)
        size = len(self.live[0].tokens) + 1
        final = (best / size**self._params.length_penalty).tolist()
        children: list[tuple[int, _Beam]] = []
        ranks: list[int] = []
        for rank, place in enumerate(places.tolist()):
            parent, token = divmod(place, vocabulary)
            beam = self.live[parent]
            finish = self._finish(beam.tokens, token)
            if finish is not None and rank >= count:
                continue
            if finish is None and len(children) == count:
                continue
            tokens, chances = beam.tokens, [*beam.logprobs, float(logprobs[parent, token])]
            if finish is None:
                children.append((parent, _Beam(-1, [*tokens, token], chances)))
                ranks.append(rank)
                continue
            if token not in self._endings:
                tokens = [*tokens, token]
            self._ended.append(_Ended(final[rank], tuple(tokens), tuple(chances[: len(tokens)]), finish))
        self._ended = sorted(self._ended, key=lambda ended: -ended.score)[:count]
        self._scores = best[ranks]
        self.over = self._is_over(size) or not children
        if not self.over:
            self._move(children, cache)

    def best(self) -> Generation:
        """The best continuation, the next best that were asked for with it."""
        found = [self._generation(ended) for ended in self._ended[: self._params.num_return_sequences]]
        return Generation(
            text=found[0].text,
            tokens=found[0].tokens,
            finish=found[0].finish,
            prompt_tokens=len(self.prompt),
            logprobs=found[0].logprobs,
            score=found[0].score,
            alternatives=tuple(found[1:]),
        )

    def _generation(self, ended: _Ended) -> Generation:
        text = self._tokenizer.decode(list(ended.tokens), skip_special_tokens=True)
        return Generation(
            text=up_to_stop(text, self._params.stop) if ended.finish == "stop" else text,
            tokens=ended.tokens,
            finish=ended.finish,
            prompt_tokens=len(self.prompt),
            logprobs=ended.logprobs if self._params.logprobs else None,
            score=ended.score,
        )

    def _penalised(self, logprobs: Tensor) -> Tensor:
        """Log-probabilities [B, V] with the repetition penalty, which transformers applies to them and not to logits."""
        import torch

        if self._params.repetition_penalty == 1:
            return logprobs
        seen = torch.zeros(logprobs.shape, dtype=torch.bool, device=logprobs.device)
        for row, beam in enumerate(self.live):
            seen[row, self.prompt + beam.tokens] = True
        return sampling.penalised(logprobs, seen, self._params.repetition_penalty)

    def _finish(self, tokens: list[int], token: int) -> Literal["stop", "length", "eos"] | None:
        """How the continuation of ``tokens`` by ``token`` ends; None when it does not."""
        if token in self._endings:
            return self._endings.finish(token)
        if self._params.stop:
            text = self._tokenizer.decode([*tokens, token], skip_special_tokens=True)
            if up_to_stop(text, self._params.stop) != text:
                return "stop"
        return "length" if len(tokens) + 1 == self._room else None

    def _is_over(self, size: int) -> bool:
        """Whether nothing better is to be expected after ``size`` tokens, in the sense of ``early_stopping``."""
        params = self._params
        if len(self._ended) < params.num_beams or not len(self._scores):
            return False
        if params.early_stopping is True:
            return True
        far = self._room if params.early_stopping == "never" and params.length_penalty > 0 else size
        return float(self._scores[0] / far**params.length_penalty) <= self._ended[-1].score

    def _move(self, children: list[tuple[int, _Beam]], cache: KVCache) -> None:
        """Give every child a slot that holds what its parent held. The first child of a parent stays where that was."""
        taken: set[int] = set()
        later: list[tuple[int, _Beam]] = []
        for parent, beam in children:
            slot = self.live[parent].slot
            if slot in taken:
                later.append((slot, beam))
            else:
                beam.slot = slot
                taken.add(slot)
        free = [slot for slot in self.slots if slot not in taken]
        for slot in free:  # what nobody goes on from makes room for the copies
            cache.reset(slot)
        for source, beam in later:
            beam.slot = free.pop()
            cache.copy(source, beam.slot)
        self.live = [beam for _, beam in children]


def search(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[int, Sequence[int], int]],
    params: SamplingParams,
    endings: Endings,
    batch_size: int,
) -> Iterator[GenerationChunk]:
    """Search for all ``prompts``, (index, tokens, room of 1 or more) each; one chunk for each, when it is done.

    At most ``batch_size`` beams are computed in a pass, and those of one prompt at least.
    """
    import torch

    if not prompts:
        return
    beams = params.num_beams
    together = min(len(prompts), max(1, batch_size // beams))
    cache = _cache(model, together, beams, prompts)
    free = [tuple(range(place * beams, (place + 1) * beams)) for place in range(together)]
    waiting = deque(prompts)
    running: list[tuple[int, BeamSearch]] = []
    while waiting or running:
        while waiting and free:
            index, ids, room = waiting.popleft()
            slots = free.pop()
            for slot in slots:
                cache.reset(slot)
            running.append((index, BeamSearch(ids, room, params, endings, tokenizer, slots)))
        parts = [one.parts() for _, one in running]
        with torch.inference_mode():
            flat = [part for group in parts for part in group]
            last = list(accumulate(len(fresh) for _, _, fresh in flat))
            hidden = passes.hidden(model, cache, flat)
            logits = model.logits(hidden[torch.tensor(last, device=model.device) - 1])
            bounds = pairwise(accumulate(map(len, parts), initial=0))
            for (_, one), (begin, end) in zip(running, bounds, strict=True):
                with single_threaded():
                    one.take(logits[begin:end], cache)
        for index, one in running:
            if one.over:
                free.append(one.slots)
                done = one.best()
                yield GenerationChunk(index, done.text, done=done)
        running = [(index, one) for index, one in running if not one.over]


def _cache(
    model: CausalLM, together: int, beams: int, prompts: Sequence[tuple[int, Sequence[int], int]]
) -> KVCache:
    """A cache for so many searches; where slots take from a pool, one in which each prompt is kept once."""
    slots = together * beams
    # The last token generated is never fed back.
    capacity = max(len(ids) + room - 1 for _, ids, room in prompts)
    if not isinstance(model, PagingLM):
        return model.new_cache(slots, capacity)
    most = max(len(ids) + beams * room for _, ids, room in prompts)
    return model.new_pages(slots, capacity, together * most)
