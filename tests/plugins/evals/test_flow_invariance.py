"""With ``--batch-invariant`` nothing about how a run is done is in its record; without, not the number of workers.

The thorough version of the property is slow; a small one of each kind runs by default.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow_suite import TASKS, run_apart, run_suite, samples, write_suite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = tuple(TASKS)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def whole(suite: Path) -> dict[str, Any]:
    """The record of an undisturbed run, and its samples beside it in ``whole``."""
    return dict(run_suite(suite, suite / "whole").record)


@pytest.fixture(scope="module")
def fresh(suite: Path) -> Iterator[int]:
    return iter(range(10**6))


WAYS = {
    "names": st.permutations(NAMES).map(tuple),
    "token_budget": st.sampled_from([None, 1, 7, 64, 1000, 100_000]),
    "batch_size": st.integers(1, 9),
    "shard_tokens": st.sampled_from([1, 150, 700, 4000, 10**6]),
}


def check_same(suite: Path, whole: dict[str, Any], output: Path, **ways: Any) -> None:
    record = run_suite(suite, output, **ways).record
    assert record["samples_digest"] == whole["samples_digest"]
    assert record["digest"] == whole["digest"]
    assert record["run_key"] == whole["run_key"]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ways=st.fixed_dictionaries(WAYS))
def test_budget_order_batch_and_shards_change_nothing(
    suite: Path, whole: dict[str, Any], fresh: Iterator[int], ways: dict[str, Any]
) -> None:
    check_same(suite, whole, suite / f"way{next(fresh)}", **ways)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ways=st.fixed_dictionaries({**WAYS, "workers": st.sampled_from([1, 1, 1, 2, 3])}))
def test_budget_order_batch_shards_and_workers_change_nothing(
    suite: Path, whole: dict[str, Any], fresh: Iterator[int], ways: dict[str, Any]
) -> None:
    check_same(suite, whole, suite / f"way{next(fresh)}", **ways)


def test_two_workers_give_the_record_of_one(suite: Path, whole: dict[str, Any]) -> None:
    check_same(suite, whole, suite / "two", workers=2, token_budget=100)


@pytest.mark.parametrize("limit", [1, 5, 11])
def test_a_document_is_the_same_under_every_limit(suite: Path, whole: dict[str, Any], limit: int) -> None:
    run_suite(suite, suite / f"limit{limit}", limit=limit, token_budget=64)
    expected = samples(suite / "whole")
    found = samples(suite / f"limit{limit}")
    assert len(found) == limit * len(NAMES)
    assert found == {key: expected[key] for key in found}


def test_a_document_is_the_same_wherever_it_stands(
    suite: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Other documents around it, in another order: the answers to the same questions have the same bits."""
    write_suite(tmp_path)
    path = tmp_path / "tasks" / "documents.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[::-1][:7], lines[0]]))
    # Few-shot examples are drawn from the file; without them the questions are the same.
    run_suite(tmp_path, tmp_path / "out", ("again", "last_word", "prose", "story"))
    expected = {
        (task, line["doc_digest"]): line["responses"] for (task, _), line in samples(suite / "whole").items()
    }
    found = samples(tmp_path / "out")
    assert len(found) == 32
    for (task, _), line in found.items():
        assert line["responses"] == expected[task, line["doc_digest"]]


def killed_and_resumed(suite: Path, output: Path, kills: list[int], **ways: Any) -> dict[str, Any]:
    """Processes of their own that die by SIGKILL; this one, which knows nothing of them, goes on."""
    for count in kills:
        if run_apart(suite, output, kill_after=count, **ways) == 0:
            break
    run_suite(suite, output, **ways)
    record: dict[str, Any] = json.loads((output / "record.json").read_text())
    return record


def test_killed_in_the_middle_the_record_is_the_same(
    suite: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    # Two workers at the time of the kill; the run before this one says what one gives, and another test what two do.
    assert run_apart(suite, tmp_path / "out", kill_after=19, workers=2) == -signal.SIGKILL
    record = killed_and_resumed(suite, tmp_path / "out", [])
    assert record["digest"] == whole["digest"]
    assert record["timings"]["documents_resumed"] == 19


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    kills=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    ways=st.fixed_dictionaries({**WAYS, "workers": st.sampled_from([1, 1, 2])}),
)
def test_killed_again_and_again_the_record_is_the_same(
    suite: Path, whole: dict[str, Any], fresh: Iterator[int], kills: list[int], ways: dict[str, Any]
) -> None:
    record = killed_and_resumed(suite, suite / f"kill{next(fresh)}", kills, **ways)
    assert record["digest"] == whole["digest"]


# ---- without --batch-invariant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["tree", "reference"])
def test_workers_or_a_kill_change_nothing_by_default_either(suite: Path, tmp_path: Path, engine: str) -> None:
    ways: dict[str, Any] = {"batch_invariant": False, "engine": engine, "threads": 1}
    one = run_suite(suite, tmp_path / "one", **ways).record
    if engine == "tree":
        other = run_suite(suite, tmp_path / "two", tuple(reversed(NAMES)), workers=2, **ways).record
        assert other["execution"]["workers"] == 2
    else:
        other = killed_and_resumed(suite, tmp_path / "killed", [23], **ways)
    assert other["digest"] == one["digest"]


def test_the_budget_is_part_of_what_decides_by_default(suite: Path, tmp_path: Path) -> None:
    records = [
        run_suite(
            suite, tmp_path / str(budget), ("again",), batch_invariant=False, token_budget=budget
        ).record
        for budget in (64, 1000)
    ]
    assert records[0]["run_key"] != records[1]["run_key"]
    assert records[0]["scorer"]["plan"]["budget"] == 64


def test_equal_requests_are_computed_once_over_all_tasks(suite: Path, tmp_path: Path) -> None:
    ways: dict[str, Any] = {"batch_invariant": False, "limit": 4}
    alone = run_suite(suite, tmp_path / "alone", ("again",), **ways).record["execution"]
    (suite / "tasks" / "twin.yaml").write_text(
        (suite / "tasks" / "again.yaml").read_text().replace("task: again", "task: twin")
    )
    both = run_suite(suite, tmp_path / "both", ("again", "twin"), **ways).record["execution"]
    assert both["requests"] == 2 * alone["requests"]
    assert both["unique_requests"] == alone["unique_requests"]
    assert both["tokens_computed"] == alone["tokens_computed"] == alone["ideal_tokens"]
