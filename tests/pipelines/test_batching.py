"""Continuous batching on stand-ins: coming, going, waiting and giving up, and that company changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import Generation, ResolvedModel, SamplingParams
from llmasos.errors import UsageError
from llmasos.pipelines.batching import Batch
from llmasos.pipelines.generate import complete
from llmasos.testing.doubles import ByteTokenizer, ScriptedModel


class Counting(ScriptedModel):
    """Keeps how many tokens of which slot each pass computed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"max_length": 1000, **settings})
        self.passes: list[dict[int, int]] = []

    def hidden(self, batch, cache=None):
        counts = [end - start for start, end in zip(batch.starts, batch.starts[1:], strict=False)]
        self.passes.append(dict(zip(batch.slots, counts, strict=True)))
        return super().hidden(batch, cache)


def loaded(model: Any = None) -> LoadedModel:
    resolved = ResolvedModel(ref="double", path=Path("double"), source="path")
    return LoadedModel(resolved, model or Counting(), ByteTokenizer(), {})


def ids(text: str) -> list[int]:
    return list(text.encode())


def run(batch: Batch, done: dict[int, Generation], steps: int = 10_000) -> None:
    """Step until there is nothing to do, or so often."""
    for _ in range(steps):
        if batch.idle:
            return
        for chunk in batch.step():
            assert chunk.index not in done
            if chunk.done is not None:
                done[chunk.index] = chunk.done


#: Of every kind, so that they never agree on what to do with their scores.
REQUESTS = [
    ("a", SamplingParams(max_new_tokens=9)),
    ("long " * 30, SamplingParams(max_new_tokens=5, logprobs=True)),
    ("bcd", SamplingParams(max_new_tokens=12, temperature=1.1, top_k=40, seed=3)),
    ("long " * 30 + "er", SamplingParams(max_new_tokens=3, repetition_penalty=1.4)),
    ("e", SamplingParams(max_new_tokens=0)),
    ("fg", SamplingParams(max_new_tokens=12, temperature=1.1, top_k=40, seed=3, logprobs=True)),
    ("h" * 120, SamplingParams(max_new_tokens=6, temperature=0.7, repetition_penalty=1.1)),
    ("a", SamplingParams(max_new_tokens=9, stop=("é",), ignore_eos=True)),
]


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("prefill_tokens", [7, 512])
@pytest.mark.parametrize("share", [True, False])
def test_the_same_alone_and_in_company(slots, prefill_tokens, share):
    alone = [complete(loaded(), [ids(prompt)], params)[0] for prompt, params in REQUESTS]
    batch = Batch(loaded(), slots=slots, capacity=200, prefill_tokens=prefill_tokens, share_prefixes=share)
    done: dict[int, Generation] = {}
    for place, (prompt, params) in enumerate(REQUESTS):
        assert batch.add(ids(prompt), params) == place
        run(batch, done, steps=place % 3)  # others have begun by then, or are done
    run(batch, done)
    assert [done[place] for place in range(len(REQUESTS))] == alone
    assert (batch.idle, batch.waiting, batch.running) == (True, 0, 0)


def test_a_long_prompt_does_not_hold_up_what_is_running():
    model = Counting()
    batch = Batch(loaded(model), slots=2, capacity=900, prefill_tokens=100)
    batch.add(ids("short"), SamplingParams(max_new_tokens=40, ignore_eos=True))
    batch.step()
    batch.add(ids("x" * 850), SamplingParams(max_new_tokens=2, ignore_eos=True))
    model.passes.clear()
    said = [[chunk.index for chunk in batch.step()] for _ in range(10)]
    assert model.passes == [{0: 1, 1: 99}] * 8 + [{0: 1, 1: 850 - 8 * 99}, {0: 1, 1: 1}]
    assert said == [[0]] * 8 + [[0, 1]] * 2


