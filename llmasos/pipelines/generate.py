"""Text from a causal language model: batches of any mix of lengths, streamed, seeded, with or without sampling.

Rows live in the slots of one cache. A row that finishes leaves at once and the next prompt takes its slot; new prompts
and next tokens of running rows travel in the same packed batch, so nothing is padded and nothing waits. A beginning that
prompts share is computed once and copied.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import (
    CausalLM,
    Generation,
    GenerationChunk,
    KVCache,
    PackedBatch,
    SamplingParams,
)
from llmasos.errors import UsageError
from llmasos.pipelines import beams, sampling
from llmasos.pipelines.endings import Endings
from llmasos.pipelines.prefixes import SlotContents, worth_sharing
from llmasos.pipelines.text_stream import TextStream

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: New prompts are admitted to one pass until it has this many new tokens or more.
PREFILL_TOKENS = 2048


@dataclass(slots=True)
class _Row:
    """One completion on its way."""

    index: int
    prompt: list[int]
    #: How many tokens may be generated: what was asked for, or what the context has left.
    room: int
    stream: TextStream
    random: Generator | None
    slot: int = -1
    #: Tokens the cache has not seen yet.
    fresh: list[int] = field(default_factory=list)
    past: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def generate(
    loaded: LoadedModel,
    prompts: Sequence[str | Sequence[int]],
    params: SamplingParams,
    *,
    batch_size: int = 8,
    share_prefixes: bool = True,
) -> Iterator[GenerationChunk]:
    """Complete prompts, up to ``batch_size`` at a time; chunks of different prompts are interleaved.

    A text prompt is encoded with the special tokens the tokenizer adds (BOS); token ids are taken as they are. An empty
    prompt becomes the BOS token. Every prompt ends with one chunk that carries ``done``. Log-probabilities are of the
    model's own distribution, before penalty, temperature and filters.

    A completion depends on the model, the prompt, ``params`` and how often the same prompt came before it in ``prompts``;
    not on the other prompts and not on ``batch_size``, but for rounding of the arithmetic underneath; with ``batch_size`` 1 and
    without ``share_prefixes`` not even for that.

    Raises UsageError, before anything is computed, for settings that make no sense, a prompt longer than the context (the
    message has both numbers) and an empty prompt when the tokenizer has no BOS token.
    """
    sampling.check(params)
    if batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}", hint="batch_size must be 1 or more")
    model = loaded.model
    if not isinstance(model, CausalLM):
        raise UsageError(
            f"{loaded.resolved.ref} is not a causal language model and cannot generate text",
            hint="`llmasos model info` shows what a model is",
        )
    rows: list[_Row] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for index, prompt in enumerate(prompts):
        ids = _prompt_ids(loaded, prompt, index)
        random = None
        if params.temperature > 0:
            random = sampling.row_generator(params.seed, ids, seen[tuple(ids)])
            seen[tuple(ids)] += 1
        room = min(params.max_new_tokens, model.max_length - len(ids))
        rows.append(
            _Row(index, ids, room, TextStream(loaded.tokenizer, params.stop), random, fresh=list(ids))
        )
    return _run(loaded, rows, params, batch_size, share_prefixes)


def complete(
    loaded: LoadedModel,
    prompts: Sequence[str | Sequence[int]],
    params: SamplingParams,
    *,
    batch_size: int = 8,
) -> list[Generation]:
    """``generate`` for callers who want only the finished completions, in the order of the prompts."""
    chunks = generate(loaded, prompts, params, batch_size=batch_size)
    finished = {chunk.index: chunk.done for chunk in chunks if chunk.done is not None}
    return [finished[index] for index in range(len(prompts))]


def _prompt_ids(loaded: LoadedModel, prompt: str | Sequence[int], index: int) -> list[int]:
    tokenizer, limit = loaded.tokenizer, loaded.model.max_length
    ids = tokenizer.encode(prompt, add_special_tokens=True) if isinstance(prompt, str) else list(prompt)
    if not ids:
        if tokenizer.special.bos is None:
            raise UsageError(
                f"prompt {index + 1} is empty and this model's vocabulary has no BOS token to start from",
                hint="give at least one token of prompt",
            )
        ids = [tokenizer.special.bos]
    if len(ids) > limit:
        raise UsageError(
            f"prompt {index + 1} has {len(ids)} tokens, the model's context holds {limit}",
            hint=f"shorten it by {len(ids) - limit} tokens",
        )
    return ids


def _run(
    loaded: LoadedModel, rows: list[_Row], params: SamplingParams, batch_size: int, share_prefixes: bool
) -> Iterator[GenerationChunk]:
    endings = Endings(loaded, params)
    waiting: deque[_Row] = deque()
    for row in rows:
        if row.room > 0:
            waiting.append(row)
        else:
            yield _last(row, params, "length")
    if not waiting:
        return
    if params.num_beams > 1:
        asked = [(row.index, row.prompt, row.room) for row in waiting]
        yield from beams.search(loaded.model, loaded.tokenizer, asked, params, endings, batch_size)
        return
    slots = min(batch_size, len(waiting))
    # the last token generated is never fed back
    capacity = max(len(row.prompt) + row.room - 1 for row in waiting)
    # One more for what prompts begin with in common.
    shared = share_prefixes and slots > 1 and worth_sharing([row.prompt for row in waiting])
    spare = slots if shared else None
    cache = loaded.model.new_cache(slots if spare is None else slots + 1, capacity)
    free = list(range(slots))
    contents = SlotContents(cache, slots, spare) if share_prefixes else None
    repeats = _Repeats(slots, loaded.model, params.repetition_penalty)
    running: list[_Row] = []
    while waiting or running:
        admitted = 0
        while waiting and free and admitted < PREFILL_TOKENS:
            row, slot = waiting[0], free[-1]
            if contents is None:
                cache.reset(slot)
            else:
                past = contents.begin(slot, row.prompt)
                if past is None:
                    break
                row.past, row.fresh = past, row.prompt[past:]
            waiting.popleft()
            row.slot = free.pop()
            repeats.start(row.slot, row.prompt)
            running.append(row)
            admitted += len(row.fresh)
        for row, (token, logprob) in zip(
            list(running), _step(loaded.model, running, cache, repeats, params), strict=True
        ):
            chunk = _take(row, token, logprob, params, endings)
            if chunk.done is not None:
                running.remove(row)
                free.append(row.slot)
                if contents is not None:
                    contents.end(row.slot)
            yield chunk


def _take(row: _Row, token: int, logprob: float, params: SamplingParams, endings: Endings) -> GenerationChunk:
    """Add one token to a row; says so, or that the row is done."""
    if token in endings:
        return _last(row, params, endings.finish(token))
    row.tokens.append(token)
    row.logprobs.append(logprob)
    row.fresh = [token]
    text = row.stream.push(token)
    shown = logprob if params.logprobs else None
    if row.stream.stopped:
        return GenerationChunk(row.index, text, token, shown, _done(row, params, "stop"))
    if len(row.tokens) == row.room:
        return GenerationChunk(
            row.index, text + row.stream.finish(), token, shown, _done(row, params, "length")
        )
    return GenerationChunk(row.index, text, token, shown)


def _last(row: _Row, params: SamplingParams, finish: Literal["stop", "length", "eos"]) -> GenerationChunk:
    return GenerationChunk(row.index, row.stream.finish(), done=_done(row, params, finish))


def _done(row: _Row, params: SamplingParams, finish: Literal["stop", "length", "eos"]) -> Generation:
    return Generation(
        text=row.stream.text,
        tokens=tuple(row.tokens),
        finish=finish,
        prompt_tokens=len(row.prompt),
        logprobs=tuple(row.logprobs) if params.logprobs else None,
    )


class _Repeats:
    """Which tokens each slot has seen, for the repetition penalty: [slots, V] bool, or nothing when it is off."""

    def __init__(self, slots: int, model: CausalLM, penalty: float) -> None:
        import torch

        self.penalty = penalty
        size = (slots, model.vocab_size)
        self.seen = torch.zeros(size, dtype=torch.bool, device=model.device) if penalty != 1 else None

    def start(self, slot: int, prompt: Sequence[int]) -> None:
        """A new sequence begins in ``slot``."""
        if self.seen is not None:
            self.seen[slot] = False
            self.seen[slot, list(prompt)] = True

    def apply(self, scores: Tensor, slots: Sequence[int]) -> Tensor:
        """Penalised scores [B, V] of rows in ``slots``."""
        if self.seen is None:
            return scores
        return sampling.penalised(scores, self.seen[list(slots)], self.penalty)

    def add(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """``tokens[b]`` was generated in ``slots[b]``."""
        if self.seen is not None:
            self.seen[list(slots), list(tokens)] = True


def _step(
    model: CausalLM, rows: Sequence[_Row], cache: KVCache, repeats: _Repeats, params: SamplingParams
) -> list[tuple[int, float]]:
    """One pass over the fresh tokens of all rows: the next token of each and its log-probability (nan unless asked for)."""
    import torch

    with torch.inference_mode():
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + len(row.fresh))
        slots = tuple(row.slot for row in rows)
        device = torch.device(model.device)
        batch = PackedBatch(
            tokens=torch.tensor([token for row in rows for token in row.fresh], device=device),
            positions=torch.cat([torch.arange(r.past, r.past + len(r.fresh)) for r in rows]).to(device),
            starts=tuple(starts),
            slots=slots,
        )
        hidden = model.hidden(batch, cache)  # [N, D]
        last = torch.tensor(starts[1:], device=device) - 1
        raw = model.logits(hidden[last]).float()  # [B, V]
        for row in rows:
            row.past += len(row.fresh)
        scores = repeats.apply(raw, slots)
        if params.temperature == 0:
            tokens = scores.argmax(dim=-1).tolist()
        else:
            scores = sampling.filtered(scores, params)
            tokens = [
                sampling.draw(s, r.random) for s, r in zip(scores, rows, strict=True) if r.random is not None
            ]
        repeats.add(slots, tokens)
        if not params.logprobs:
            return [(token, float("nan")) for token in tokens]
        chosen = raw.gather(1, torch.tensor(tokens, device=device)[:, None]).squeeze(1)
        return list(zip(tokens, (chosen - raw.logsumexp(dim=-1)).tolist(), strict=True))
