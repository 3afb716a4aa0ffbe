"""The tree engine on a model whose every answer is known: nothing computed twice, and the reference's answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_model import ScriptedModel as RowModel

from llmasos.api import EvaluationError
from llmasos.testing.doubles import ScriptedModel
from llmasos_evals.scoring import engine as engine_module
from llmasos_evals.scoring import plan as plan_module
from llmasos_evals.scoring import tiles
from llmasos_evals.scoring.encoding import Scored
from llmasos_evals.scoring.engine import TreeEngine, open_engine
from llmasos_evals.scoring.plan import Answer, PlanSettings, plan_rows
from llmasos_evals.scoring.reference import ReferenceEngine
from llmasos_evals.scoring.tiles import Tiler
from llmasos_evals.scoring.tree import build, packed

MODEL = ScriptedModel(6, max_length=30)
#: Few different ids, so that rows share beginnings.
ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=16), st.integers(1, 15)),
    min_size=1,
    max_size=16,
).map(lambda rows: [Scored(tuple(ids), min(targets, len(ids) - 1)) for ids, targets in rows])


@pytest.fixture
def small(monkeypatch):
    """Sizes at which small trees are taken apart as large ones are."""

    def change(block: int, chunk: int = 128) -> None:
        monkeypatch.setattr(tiles, "BLOCK", block)
        monkeypatch.setattr(plan_module, "CHUNK", chunk)
        monkeypatch.setattr(engine_module, "CHUNK", chunk)

    return change


def run(rows, chosen: PlanSettings, model=MODEL, units=None):
    """(answer of each request, the plan, the engine)."""
    plan = plan_rows(rows, units=units or range(len(rows)), settings=chosen)
    engine = open_engine(model, chosen)
    answers: dict[int, Answer] = {}
    for shard in plan.shards:
        for answer in engine.run(shard):
            assert answer.row not in answers
            answers[answer.row] = answer
    assert len(answers) == plan.counts.rows
    return [answers[row] for row in plan.row_of], plan, engine


def assert_same(found, expected, tolerance=1e-5):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=tolerance)
        assert mine.is_greedy is theirs.is_greedy


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    budget=st.sampled_from([1, 2, 3, 7, 20, 1000]),
    block=st.sampled_from([1, 3, 9, 96]),
    shard_tokens=st.sampled_from([5, 60, 10_000]),
    invariant=st.booleans(),
)
def test_any_tree_in_any_tiles_is_the_reference(rows, budget, block, shard_tokens, invariant):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", block)
        for module in (plan_module, engine_module):
            patch.setattr(module, "CHUNK", 2)
        expected, _, _ = run(rows, PlanSettings(mode="reference"))
        chosen = PlanSettings(budget=budget, shard_tokens=shard_tokens, invariant=invariant)
        found, plan, engine = run(rows, chosen, units=[index // 3 for index in range(len(rows))])
    assert_same(found, expected)
    assert engine.work.tokens == plan.counts.tokens
    assert engine.work.logit_rows == plan.counts.logit_rows


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, budget=st.integers(1, 40), block=st.sampled_from([1, 4, 96]))
def test_tiles_cover_a_tree_once(rows, budget, block):
    keys = sorted({packed(row.ids) for row in rows})
    tree = build(keys, [1] * len(keys))
    tiler, begin = Tiler(tree), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", block)
        while begin < tiler.nodes:
            tile = tiler.tile(begin, budget)
            assert 0 < len(tile.tokens) <= budget
            assert tile.starts[-1] == len(tile.tokens)
            for mask in tile.visible:
                assert mask is None or (len(mask) <= block and np.array_equal(mask, np.tril(mask)))
                assert mask is None or mask.diagonal().all()
            begin = tile.end
    assert begin == len({row.ids[:end] for row in rows for end in range(1, len(row.ids))})


def test_a_position_with_many_targets_costs_one_row_of_logits():
    rows = [Scored((1, 2, 3, answer), 1) for answer in range(5)] + [Scored((1, 2, 3), 2)]
    found, plan, engine = run(rows, PlanSettings())
    assert (engine.work.tokens, engine.work.logit_rows, engine.work.passes) == (3, 3, 1)
    assert plan.counts.requested_tokens == 5 * 3 + 2
    assert_same(found, run(rows, PlanSettings(mode="reference"))[0])


def test_shared_context_in_one_tile_and_answers_in_the_next():
    rows = [Scored((1, 2, 3, 4, answer, 5), 2) for answer in range(4)]
    for budget in range(1, 9):
        found, _, engine = run(rows, PlanSettings(budget=budget))
        assert engine.work.tokens == 4 + 4
        assert_same(found, run(rows, PlanSettings(mode="reference"))[0])


def test_no_mask_is_larger_than_a_small_subtree(small):
    small(block=8)
    head = [1, 2]
    contexts = [[*head, *([0] * (number % 3)), *range(10 * number, 10 * number + 4)] for number in range(20)]
    rows = [Scored((*context, 7, answer, 8), 2) for context in contexts for answer in range(3)]
    keys = sorted(packed(row.ids) for row in rows)
    tile = Tiler(build(keys, [2] * len(keys))).tile(0, 10_000)
    assert len(tile.tokens) > 100
    assert 3 < max(len(mask) for mask in tile.visible if mask is not None) <= 8


def test_a_model_without_paths_is_scored_in_full_and_that_is_said():
    rows = [Scored((1, 2, 3, answer), 1) for answer in range(5)]
    model, said = RowModel(), []
    engine = open_engine(model, PlanSettings(), warn=said.append)
    assert isinstance(engine, ReferenceEngine)
    assert len(said) == 1
    assert (engine.name, open_engine(MODEL, PlanSettings()).name) == ("reference", "tree")
    plan = plan_rows(rows, units=[0] * 5)
    answers = sorted(engine.run(plan.shards[0]))
    assert [answer.logprob for answer in answers] == pytest.approx(
        [model.answer(row.ids[:3], row.ids[3:])[0] for row in rows], abs=1e-5
    )


class Forgetful(ScriptedModel):
    """Runs out of memory over more than ``room`` tokens."""

    room = 20

    def hidden(self, batch, cache=None):
        if len(batch.tokens) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().hidden(batch, cache)


def test_a_pass_that_does_not_fit_is_halved_and_that_is_remembered():
    rows = [Scored(tuple((7 * i + k) % 5 for k in range(8 + i % 5)), 3) for i in range(40)]
    model = Forgetful(6, max_length=30)
    found, _, engine = run(rows, PlanSettings(budget=100), model)
    assert isinstance(engine, TreeEngine)
    assert engine.budget == 12  # 100, 50, 25, 12
    assert_same(found, run(rows, PlanSettings(mode="reference"))[0])
    again = open_engine(model, PlanSettings(budget=100), budget=engine.budget)
    assert again.budget == engine.budget


def test_a_device_without_any_room_is_an_error_with_a_hint():
    model = Forgetful(6, max_length=30)
    model.room = 1
    with pytest.raises(EvaluationError, match="no memory") as caught:
        run([Scored(tuple([1] * 20), 3)], PlanSettings(budget=64), model)
    assert caught.value.hint


class Broken(ScriptedModel):
    def token_logprobs(self, hidden, targets, rows=None):
        logprobs, best = super().token_logprobs(hidden, targets, rows)
        return logprobs * float("nan"), best


def test_scores_that_are_not_numbers_are_an_error():
    with pytest.raises(EvaluationError, match="not numbers"):
        run([Scored((1, 2, 3), 1)], PlanSettings(), Broken(6))
