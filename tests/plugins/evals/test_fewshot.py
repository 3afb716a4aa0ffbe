"""Few-shot draws: what they depend on, and what they must not depend on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, load, plans, write_rows, write_task

from llmasos.api import InputError
from llmasos_evals.digests import digest
from llmasos_evals.tasks.fewshot import HarnessDraw, NativeDraw

POOL = [{"n": n} for n in range(12)]
SELF = {**CHOICE, "fewshot_split": "test"}


def native(
    doc: dict[str, Any], *, shots: int = 3, seed: int = 7, task: str = "t", pool: Any = POOL, **kind: Any
) -> list[int]:
    return list(NativeDraw(task, pool, shots, seed, **kind)(-1, doc, digest(doc)))


def test_native_draws_are_a_function_of_seed_task_and_document() -> None:
    doc = {"n": 100}
    assert native(doc) == native(doc)
    others = [native(doc, seed=8), native(doc, task="u"), native({"n": 101})]
    assert all(other != native(doc) for other in others)


@pytest.mark.parametrize("first", [False, True])
def test_native_draws_never_contain_the_document(first: bool) -> None:
    pool = [*POOL, {"n": 3}]  # once more
    for doc in pool:
        drawn = native(doc, shots=5, pool=pool, first=first)
        assert len(set(drawn)) == 5
        assert all(pool[position] != doc for position in drawn)


def test_native_draws_leave_out_the_row_of_the_document_itself() -> None:
    """A few-shot rule may have changed the row, so that it is no longer equal to the document."""
    drawn = [NativeDraw("t", POOL, 11, 7, same_rows=True)(n, {"m": n}, digest({"m": n})) for n in range(12)]
    assert [set(range(12)) - set(positions) for positions in drawn] == [{n} for n in range(12)]


def test_an_example_that_asks_the_same_is_said(tmp_path: Path) -> None:
    rows = [{"id": n, "question": f"What is {n // 2}?", "options": ["a", "b"], "right": 0} for n in range(6)]
    task = load(write_task(tmp_path, rows=rows, **SELF))
    plans(task, shots=5)
    assert task.notes == ("6 of 6 documents have an example with the very question that is asked",)
    plans(load(write_task(tmp_path, **SELF)), shots=5)


def test_one_document_alone_is_asked_what_it_is_asked_among_all(tmp_path: Path) -> None:
    for compat in ("native", "lm-eval"):
        task = load(write_task(tmp_path, **SELF))
        whole = plans(task, shots=3, compat=compat)
        chosen = plans(task, shots=3, compat=compat, documents={17, 4})
        assert chosen == [whole[4], whole[17]]
    with pytest.raises(InputError, match="has no document 20"):
        plans(task, documents=[20])


def test_native_draws_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **SELF))
    whole = {planned.index: planned.requests for planned in plans(task, shots=3)}
    again = {
        planned.index: planned.requests
        for planned in plans(load(write_task(tmp_path, **SELF)), shots=3, limit=5)
    }
    assert all(whole[index] == requests for index, requests in again.items())
    reordered = load(write_task(tmp_path, **SELF))
    assert [p.requests for p in plans(reordered, shots=3, seed=1)] != list(whole.values())


def test_chosen_rows_are_the_whole_pool(tmp_path: Path) -> None:
    task = load(
        write_task(tmp_path, **SELF, fewshot_config={"fewshot_indices": [0, -1, 4], "sampler": "first_n"})
    )
    context = plans(task, limit=3, shots=2)[2].requests[0].context
    assert context.startswith("What is 1 + 1? 2\n\nWhat is 20 + 20? 40\n\n")
    with pytest.raises(InputError, match="names row 99"):
        plans(load(write_task(tmp_path, **SELF, fewshot_config={"fewshot_indices": [99]})), shots=1)


@pytest.mark.parametrize("compat", ["native", "lm-eval"])
def test_a_pool_that_is_too_small_is_an_error(tmp_path: Path, compat: str) -> None:
    with pytest.raises(InputError, match="few-shot examples are needed, the pool has"):
        plans(load(write_task(tmp_path, **SELF)), shots=30, compat=compat)


def test_harness_stream_is_one_generator_a_task() -> None:
    draw = HarnessDraw("t", POOL, 2, 1234, leave_out=False)
    stream = random.Random(1234)
    for doc in POOL[:4]:
        assert draw(0, doc, "") == [POOL.index(row) for row in stream.sample(POOL, 2)]


def test_harness_draws_one_more_and_drops_the_document() -> None:
    draw = HarnessDraw("t", POOL, 2, 1234, leave_out=True)
    stream = random.Random(1234)
    for doc in POOL:
        expected = [row for row in stream.sample(POOL, 3) if row != doc][:2]
        assert [POOL[position] for position in draw(0, doc, "")] == expected


def test_harness_draws_again_when_equal_rows_make_it_too_few() -> None:
    pool = [{"n": 0}] * 6 + [{"n": 1}, {"n": 2}]
    draw = HarnessDraw("t", pool, 2, 1234, leave_out=True)
    stream = random.Random(1234)
    for _ in range(5):
        expected = [row for row in stream.sample(pool, 3) if row != {"n": 0}][:2]
        if len(expected) < 2:
            expected = stream.sample([row for row in pool if row != {"n": 0}], 2)
        assert [pool[position] for position in draw(0, {"n": 0}, "")] == expected


def test_harness_leaks_the_document_where_we_do_not(tmp_path: Path) -> None:
    """Test-only tasks: its pool is the test split without the document being taken out (its issue 4145)."""

    def leaks(compat: str) -> int:
        task = load(write_task(tmp_path, **CHOICE))
        return sum(
            p.doc["question"] in p.requests[0].context.rpartition("\n\n")[0]
            for p in plans(task, shots=5, compat=compat)
        )

    assert leaks("lm-eval") > 0
    assert leaks("native") == 0


def test_a_zero_in_the_file_binds_only_the_harness(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **SELF, num_fewshot=0))
    assert (task.shots(2, "lm-eval"), task.shots(2, "native"), task.shots(None)) == (0, 2, 0)


def test_pool_order_is_own_split_then_samples_then_training(tmp_path: Path) -> None:
    train = write_rows(
        tmp_path / "train.jsonl", [{"question": "from train", "options": ["a", "b"], "right": 0}] * 3
    )
    files = {"data_files": {"test": "sums.jsonl", "train": train.name}}
    base = {**CHOICE, "dataset_kwargs": files, "training_split": "train", "num_fewshot": 1}
    assert (
        plans(load(write_task(tmp_path, **base)), limit=1)[0]
        .requests[0]
        .context.startswith("from train a\n\n")
    )
    samples = [{"question": "from samples", "options": ["x", "y"], "right": 1}]
    given = load(write_task(tmp_path, **base, fewshot_config={"samples": samples}))
    assert plans(given, limit=1)[0].requests[0].context.startswith("from samples y\n\n")


def test_a_missing_split_matters_only_when_it_is_drawn_from(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **CHOICE, training_split="train"))
    assert len(plans(task, limit=2)) == 2
    with pytest.raises(InputError, match="reads split 'train', for which it has no data file"):
        plans(task, shots=1)
