"""The cache in blocks: whatever slots share, copy, drop and take, scores are those of each sequence alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformer_shapes import GPT2S, LLAMAS
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from llmasos.api import (
    LoadedModel,
    PackedBatch,
    PagedCache,
    PagingLM,
    ResolvedModel,
    SamplingParams,
    UsageError,
)
from llmasos.pipelines.batching import Batch
from llmasos.pipelines.binding import bind_ops
from llmasos.pipelines.generate import complete
from llmasos.testing.doubles import ByteTokenizer
from llmasos_transformer.cache import BlockCache

SLOTS, CAPACITY = 4, 80


def loaded(model):
    return LoadedModel(ResolvedModel("tiny", Path("tiny"), "path"), model, ByteTokenizer(), {})


def feed(model, cache, slots, parts):
    """Hidden states of the new tokens ``parts[b]`` of ``slots[b]``."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    positions = [
        range(cache.lengths[slot], cache.lengths[slot] + len(part))
        for slot, part in zip(slots, parts, strict=True)
    ]
    return model.hidden(
        PackedBatch(
            torch.tensor([token for part in parts for token in part], dtype=torch.int64),
            torch.tensor([place for places in positions for place in places], dtype=torch.int64),
            tuple(starts),
            tuple(slots),
        ),
        cache,
    )


def alone(model, tokens):
    return model.hidden(PackedBatch(torch.tensor(tokens), torch.arange(len(tokens)), (0, len(tokens))))


def check_books(cache):
    """Every block is free or held, and as often as it is in a table."""
    held = [block for table in cache._tables for block in table]
    assert cache._holders == [held.count(block) for block in range(cache.blocks)]
    assert list(cache._used) == [int(count > 0) for count in cache._holders]
    assert cache.free == cache.blocks - len(set(held))


@torch.inference_mode()
def play(model, cache, seed, steps=40):
    """Random passes, copies, shares, rewinds and resets, against what each slot should hold."""
    dice = random.Random(seed)
    held: list[list[int]] = [[] for _ in range(SLOTS)]
    widest = 0
    for _ in range(steps):
        slot, other = dice.sample(range(SLOTS), 2)
        match dice.choice(["feed"] * 5 + ["copy", "share", "rewind", "reset"]):
            case "feed":
                slots = dice.sample(range(SLOTS), dice.randint(1, SLOTS))
                parts = [
                    [
                        dice.randrange(3, 97)
                        for _ in range(min(dice.choice([0, 1, 1, 5, 30]), CAPACITY - len(held[s])))
                    ]
                    for s in slots
                ]
                if not any(parts):
                    continue
                widest = max(widest, *(len(cache._ranges[s]) for s in slots))
                try:
                    found = feed(model, cache, slots, parts)
                except UsageError:  # the cache is full
                    assert cache.lengths == list(map(len, held))
                    check_books(cache)
                    cache.reset(slot)
                    held[slot] = []
                    continue
                for s, part in zip(slots, parts, strict=True):
                    held[s] += part
                    rows, found = found[: len(part)], found[len(part) :]
                    if part:
                        expected = alone(model, held[s])[-len(part) :]
                        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
            case "copy":
                cache.copy(slot, other)
                held[other] = list(held[slot])
            case "share":
                length = dice.randint(0, len(held[slot]))
                cache.share(slot, other, length)
                held[other] = held[slot][:length]
            case "rewind":
                length = dice.randint(0, len(held[slot]))
                assert cache.rewind(slot, length)
                held[slot] = held[slot][:length]
            case "reset":
                cache.reset(slot)
                held[slot] = []
        assert cache.lengths == list(map(len, held))
        check_books(cache)
    return widest


@pytest.mark.parametrize(
    ("kind", "case"), [(LlamaForCausalLM, LLAMAS["grouped-query"]), (GPT2LMHeadModel, GPT2S["plain"])]
)
def test_scores_are_those_of_each_sequence_alone(both, kind, case):
    _, model = both(kind, case)
    play(model, model.new_cache(SLOTS, CAPACITY), 1)
    widest = [play(model, model.new_pages(SLOTS, CAPACITY, 100), seed) for seed in range(4)]
    assert max(widest) >= 3  # sequences did lie in pieces


def test_the_native_back_end_reads_blocks_in_place(both, hub):
    _, model = both(LlamaForCausalLM, LLAMAS["grouped-query"])
    native = type(model)(
        bind_ops(hub(), "llmasos-cpu/cpu", "cpu", "float32"),
        model.spec,
        model.config,
        dtype="float32",
        device="cpu",
    )
    native.load_state_dict(model.state_dict())
    native.settle()
    assert native.runner is not None
    assert max(play(native, native.new_pages(SLOTS, CAPACITY, 100), seed) for seed in range(4)) >= 3


def cache_of(tokens=None, slots=3, capacity=64):
    return BlockCache(slots, capacity, 2, 1, 4, dtype=torch.float32, device="cpu", tokens=tokens)


def grow(cache, slot, count):
    """As a pass does it, without one."""
    rows = cache.rows([slot], [count]).tolist()
    layout = cache.layout([slot], (0, count), causal=True)
    cache.advance([slot], [count])
    return rows, layout


def test_a_sequence_on_its_own_is_one_range():
    cache = cache_of()
    for slot in (2, 0):
        for count in (5, 1, 30, 1, 27):
            _, layout = grow(cache, slot, count)
            assert layout.before is None
            assert layout.k_starts == (slot * 64,)
            assert layout.k_lengths == (cache.lengths[slot],)
    assert grow(cache, 1, 64)[0] == list(range(64, 128))