def test_however_much_is_running_a_prompt_gets_on():
    model = Counting()
    batch = Batch(loaded(model), slots=5, capacity=300, prefill_tokens=2)
    for text in "abcd":
        batch.add(ids(text), SamplingParams(max_new_tokens=40, ignore_eos=True))
    batch.step()
    batch.add(ids("zyxwv"), SamplingParams(max_new_tokens=1))
    model.passes.clear()
    batch.step()
    assert model.passes[0][4] == 2


def test_prompts_that_come_together_share_a_pass():
    model = Counting()
    batch = Batch(loaded(model), slots=4, capacity=100, prefill_tokens=50)
    for text in "abcd":
        batch.add(ids(text * 20), SamplingParams(max_new_tokens=2, ignore_eos=True))
    batch.step()
    batch.step()
    assert model.passes == [{0: 20, 1: 20, 2: 10}, {0: 1, 1: 1, 2: 10, 3: 20}]


def test_one_that_is_given_up_leaves_nothing_behind():
    model = Counting()
    batch = Batch(loaded(model), slots=2, capacity=300, prefill_tokens=100)
    params = SamplingParams(max_new_tokens=6)
    prompts = ["a", "b" * 250, "c", "b" * 250 + "!"]
    for prompt in prompts:
        batch.add(ids(prompt), params)
    done: dict[int, Generation] = {}
    run(batch, done, steps=1)
    assert (batch.running, batch.waiting) == (2, 2)
    assert batch.cancel(1)  # in the middle of its prompt
    assert batch.cancel(2)  # before it began
    assert not batch.cancel(2)
    assert not batch.cancel(77)
    run(batch, done)
    assert not batch.cancel(0)
    assert sorted(done) == [0, 3]
    for index in done:
        assert done[index] == complete(loaded(), [ids(prompts[index])], params)[0]
    # What was computed of the one that was given up served the last one.
    fed = sum(count for counts in model.passes for count in counts.values())
    assert fed == 1 + 5 + 251 + 5


def test_a_conversation_goes_on_from_what_was_computed():
    model = Counting()
    batch = Batch(loaded(model), slots=2, capacity=300)
    params = SamplingParams(max_new_tokens=30, ignore_eos=True)
    first: dict[int, Generation] = {}
    batch.add(ids("tell me something"), params)
    run(batch, first)
    turn = [*ids("tell me something"), *first[0].tokens, *ids(" and then?")]
    model.passes.clear()
    batch.add(turn, params)
    second: dict[int, Generation] = {}
    run(batch, second)
    # The last token that was generated had not been computed yet.
    assert sum(model.passes[0].values()) == len(" and then?") + 1
    assert second[1] == complete(loaded(), [turn], params)[0]


def test_a_full_cache_ends_a_completion():
    batch = Batch(loaded(), slots=1, capacity=10)
    done: dict[int, Generation] = {}
    batch.add(ids("12345"), SamplingParams(ignore_eos=True))
    run(batch, done)
    # The last token generated need not be in the cache.
    assert (len(done[0].tokens), done[0].finish) == (6, "length")


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("", {}, "the prompt is empty"),
        ("x" * 11, {}, "the prompt has 11 tokens, the cache holds 10"),
        ("x", {"num_beams": 2}, "cannot search with 2 beams"),
        ("x", {"top_p": 0}, "top_p = 0"),
    ],
    ids=["empty", "long", "beams", "settings"],
)
def test_what_makes_no_sense_is_refused_and_the_rest_goes_on(prompt, params, message):
    batch = Batch(loaded(), slots=1, capacity=10)
    batch.add(ids("ab"), SamplingParams(max_new_tokens=2))
    with pytest.raises(UsageError, match=message) as error:
        batch.add(ids(prompt), SamplingParams(**params))
    assert error.value.hint
    done: dict[int, Generation] = {}
    run(batch, done)
    assert sorted(done) == [0]


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(UsageError, match="0 slots"):
        Batch(loaded(), slots=0)
    with pytest.raises(UsageError, match="not a causal language model"):
        Batch(loaded(object()))
