"""Rows to a radix tree to shards: what is shared is there once, nothing is lost, and the same suite gives the same plan."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_model import ByteTokenizer, ScriptedModel

from llmasos.api import UsageError
from llmasos_evals.scoring.encoding import PairEncoder, Scored
from llmasos_evals.scoring.engine import open_engine
from llmasos_evals.scoring.plan import CHUNK, PlanSettings, plan_rows, shared_chunks, split_units
from llmasos_evals.scoring.tree import build, packed

SMALL = PlanSettings(shard_tokens=12)
EVERY_MODE = [PlanSettings(), PlanSettings(invariant=True), PlanSettings(mode="reference")]


def scored(ids: list[int], targets: int) -> Scored:
    return Scored(tuple(ids), min(targets, len(ids) - 1))


# Few different ids, so that rows share beginnings; every row has at least one input and one target.
ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=9), st.integers(1, 8)), min_size=1, max_size=30
).map(lambda rows: [scored(ids, targets) for ids, targets in rows])


def contents(shard) -> list[tuple[tuple[int, ...], int]]:
    return [((*row.inputs.tolist(), int(row.wanted[-1])), len(row.wanted)) for row in shard.tree.rows()]


def prefixes(rows) -> set[tuple[int, ...]]:
    return {row.ids[:end] for row in rows for end in range(1, len(row.ids))}


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(EVERY_MODE), st.sampled_from([1, 12, 10_000]))
def test_every_request_finds_its_row(rows, chosen, shard_tokens):
    chosen = PlanSettings(chosen.mode, chosen.invariant, shard_tokens=shard_tokens)
    plan = plan_rows(rows, units=[index // 3 for index in range(len(rows))], settings=chosen)
    every = [row for shard in plan.shards for row in contents(shard)]
    assert [shard.first for shard in plan.shards] == np.cumsum([0, *map(len, plan.shards)])[:-1].tolist()
    assert [every[place] for place in plan.row_of] == [(row.ids, row.targets) for row in rows]
    if chosen.mode == "tree" and not chosen.invariant:
        assert len(every) == len(set(every)) == plan.counts.rows


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(EVERY_MODE))
def test_the_ideal_counts_are_those_of_a_tree_of_all_prefixes(rows, chosen):
    counts = plan_rows(rows, units=range(len(rows)), settings=chosen).counts
    needed = {row.ids[:end] for row in rows for end in range(len(row.ids) - row.targets, len(row.ids))}
    assert counts.ideal_tokens == len(prefixes(rows))
    assert counts.ideal_logit_rows == len(needed)
    assert counts.requested_tokens == sum(len(row.ids) - 1 for row in rows)
    if chosen == PlanSettings():
        assert (counts.tokens, counts.logit_rows) == (counts.ideal_tokens, counts.ideal_logit_rows)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_requests(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    for chosen in (SMALL, PlanSettings(invariant=True, shard_tokens=12)):
        plan = plan_rows(rows, units=range(len(rows)), settings=chosen)
        other = plan_rows([rows[i] for i in order], units=order, settings=chosen)
        assert [shard.digest for shard in other.shards] == [shard.digest for shard in plan.shards]
        assert other.row_of.tolist() == plan.row_of[order].tolist()


def test_the_formula_of_a_multiple_choice_task():
    documents, shared, question, choices, answer = 7, 20, 5, 4, 3
    rows, fresh = [], iter(range(10_000))
    head = [next(fresh) for _ in range(shared)]
    for _ in range(documents):
        ask = [next(fresh) for _ in range(question)]
        rows += [Scored((*head, *ask, *(next(fresh) for _ in range(answer))), answer) for _ in range(choices)]
    counts = plan_rows(rows, units=[0] * len(rows)).counts
    assert counts.ideal_tokens == shared + documents * (question + choices * (answer - 1))
    assert counts.ideal_logit_rows == documents * (1 + choices * (answer - 1))
    assert counts.requested_tokens == documents * choices * (shared + question + answer - 1)


def test_equal_requests_of_two_tasks_are_one_row_and_empty_ones_none():
    rows = [Scored((1, 2, 3), 1), Scored((1, 2, 3), 2), Scored((5,), 0), Scored((1, 2, 3), 1)]
    plan = plan_rows(rows, units=[0, 0, 1, 2])
    assert plan.row_of.tolist() == [0, 1, -1, 0]
    assert (plan.counts.requests, plan.counts.rows) == (4, 2)


def test_without_requests_there_is_nothing_to_do():
    plan = plan_rows([], units=[])
    assert (plan.shards, plan.counts.ideal_tokens, plan.counts.tokens) == ((), 0, 0)


def test_equal_units_are_computed_once_when_invariant():
    one, other = [Scored((1, 2, 3), 1), Scored((1, 2, 4), 1)], [Scored((1, 2, 3), 1)]
    plan = plan_rows(
        [*one, *other, *reversed(one)], units=[0, 0, 1, 2, 2], settings=PlanSettings(invariant=True)
    )
    assert plan.counts.rows == 3
    assert plan.row_of[[0, 1]].tolist() == plan.row_of[[4, 3]].tolist()
    assert plan.row_of[2] not in plan.row_of[[0, 1]]  # its bits may be others: it is alone in its unit


def subjects(count: int, documents: int, shared: int, own: int) -> list[Scored]:
    """Documents that begin alike within a subject."""
    rows = []
    for subject in range(count):
        head = [subject] * shared
        for document in range(documents):
            rows += [Scored((*head, *([1000 + document] * own), letter), 1) for letter in range(4)]
    return rows


def test_shards_are_cut_where_little_is_shared():
    rows = subjects(count=12, documents=20, shared=30, own=10)
    plan = plan_rows(rows, units=range(len(rows)), settings=PlanSettings(shard_tokens=400))
    assert len(plan.shards) == 6  # two subjects of 230 tokens each
    assert all(400 <= shard.tree.nodes <= 800 for shard in plan.shards)
    assert plan.counts.tokens == plan.counts.ideal_tokens


def test_a_long_shared_beginning_makes_shards_longer_rather_than_wasteful():
    rows = subjects(count=1, documents=500, shared=100, own=20)
    plan = plan_rows(rows, units=range(len(rows)), settings=PlanSettings(shard_tokens=200))
    assert len(plan.shards) > 1
    assert plan.counts.tokens <= 1.05 * plan.counts.ideal_tokens


def test_a_shard_survives_a_pickle():
    rows = subjects(count=3, documents=4, shared=8, own=3)
    for shard in plan_rows(rows, units=range(len(rows)), settings=SMALL).shards:
        again = pickle.loads(pickle.dumps(shard))
        assert contents(again) == contents(shard)
        assert (again.digest, again.settings) == (shard.digest, shard.settings)
        with pytest.raises(ValueError, match="read-only"):
            shard.tree.tokens[0] = 1


def test_the_digest_is_over_what_decides_the_answers():
    rows = subjects(count=2, documents=4, shared=8, own=3)

    def digests(rows, **options):
        plan = plan_rows(rows, units=[i // 4 for i in range(len(rows))], settings=PlanSettings(**options))
        return [shard.digest for shard in plan.shards]

    assert digests(rows) == digests(rows)
    assert digests(rows, budget=7) != digests(rows)
    assert digests(rows, invariant=True, budget=7) == digests(rows, invariant=True)
    assert digests(rows, mode="reference", budget=7) == digests(rows, mode="reference")
    assert digests([*rows[:-1], Scored(rows[-1].ids, 2)]) != digests(rows)


def test_invariant_units_share_whole_chunks_that_nothing_scores():
    head = list(range(2 * CHUNK + 10))
    unit = [Scored((*head, 7, 8), 1), Scored((*head, 9, 9), 1)]
    early = [Scored((*head, 7, 8), CHUNK - 10), Scored((*head, 9, 9), 1)]
    short = [Scored((1, 2), 1)]
    rows = [*unit, *early, *short]
    plan = plan_rows(rows, units=[0, 0, 1, 1, 2], settings=PlanSettings(invariant=True))
    (shard,) = plan.shards
    found = sorted(len(shared_chunks(part)) for part in split_units(shard))
    assert found == [0, CHUNK, 2 * CHUNK]


@pytest.mark.parametrize("length", [1, 8, 9, 20, 41])
@pytest.mark.parametrize("stride", [None, 1, 3, 8])
def test_windows_score_every_token_once(length, stride):
    encoder = PairEncoder(ByteTokenizer(), 8)
    tokens = list(range(1, length + 1))
    windows = encoder.windows(tokens, stride=stride)
    assert [token for w in windows for token in w.ids[len(w.ids) - w.targets :]] == tokens
    assert all(len(window.ids) <= 9 for window in windows)
    assert all(window.targets <= (stride or 8) for window in windows[1:])
    if stride is not None:
        # A window that is not the first reads all the model can: its targets have the most context there is.
        assert all(len(window.ids) == 9 for window in windows[1:])


def test_a_stride_that_the_model_cannot_hold_is_refused():
    for stride in (0, 9):
        with pytest.raises(UsageError, match=f"stride of {stride}"):
            PairEncoder(ByteTokenizer(), 8).windows([1, 2, 3], stride=stride)


def test_the_reference_engine_answers_a_shard():
    model = ScriptedModel()
    rows = [Scored((1, 2, 3), 2), Scored((1, 2, 4), 1), Scored((9, 8, 7, 6), 3)]
    plan = plan_rows(rows, units=[0, 0, 1], settings=PlanSettings(mode="reference"))
    answers = {a.row: a for s in plan.shards for a in open_engine(model, plan.settings).run(s)}
    assert [len(b.starts) - 1 for b in model.batches] == [2, 1]
    for row, place in zip(rows, plan.row_of, strict=True):
        cut = len(row.ids) - row.targets
        total, greedy = model.answer(row.ids[:cut], row.ids[cut:])
        assert answers[place].logprob == pytest.approx(total, abs=1e-5)
        assert answers[place].is_greedy is greedy


def test_a_tree_in_another_order_holds_the_same_rows():
    keys = [packed(ids) for ids in ([1, 2, 3], [4, 5], [1, 2, 4])]
    tree = build(keys, [1, 1, 2])
    assert [row.inputs.tolist() for row in tree.rows()] == [[1, 2], [4], [1, 2]]
    assert tree.nodes == 5
    assert [row.inputs.tolist() for row in tree.part(1, 3).rows()] == [[4], [1, 2]]
