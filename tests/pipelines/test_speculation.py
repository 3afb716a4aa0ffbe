"""Speculative decoding on stand-ins: what is said stays what it was, greedily to the token and sampled in distribution."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import ResolvedModel, SamplingParams
from llmasos.errors import UsageError
from llmasos.pipelines import sampling
from llmasos.pipelines.generate import complete, generate
from llmasos.pipelines.speculation import Asked, DraftModel, PromptLookup
from llmasos.testing.doubles import ByteTokenizer, ScriptedCache, ScriptedModel


class Counting(ScriptedModel):
    """Keeps how many tokens each pass computed."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"max_length": 400, **settings})
        self.passes: list[int] = []

    def hidden(self, batch, cache=None):
        self.passes.append(len(batch.tokens))
        return super().hidden(batch, cache)


def loaded(model: Any = None, tokenizer: Any = None) -> LoadedModel:
    resolved = ResolvedModel(ref="double", path=Path("double"), source="path")
    return LoadedModel(resolved, model or Counting(), tokenizer or ByteTokenizer(), {})


def rounds(tokens: tuple[int, ...], positions: tuple[int, ...]) -> int:
    """Says a line over and over, with a change now and then."""
    line = b"the quick brown fox "
    return ord("!") if len(tokens) % 37 == 0 else line[len(tokens) % len(line)]


def drifting(tokens: tuple[int, ...], positions: tuple[int, ...]) -> int:
    """Agrees with ``rounds`` but for every ninth token."""
    return 63 if len(tokens) % 9 == 0 else rounds(tokens, positions)


def completed(model, prompts, params, **settings):
    chunks = generate(loaded(model), prompts, params, **settings)
    done = {chunk.index: chunk.done for chunk in chunks if chunk.done is not None}
    return [done[index] for index in range(len(prompts))]


PROMPTS = ["the quick", "x", "abcabcabcabc", "", "the quick brown fox the quick brown fox the q"]
SETTINGS = [
    {},
    {"repetition_penalty": 1.02, "logprobs": True},
    {"stop": ("fox t", "k!")},
    {"max_new_tokens": 1},
]


@pytest.mark.parametrize("speculate", ["lookup", "model"])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "penalty", "stop", "one"])
def test_greedy_says_the_same_in_fewer_passes(settings, batch_size, speculate):
    params = SamplingParams(**{"max_new_tokens": 80, **settings})
    plain, guessing = Counting(258, rounds), Counting(258, rounds)
    drafter = "lookup" if speculate == "lookup" else loaded(Counting(258, drifting))
    expected = completed(plain, PROMPTS, params, batch_size=batch_size)
    found = completed(guessing, PROMPTS, params, batch_size=batch_size, speculate=drafter)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.tokens, ours.finish) == (theirs.text, theirs.tokens, theirs.finish)
        if params.logprobs:
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
        assert 0 <= ours.accepted <= ours.drafted
    if params.max_new_tokens > 1 and not params.stop:
        assert sum(done.accepted for done in found) > 100
        assert len(guessing.passes) < 0.7 * len(plain.passes)


@pytest.mark.parametrize("temperature", [0.4, 1.5])
def test_lookup_draws_the_very_tokens_it_draws_without(temperature):
    params = SamplingParams(max_new_tokens=60, temperature=temperature, seed=5, top_k=30)
    model = {"script": rounds, "confidence": 0.9}
    plain = completed(Counting(**model), PROMPTS, params)
    guessed = completed(Counting(**model), PROMPTS, params, speculate="lookup")
    assert [done.tokens for done in guessed] == [done.tokens for done in plain]
    assert sum(done.accepted for done in guessed) > 20


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_sampling_with_a_model_does_not_depend_on_the_batch(batch_size):
    params = SamplingParams(max_new_tokens=40, temperature=0.8, seed=5)

    def run(prompts):
        target, draft = Counting(258, rounds, confidence=0.9), Counting(258, drifting, confidence=0.7)
        return completed(target, prompts, params, batch_size=batch_size, speculate=loaded(draft))

    together = run(PROMPTS)
    assert [run([prompt])[0] for prompt in PROMPTS] == together
    assert sum(done.accepted for done in together) > 20


