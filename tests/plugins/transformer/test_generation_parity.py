"""Greedy continuations have the token ids that transformers' ``generate`` gives, over 128 tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_shapes import GPT2S, LLAMAS
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from llmasos.api import LoadedModel, ResolvedModel, SamplingParams
from llmasos.pipelines.generate import complete
from llmasos.testing.doubles import ByteTokenizer

NEW = 128
MODELS = [
    pytest.param(kind, configs[case], id=f"{name}: {case}")
    for name, kind, configs, cases in (
        ("llama", LlamaForCausalLM, LLAMAS, ("grouped-query", "biases", "llama3")),
        ("gpt2", GPT2LMHeadModel, GPT2S, ("plain", "scaled by layer")),
    )
    for case in cases
]


def loaded(model):
    return LoadedModel(ResolvedModel("tiny", Path("tiny"), "path"), model, ByteTokenizer(), {})


def prompts(vocab, lengths=(5, 20, 1, 11)):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, vocab, (n,), generator=generator).tolist() for n in lengths]


def their_ids(model, rows, **settings):
    """transformers' way: pad on the left, generate together, strip."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            **settings,
        )
    return [tuple(row) for row in out[:, longest:].tolist()]


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_greedy_ids(both, kind, config, penalty):
    theirs, ours = both(kind, config)
    theirs.generation_config.eos_token_id = None
    rows = prompts(config.vocab_size)
    params = SamplingParams(max_new_tokens=NEW, ignore_eos=True, repetition_penalty=penalty)
    expected = their_ids(theirs, rows, repetition_penalty=penalty)
    assert [done.tokens for done in complete(loaded(ours), rows, params)] == expected
    # not one token for ever, which anything would reproduce
    assert all(len(set(row)) > 3 for row in expected)
    alone = [complete(loaded(ours), [row], params)[0].tokens for row in rows]
    assert alone == expected


def test_end_of_sequence_is_where_transformers_has_it(both):
    theirs, ours = both(LlamaForCausalLM, LLAMAS["grouped-query"])
    rows = prompts(97)
    free = complete(loaded(ours), rows, SamplingParams(max_new_tokens=NEW, ignore_eos=True))
    end = free[0].tokens[9]  # a token that does come
    ours.config = {**ours.config, "eos_token_id": end}
    for row, done, whole in zip(
        rows, complete(loaded(ours), rows, SamplingParams(max_new_tokens=NEW)), free, strict=True
    ):
        with torch.no_grad():
            out = theirs.generate(
                torch.tensor([row]), max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=end
            )[0, len(row) :].tolist()
        assert list(done.tokens) == [token for token in out if token != end]
        assert done.finish == ("eos" if end in whole.tokens else "length")


def test_sampling_alone_is_sampling_in_a_batch(both):
    _, ours = both(GPT2LMHeadModel, GPT2S["plain"])
    rows = prompts(97)
    params = SamplingParams(
        max_new_tokens=40, temperature=0.9, top_k=30, top_p=0.9, min_p=0.01, seed=11, ignore_eos=True
    )
    together = complete(loaded(ours), rows, params, batch_size=4)
    assert [complete(loaded(ours), [row], params)[0] for row in rows] == together
    assert len({done.tokens for done in together}) == len(rows)


def test_logprobs_are_those_of_scoring(both):
    from llmasos.api import PackedBatch

    _, ours = both(LlamaForCausalLM, LLAMAS["tied"])
    (row,) = prompts(97, (6,))
    (done,) = complete(loaded(ours), [row], SamplingParams(max_new_tokens=30, logprobs=True, ignore_eos=True))
    whole = torch.tensor([*row, *done.tokens])
    batch = PackedBatch(whole, torch.arange(len(whole)), (0, len(whole)))
    hidden = ours.hidden(batch)[len(row) - 1 : -1]
    expected, best = ours.token_logprobs(hidden, whole[len(row) :])
    torch.testing.assert_close(torch.tensor(done.logprobs), expected, rtol=0, atol=1e-4)
    assert best.tolist() == list(done.tokens)
