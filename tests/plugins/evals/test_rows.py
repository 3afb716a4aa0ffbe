"""Rows do what ``datasets.Dataset`` does; the orders and values below are those of ``datasets`` 5.2.0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmasos.api import InputError
from llmasos_evals.datasets.rows import Rows, concatenate

TEN = [{"n": i, "w": "x" * (i % 3)} for i in range(10)]
MIXED = [
    {"a": {"x": 1}, "l": [{"p": 1}], "m": 1},
    {"a": {"x": 2, "y": "q"}, "l": [{"q": 2.5}, {"p": 3}], "m": 2.5},
    {"a": None, "l": None, "m": None},
]


def numbers(rows: Any) -> list[int]:
    return [row["n"] for row in rows]


def test_shuffle_is_the_permutation_of_the_library() -> None:
    assert numbers(Rows(TEN).shuffle(seed=42)) == [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]


def test_shuffle_without_a_seed_follows_the_global_state_of_numpy() -> None:
    state = np.random.get_state()
    try:
        np.random.seed(1234)
        rows = Rows(TEN)
        assert numbers(rows.shuffle()) == [8, 9, 5, 0, 2, 6, 4, 7, 1, 3]
        assert numbers(rows.shuffle()) == [1, 9, 7, 5, 2, 4, 8, 3, 6, 0]
    finally:
        np.random.set_state(state)


@pytest.mark.parametrize(
    ("settings", "train", "test"),
    [
        ({"test_size": 0.25, "seed": 7}, [1, 3, 6, 2, 4, 5, 9], [8, 0, 7]),
        ({"test_size": 3, "train_size": 4, "seed": 7}, [1, 3, 6, 2], [8, 0, 7]),
        ({"test_size": 0.3, "shuffle": False}, [0, 1, 2, 3, 4, 5, 6], [7, 8, 9]),
    ],
)
def test_train_test_split(settings: dict[str, Any], train: list[int], test: list[int]) -> None:
    parts = Rows(TEN).train_test_split(**settings)
    assert (numbers(parts["train"]), numbers(parts["test"])) == (train, test)


def test_order_and_choice() -> None:
    rows = Rows(TEN)
    assert numbers(rows.sort("w")) == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    assert numbers(rows.sort(["w", "n"], reverse=[True, False])) == [2, 5, 8, 1, 4, 7, 0, 3, 6, 9]
    assert [numbers(rows.shard(3, i)) for i in range(3)] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert numbers(rows.shard(3, 1, contiguous=False)) == [1, 4, 7]
    assert numbers(rows.skip(8)) == [8, 9]
    assert numbers(rows.take(2).repeat(2)) == [0, 1, 0, 1]
    assert numbers(rows.filter(lambda row, i: i % 4 == 0, with_indices=True)) == [0, 4, 8]
    assert numbers(rows.filter(lambda b: [n > 7 for n in b["n"]], batched=True, batch_size=3)) == [8, 9]
    gaps = Rows([{"n": 1}, {"n": None}, {"n": 0}])
    assert numbers(gaps.sort("n", reverse=True)) == [1, 0, None]
    assert numbers(gaps.sort("n", null_placement="at_start")) == [None, 0, 1]


def test_numbers_of_a_column_have_one_type_and_structs_from_dicts_the_same_fields() -> None:
    assert Rows.from_list(MIXED).to_list() == [
        {"a": {"x": 1, "y": None}, "l": [{"p": 1, "q": None}], "m": 1.0},
        {"a": {"x": 2, "y": "q"}, "l": [{"p": None, "q": 2.5}, {"p": 3, "q": None}], "m": 2.5},
        {"a": None, "l": None, "m": None},
    ]
    assert Rows(MIXED)[0] == {"a": {"x": 1}, "l": [{"p": 1}], "m": 1.0}
    assert isinstance(Rows(MIXED)[0]["m"], float)


def test_map_merges_what_a_function_changes_with_what_it_returns() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        row.pop("m")
        row["added"] = [1]
        if row["a"]:
            row["a"]["x"] = 99
        return {"z": (1, np.int64(2))}

    rows = Rows(MIXED)
    changed = rows.map(change)
    assert changed.column_names == ["a", "l", "added", "z"]
    assert changed[1]["a"] == {"x": 99, "y": "q"}
    assert changed[0]["z"] == [1, 2]
    assert rows[1]["a"] == {"x": 2, "y": "q"}, "the rows themselves stay as they were"


def test_map_and_columns_that_go() -> None:
    rows = Rows(MIXED)
    assert rows.map(lambda row: {"m": "s"}, remove_columns=["m", "a"]).to_list()[2] == {"l": None, "m": "s"}

    def same_object(row: dict[str, Any]) -> dict[str, Any]:
        row["new"] = 1
        return row

    assert rows.map(same_object, remove_columns=["m", "a"]).column_names == ["l", "new"]


def test_map_in_batches_may_change_the_number_of_rows() -> None:
    def twice(batch: dict[str, list[Any]], numbers: list[int], times: int) -> dict[str, list[Any]]:
        assert len(numbers) <= 4
        return {name: [value for value in values for _ in range(times)] for name, values in batch.items()}

    rows = Rows(TEN).map(
        twice, batched=True, batch_size=4, with_indices=True, fn_kwargs={"times": 2}, num_proc=8
    )
    assert numbers(rows)[:5] == [0, 0, 1, 1, 2]
    assert len(rows) == 20
    with pytest.raises(InputError, match="different lengths"):
        Rows(TEN).map(lambda batch: {"n": [1]}, batched=True)


def test_settings_nobody_knows_are_refused() -> None:
    with pytest.raises(InputError, match="'batchsize'"):
        Rows(TEN).map(lambda row: row, batchsize=2)
    with pytest.raises(InputError, match="not a dict"):
        Rows(TEN).map(lambda row: 1)


def test_columns() -> None:
    rows = Rows(TEN).rename_columns({"n": "number"}).add_column("k", list("abcdefghij"))
    assert rows.select_columns("k").column_names == ["k"]
    assert rows.remove_columns(["number", "w"])[9] == {"k": "j"}
    assert rows.unique("w") == ["", "x", "xx"]
    assert rows[:2]["k"] == ["a", "b"]
    assert rows[[3, 0]]["number"] == [3, 0]
    assert Rows(MIXED).flatten().column_names == ["a.x", "l", "m", "a.y"]
    assert [len(batch["k"]) for batch in rows.iter(4)] == [4, 4, 2]
    assert Rows.from_dict({"a": [1, 2]}).to_list() == [{"a": 1}, {"a": 2}]
    assert len(concatenate([rows, rows])) == 20


def test_rows_handed_out_are_copies() -> None:
    rows = Rows(MIXED)
    rows[0]["l"].append("more")
    next(iter(rows))["l"].append("more")
    assert rows[0]["l"] == [{"p": 1}]