class Markov(ScriptedModel):
    """The next token depends on the last one alone, by a table [V, V] of probabilities."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__(len(table), max_length=8)
        self.scores = table.log()

    def _row(self, history):
        return self.scores[history[-1][0]]


WANTED = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])
DRAFTS = {
    "close": torch.tensor([[0.6, 0.25, 0.15], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]]),
    "wrong": torch.tensor([[0.05, 0.05, 0.9], [0.8, 0.1, 0.1], [0.9, 0.05, 0.05]]),
}


@pytest.mark.parametrize("draft", [*DRAFTS, "lookup"])
def test_sampled_texts_have_the_distribution_of_the_model(draft):
    count = 1500
    speculate: Any = "lookup" if draft == "lookup" else loaded(Markov(DRAFTS[draft]))
    params = SamplingParams(max_new_tokens=4, temperature=1.0, ignore_eos=True, seed=2)
    prompts = [[0, 1, 2, 0]] * count
    done = completed(Markov(WANTED), prompts, params, batch_size=100, speculate=speculate)
    found = Counter(one.tokens for one in done)
    chi = 0.0
    for tokens in product(range(3), repeat=4):
        chance = 1.0
        for last, token in zip((0, *tokens), tokens, strict=False):
            chance *= float(WANTED[last, token])
        chi += (found[tokens] - count * chance) ** 2 / (count * chance)
    # 80 degrees of freedom: beyond 125 once in a thousand times, and the seed is fixed.
    assert chi < 125
    rate = sum(one.accepted for one in done) / sum(one.drafted for one in done)
    assert {"close": 0.75, "wrong": 0.1, "lookup": 0.1}[draft] < rate < 0.95


def test_a_guess_is_kept_as_often_as_two_distributions_overlap():
    wanted, chances = WANTED[2].double(), DRAFTS["wrong"][0].double()
    random = torch.Generator().manual_seed(1)
    kept, result = 0, Counter()
    for _ in range(5000):
        guess = int(torch.multinomial(chances, 1, generator=random))
        token, right = sampling.accepted(wanted.log(), chances, guess, random)
        kept += right
        result[token] += 1
        assert right <= (token == guess)
    assert kept / 5000 == pytest.approx(float(torch.minimum(wanted, chances).sum()), abs=0.02)
    assert [result[token] / 5000 for token in range(3)] == pytest.approx(wanted.tolist(), abs=0.02)


def test_lookup_goes_on_where_the_text_read_so_last():
    lookup = PromptLookup()
    lookup.start(0)

    def guess(text: str, most: int = 4) -> str:
        asked = Asked(0, list(text.encode()), most, SamplingParams(), None)
        return bytes(lookup.guess([asked])[0].tokens).decode()

    assert guess("one two three; one two") == " thr"
    assert guess("one two three; one two four, one two") == " fou"
    assert guess("one two three; one two four, one two f") == "our,"
    lookup.start(0)
    assert guess("abcdefg") == ""
    lookup.start(0)
    assert guess("xyzxyz", most=8) == "xyzxyzxy"
    assert guess("xyzxyzx", most=0) == ""


def test_guessing_stops_where_it_does_not_pay():
    """After a wrong guess one token is tried, after a right one two more."""
    model = Counting(258, rounds)
    drafts = Counting(258, lambda tokens, positions: 1)
    (done,) = completed(model, ["the"], SamplingParams(max_new_tokens=30), speculate=loaded(drafts))
    assert done.accepted == 0
    assert model.passes == [3, 5, *[2] * 27, 1]


def test_a_cache_that_cannot_go_back_still_says_the_same():
    class Forward(ScriptedCache):
        def rewind(self, slot: int, length: int) -> bool:
            return length == self.lengths[slot]

    class Recurrent(Counting):
        def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
            return Forward(slots, capacity)

    params = SamplingParams(max_new_tokens=60)
    expected = completed(Counting(258, rounds), PROMPTS, params)
    for target, speculate in (
        (Recurrent(258, rounds), "lookup"),
        (Counting(258, rounds), loaded(Recurrent(258, drifting))),
    ):
        found = completed(target, PROMPTS, params, batch_size=2, speculate=speculate)
        assert [done.tokens for done in found] == [done.tokens for done in expected]


def test_a_draft_model_with_a_shorter_context_guesses_as_long_as_it_can():
    draft = Counting(258, rounds, max_length=40)
    params = SamplingParams(max_new_tokens=80)
    (done,) = completed(Counting(258, rounds), ["the quick"], params, speculate=loaded(draft))
    assert done == completed(Counting(258, rounds), ["the quick"], params, speculate=loaded(draft))[0]
    assert 20 < done.accepted < 40
    assert done.tokens == complete(loaded(Counting(258, rounds)), ["the quick"], params)[0].tokens


def test_a_draft_model_may_have_another_table_size():
    wide, narrow = Counting(300, rounds), Counting(258, rounds)
    for target, draft in ((wide, narrow), (narrow, wide)):
        for temperature in (0.0, 0.5):
            params = SamplingParams(max_new_tokens=30, temperature=temperature)
            (done,) = completed(target, ["the quick"], params, speculate=loaded(draft))
            assert done.accepted > 0


def test_drafts_that_make_no_sense_are_refused():
    other = ByteTokenizer(adds_bos=True)
    other.token = lambda token: f"other {token}"  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="do not share a vocabulary") as error:
        DraftModel(loaded(tokenizer=other), loaded(), slots=1, capacity=8)
    assert error.value.hint
    with pytest.raises(UsageError, match="cannot guess tokens"):
        DraftModel(loaded(object()), loaded(), slots=1, capacity=8)
    with pytest.raises(UsageError, match="beam search does not speculate"):
        generate(loaded(), ["a"], SamplingParams(num_beams=2), speculate="lookup")