def test_blocks_are_shared_until_one_writes():
    cache = cache_of()
    grow(cache, 0, 40)
    cache.keys[:, :40] = torch.arange(40.0)[:, None, None]
    free = cache.free
    cache.copy(0, 1)
    assert cache.free == free
    assert (cache.needs(1, 40), cache.needs(1, 41), cache.needs(1, 64)) == (0, 1, 2)
    rows, layout = grow(cache, 1, 1)
    assert rows == [64 + 8]  # the third block is its own now, with what it held
    assert cache.keys[0, 64:72, 0, 0].tolist() == list(range(32, 40))
    assert layout.before == (((0, 32), (64, 72)),)
    assert cache.free == free - 1
    # The first one writes in place again: nobody else holds its last block.
    assert cache.needs(0, 41) == 0
    assert grow(cache, 0, 1)[0] == [40]
    cache.reset(0)
    assert cache.free == free
    assert grow(cache, 1, 1)[1].before == (((0, 32), (64, 73)),)


def test_new_tokens_that_lie_apart_are_read_apart():
    cache = cache_of(slots=2, tokens=100, capacity=96)
    grow(cache, 0, 16)
    grow(cache, 1, 16)
    cache.share(0, 1, 16)  # the block after the shared one is left to slot 0
    grow(cache, 0, 60)
    _, layout = grow(cache, 1, 40)
    assert len(layout.k_starts) >= 1
    assert layout.q_starts[-1] == 40
    sizes = [end - begin for begin, end in zip(layout.q_starts, layout.q_starts[1:], strict=False)]
    for place, spans in enumerate(layout.before):
        assert sum(end - begin for begin, end in spans) == 16 + sum(sizes[:place])


def test_a_full_pool_says_so_and_goes_on_when_there_is_room():
    cache = cache_of(tokens=16, slots=2, capacity=160)
    assert cache.blocks == 1 + 2 * 2
    grow(cache, 0, 60)
    with pytest.raises(UsageError, match="the cache is full: its 80 tokens are in use") as error:
        cache.rows([1], [17])
    assert error.value.hint
    assert cache.lengths == [60, 0]
    cache.reset(0)
    cache.reset(1)
    assert cache.free == cache.blocks
    assert len(grow(cache, 1, 80)[0]) == 80


def test_what_cannot_be_shared_is_refused():
    cache = cache_of()
    grow(cache, 0, 4)
    for source, target, length in ((0, 0, 2), (0, 1, 5), (1, 0, 1)):
        with pytest.raises(UsageError, match="cannot share"):
            cache.share(source, target, length)


@pytest.fixture
def tiny(both):
    _, model = both(LlamaForCausalLM, LLAMAS["grouped-query"])
    return model


def prompts():
    generator = torch.Generator().manual_seed(5)
    common = torch.randint(3, 97, (50,), generator=generator).tolist()
    return [
        *([*common, token] for token in (5, 6, 7)),
        *(torch.randint(3, 97, (n,), generator=generator).tolist() for n in (60, 3, 40)),
        [*common, 9, 9],
    ]


@pytest.mark.parametrize(
    ("cache_tokens", "share", "most"), [(90, False, 2), (90, True, 4), (160, False, 3), (400, False, 4)]
)
def test_a_small_pool_makes_some_wait_and_changes_nothing(tiny, cache_tokens, share, most):
    assert isinstance(tiny, PagingLM)
    params = SamplingParams(max_new_tokens=20, ignore_eos=True)
    expected = [complete(loaded(tiny), [row], params)[0] for row in prompts()]
    batch = Batch(loaded(tiny), slots=4, cache_tokens=cache_tokens, prefill_tokens=30, share_prefixes=share)
    assert isinstance(batch._cache, PagedCache)
    for row in prompts():
        batch.add(row, params)
    done, together = {}, 0
    while not batch.idle:
        done |= {chunk.index: chunk.done for chunk in batch.step() if chunk.done}
        if 0 not in done:
            together = max(together, batch.running)
        check_books(batch._cache)
    assert [done[index] for index in range(len(expected))] == expected
    assert together == most


def test_a_context_beyond_the_cache_is_one_clear_error(tiny):
    batch = Batch(loaded(tiny), slots=2, cache_tokens=40)
    with pytest.raises(UsageError, match="the prompt has 60 tokens, the cache holds 40") as error:
        batch.add(prompts()[3], SamplingParams())
    assert error.value.hint == "shorten it by 20 tokens"
    batch.add(prompts()[5], SamplingParams(ignore_eos=True))
    done = [chunk.done for _ in range(3) for chunk in batch.step() if chunk.done]
    assert [(len(one.tokens), one.finish) for one in done] == [(1, "length")]


def test_generate_takes_what_its_longest_prompts_need_and_no_more(tiny):
    made: list[tuple[int, int, int]] = []
    original = tiny.new_pages

    def new_pages(slots, capacity, tokens):
        made.append((slots, capacity, tokens))
        return original(slots, capacity, tokens)

    tiny.new_pages = new_pages
    complete(loaded(tiny), prompts(), SamplingParams(max_new_tokens=11, ignore_eos=True), batch_size=2)
    assert made == [(2, 70, 70 + 62)]
