"""Llama and GPT-2 give the logits of transformers, padded, packed, cached and alone: largest difference 1e-4 in fp32."""

from __future__ import annotations

import pytest
import torch
from transformer_shapes import GPT2S, LLAMAS
from transformers import GPT2LMHeadModel, GPT2Model, LlamaForCausalLM

from llmasos.api import PackedBatch

TOLERANCE = 1e-4
LENGTHS = (17, 1, 33, 8)
MODELS = [
    pytest.param(kind, config, id=f"{name}: {case}")
    for name, kind, configs in (("llama", LlamaForCausalLM, LLAMAS), ("gpt2", GPT2LMHeadModel, GPT2S))
    for case, config in configs.items()
]


def sequences(vocab: int, lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n,), generator=generator) for n in lengths]


def packed(rows, slots=None, begin=None):
    begin = begin or [0] * len(rows)
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    return PackedBatch(
        tokens=torch.cat(rows),
        positions=torch.cat([torch.arange(b, b + len(row)) for row, b in zip(rows, begin, strict=True)]),
        starts=tuple(starts),
        slots=slots,
    )


def pad(rows, side):
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


def difference(a, b):
    assert a.shape == b.shape
    assert torch.isfinite(a).all()
    return (a - b).abs().max().item()


@torch.no_grad()
def alone(theirs, rows):
    return [theirs(row[None]).logits[0] for row in rows]


@pytest.mark.parametrize(("kind", "config"), MODELS)
@torch.no_grad()
def test_logits(both, kind, config):
    theirs, ours = both(kind, config)
    rows = sequences(config.vocab_size)
    expected = alone(theirs, rows)
    assert max(e.abs().max() for e in expected) > 1  # large enough for the tolerance to mean something

    batch = ours.logits(ours.hidden(packed(rows)))
    assert difference(batch, torch.cat(expected)) <= TOLERANCE
    for row, e in zip(rows, expected, strict=True):
        assert difference(ours.logits(ours.hidden(packed([row]))), e) <= TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "config"), MODELS)
@torch.no_grad()
def test_padding(both, kind, config, side):
    theirs, ours = both(kind, config)
    ids, mask = pad(sequences(config.vocab_size), side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    found = ours.padded_logits(ids, mask)
    real = mask.bool()
    assert difference(found[real], expected[real]) <= TOLERANCE
    assert not found[~real].any()


@pytest.mark.parametrize(("kind", "config"), MODELS)
@torch.no_grad()
def test_cache(both, kind, config):
    """Prefill in pieces of different sizes, then token by token, in shuffled slots: as if all had been seen at once."""
    theirs, ours = both(kind, config)
    rows = sequences(config.vocab_size, (30, 12, 21))
    expected = alone(theirs, rows)
    cache = ours.new_cache(slots=5, capacity=40)
    slots, cuts = (3, 0, 4), ([7, 19, 20], [1, 9], [16, 17, 18])
    for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
        if i == 1:
            continue
        for begin, end in zip([0, *cut], [*cut, len(row)], strict=True):
            hidden = ours.hidden(packed([row[begin:end]], (slots[i],), [begin]), cache)
            assert difference(ours.logits(hidden), expected[i][begin:end]) <= TOLERANCE
    # all three together: row 1 from the start, the others replay their last tokens after a rewind
    assert cache.rewind(3, 25)
    assert cache.rewind(4, 20)
    pieces = [rows[0][25:], rows[1], rows[2][20:]]
    found = ours.logits(ours.hidden(packed(pieces, slots, [25, 0, 20]), cache))
    assert difference(found, torch.cat([expected[0][25:], expected[1], expected[2][20:]])) <= TOLERANCE
    assert [cache.lengths[s] for s in slots] == [30, 12, 21]


@torch.no_grad()
def test_copied_slot_continues_its_source(both):
    theirs, ours = both(LlamaForCausalLM, LLAMAS["grouped-query"])
    (row,) = sequences(97, (20,))
    cache = ours.new_cache(slots=2, capacity=24)
    ours.hidden(packed([row[:15]], (0,)), cache)
    cache.copy(0, 1)
    tail = row[15:]
    both_slots = ours.logits(ours.hidden(packed([tail, tail], (1, 0), [15, 15]), cache))
    expected = alone(theirs, [row])[0][15:]
    assert difference(both_slots, torch.cat([expected, expected])) <= TOLERANCE
    cache.reset(1)
    assert cache.lengths == [20, 0]


@torch.no_grad()
def test_token_logprobs_match_a_float64_softmax(both):
    theirs, ours = both(GPT2LMHeadModel, GPT2S["plain"])
    rows = sequences(97)
    targets = torch.randint(0, 97, (sum(LENGTHS),), generator=torch.Generator().manual_seed(3))
    logprobs, best = ours.token_logprobs(ours.hidden(packed(rows)), targets)
    expected = torch.cat(alone(theirs, rows)).double().log_softmax(-1)
    assert logprobs.dtype == torch.float32
    assert difference(logprobs.double(), expected.gather(1, targets[:, None])[:, 0]) <= TOLERANCE
    assert torch.equal(best, expected.argmax(-1))


@torch.no_grad()
def test_hidden_is_what_transformers_calls_last_hidden_state(both):
    theirs, ours = both(GPT2Model, GPT2S["plain"])  # a checkpoint of the bare model: no "transformer." prefix
    (row,) = sequences(97, (9,))
    assert difference(ours.hidden(packed([row])), theirs(row[None]).last_hidden_state[0]) <= TOLERANCE


@torch.no_grad()
def test_bfloat16_stays_close_and_finite(both, load_model, tmp_path):
    _, exact = both(LlamaForCausalLM, LLAMAS["tied"])
    ours = load_model(tmp_path, dtype="bfloat16")
    rows = sequences(97)
    found = ours.logits(ours.hidden(packed(rows)))
    assert found.dtype == torch.bfloat16
    wanted = exact.logits(exact.hidden(packed(rows)))
    assert torch.isfinite(found).all()
    assert ((found.float() - wanted).abs().max() / wanted.abs().max()).item() < 0.05
