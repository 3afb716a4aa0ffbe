"""Beam search on stand-ins: what beams do to the cache, how they end, and that neighbours change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import ResolvedModel, SamplingParams
from llmasos.errors import UsageError
from llmasos.pipelines.generate import complete, generate
from llmasos.testing.doubles import ByteTokenizer, ScriptedCache, ScriptedModel

PROMPTS = ["a", "bcd", "", "efghijklm", "n" * 40, "a"]


def loaded(model: Any = None) -> LoadedModel:
    resolved = ResolvedModel(ref="double", path=Path("double"), source="path")
    return LoadedModel(resolved, model or ScriptedModel(confidence=0.1), ByteTokenizer(), {})


def exhaustive(prompt: str, depth: int, branch: int = 30) -> list[tuple[float, tuple[int, ...]]]:
    """The best continuations of ``depth`` tokens, found by trying the ``branch`` likeliest tokens in every place."""
    model = ScriptedModel(confidence=0.1)
    open_ones = [(0.0, tuple(prompt.encode()))]
    for _ in range(depth):
        grown = []
        for score, tokens in open_ones:
            chances = model._row([(token, i) for i, token in enumerate(tokens)]).log_softmax(-1)
            best = chances.topk(branch)
            grown += [
                (score + value, (*tokens, token))
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        open_ones = grown
    return sorted(((score / depth, tokens[len(prompt) :]) for score, tokens in open_ones), reverse=True)


def test_enough_beams_find_the_best_of_all():
    params = SamplingParams(max_new_tokens=2, num_beams=30, num_return_sequences=5, ignore_eos=True)
    (done,) = complete(loaded(), ["ab"], params)
    expected = exhaustive("ab", 2)[:5]
    found = [(one.score, one.tokens) for one in (done, *done.alternatives)]
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_neighbours_change_nothing(batch_size):
    params = SamplingParams(max_new_tokens=7, num_beams=3, num_return_sequences=3, logprobs=True)
    together = complete(loaded(), PROMPTS, params, batch_size=batch_size)
    assert together[0] == together[-1]
    for prompt, done in zip(PROMPTS, together, strict=True):
        assert complete(loaded(), [prompt], params) == [done]
        for one in (done, *done.alternatives):
            assert len(one.logprobs) == len(one.tokens)
            if one.finish == "length":
                assert one.score == pytest.approx(sum(one.logprobs) / len(one.tokens), rel=1e-5)


def test_a_long_prompt_goes_in_pieces():
    sizes = []

    class Counting(ScriptedModel):
        def hidden(self, batch, cache=None):
            sizes.append(len(batch.tokens))
            return super().hidden(batch, cache)

    model = Counting(confidence=0.1, max_length=1000)
    params = SamplingParams(max_new_tokens=2, num_beams=2)
    (done,) = complete(loaded(model), ["p" * 700], params)
    assert sizes == [512, 188, 2]
    assert done.prompt_tokens == 700


def test_a_beam_ends_where_its_text_has_a_stop_string():
    free = SamplingParams(max_new_tokens=6, num_beams=4)
    (whole,) = complete(loaded(), ["xy"], free)
    stop = ByteTokenizer().decode(whole.tokens)[2:3]
    (done,) = complete(loaded(), ["xy"], SamplingParams(max_new_tokens=6, num_beams=4, stop=(stop,)))
    for one in (done, *done.alternatives):
        assert stop not in one.text
        assert one.finish != "stop" or stop in ByteTokenizer().decode(one.tokens)


def test_one_chunk_each_with_the_whole_text():
    chunks = list(generate(loaded(), PROMPTS, SamplingParams(max_new_tokens=4, num_beams=2), batch_size=4))
    assert sorted(chunk.index for chunk in chunks) == list(range(len(PROMPTS)))
    assert all(chunk.done is not None and chunk.text == chunk.done.text for chunk in chunks)


def test_a_slot_whose_beam_goes_on_alone_is_not_copied():
    copies: list[tuple[int, int]] = []

    class Watched(ScriptedCache):
        def copy(self, source, target):
            assert self.lengths[target] == 0  # nothing that somebody goes on from is overwritten
            copies.append((source, target))
            super().copy(source, target)

    class Watching(ScriptedModel):
        def new_cache(self, slots, capacity):
            return Watched(slots, capacity)

        def _row(self, history):
            scores = torch.full((self.vocab_size,), -30.0)
            first = {(97, 0): (98, 99), (98, 1): (100, 100), (99, 1): (101, 101)}
            liked, second = first.get(history[-1], (history[-1][0], history[-1][0]))
            scores[second], scores[liked] = -0.1, 0.0
            return scores

    (done,) = complete(
        loaded(Watching()), ["a"], SamplingParams(max_new_tokens=5, num_beams=2, num_return_sequences=2)
    )
    # From the prompt both go different ways, and each goes on alone.
    assert len(copies) == 1
    assert [done.text, done.alternatives[0].text] == ["bdddd", "ceeee"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams = 0"),
        ({"num_beams": 2, "temperature": 0.5}, "beam search with temperature = 0.5"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences = 3"),
        ({"num_return_sequences": 2}, "num_return_sequences = 2"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty = nan"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping = 'soon'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message) as error:
        generate(loaded(), ["a"], SamplingParams(**settings))
    assert error.value.hint
