"""Text from a causal language model: batches of any mix of lengths, streamed, seeded, with or without sampling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import CausalLM, Generation, GenerationChunk, SamplingParams
from llmasos.errors import UsageError
from llmasos.pipelines import beams, sampling
from llmasos.pipelines.batching import Batch
from llmasos.pipelines.endings import Endings
from llmasos.pipelines.speculation import Drafter, DraftModel, PromptLookup


def generate(
    loaded: LoadedModel,
    prompts: Sequence[str | Sequence[int]],
    params: SamplingParams,
    *,
    batch_size: int = 8,
    share_prefixes: bool = True,
    speculate: Literal["lookup"] | LoadedModel | None = None,
) -> Iterator[GenerationChunk]:
    """Complete prompts, up to ``batch_size`` at a time; chunks of different prompts are interleaved.

    A text prompt is encoded with the special tokens the tokenizer adds (BOS); token ids are taken as they are. An empty
    prompt becomes the BOS token. Every prompt ends with one chunk that carries ``done``. Log-probabilities are of the
    model's own distribution, before penalty, temperature and filters.

    A completion depends on the model, the prompt, ``params`` and how often the same prompt came before it in ``prompts``;
    not on the other prompts and not on ``batch_size``, but for rounding of the arithmetic underneath; with ``batch_size`` 1 and
    without ``share_prefixes`` not even for that.

    ``speculate``: guess tokens from the text (``"lookup"``) or with a smaller model that has the same vocabulary. It changes
    the time, not what is said: greedy tokens and tokens sampled with lookup are those without it, tokens sampled with a model
    have the same distribution.

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
    if speculate is not None and params.num_beams > 1:
        raise UsageError("beam search does not speculate", hint="leave out one of num_beams and speculate")
    ids = [_prompt_ids(loaded, prompt, index) for index, prompt in enumerate(prompts)]
    return _run(loaded, model, ids, params, batch_size, share_prefixes, speculate)


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
    loaded: LoadedModel,
    model: CausalLM,
    prompts: Sequence[list[int]],
    params: SamplingParams,
    batch_size: int,
    share_prefixes: bool,
    speculate: Literal["lookup"] | LoadedModel | None,
) -> Iterator[GenerationChunk]:
    rooms = [min(params.max_new_tokens, model.max_length - len(ids)) for ids in prompts]
    if params.num_beams > 1:
        yield from _search(loaded, model, prompts, rooms, params, batch_size)
        return
    slots = max(1, min(batch_size, sum(room > 0 for room in rooms)))
    # The last token generated is never fed back.
    longest = [len(ids) + max(room, 1) - 1 for ids, room in zip(prompts, rooms, strict=True)]
    capacity = max(longest, default=1)
    drafter: Drafter | None = None
    if speculate is not None:
        drafter = (
            PromptLookup()
            if speculate == "lookup"
            else DraftModel(speculate, loaded, slots=slots, capacity=capacity)
        )
    batch = Batch(
        loaded,
        slots=slots,
        capacity=capacity,
        cache_tokens=max(1, sum(sorted(longest)[-slots:])),
        share_prefixes=share_prefixes,
        drafter=drafter,
    )
    seen: Counter[tuple[int, ...]] = Counter()
    for ids in prompts:
        key = tuple(ids)
        batch.add(ids, params, occurrence=seen[key])
        seen[key] += 1
    while not batch.idle:
        yield from batch.step()


def _search(
    loaded: LoadedModel,
    model: CausalLM,
    prompts: Sequence[list[int]],
    rooms: Sequence[int],
    params: SamplingParams,
    batch_size: int,
) -> Iterator[GenerationChunk]:
    asked = []
    for index, (ids, room) in enumerate(zip(prompts, rooms, strict=True)):
        if room > 0:
            asked.append((index, ids, room))
        else:
            yield GenerationChunk(index, "", done=Generation("", (), "length", len(ids)))
    yield from beams.search(model, loaded.tokenizer, asked, params, Endings(loaded, params), batch_size)
