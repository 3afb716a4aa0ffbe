"""Answers of earlier runs: used when nothing that decides them differs, and never believed when they are no answers."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flow_suite import TASKS, run_suite, samples, write_suite

from llmasos_evals.scoring.response_cache import ResponseCache


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, documents=6)


def work(suite: Path, name: str, *tasks: str, **settings: Any) -> dict[str, Any]:
    return dict(run_suite(suite, suite / name, tasks or tuple(TASKS), cache=True, **settings).record)


def cached(record: dict[str, Any]) -> int:
    return int(record["execution"]["cached_requests"])


def test_a_second_run_computes_nothing_and_gives_the_same_record(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dict(run_suite(suite, suite / "whole").record)
    first = work(suite, "first")
    assert cached(first) == 0
    assert first["digest"] == whole["digest"]
    monkeypatch.setattr(
        "llmasos_evals.scoring.stage.ModelSource.load", lambda *_: pytest.fail("the weights were asked for")
    )
    second = work(suite, "second")
    assert second["digest"] == whole["digest"]
    assert cached(second) > 0
    assert second["execution"]["shards"] == 0


@pytest.mark.parametrize("invariant", [True, False])
def test_another_limit_computes_what_is_new(suite: Path, invariant: bool) -> None:
    few = work(suite, "few", "again", "story", limit=4, batch_invariant=invariant)
    more = work(suite, "more", "again", "story", batch_invariant=invariant)
    assert cached(few) == 0 < cached(more)
    assert more["execution"]["unique_requests"] < few["execution"]["unique_requests"]
    expected, found = samples(suite / "few"), samples(suite / "more")
    assert {key: found[key] for key in expected} == expected
    if invariant:
        whole = run_suite(suite, suite / "whole", ("again", "story")).record
        assert more["digest"] == whole["digest"]


def test_rows_of_another_unit_are_no_answer_where_bits_may_depend_on_the_unit(suite: Path) -> None:
    """The same questions as another task asks, but each document with other choices beside them."""
    text = (suite / "tasks" / "again.yaml").read_text()
    (suite / "tasks" / "fewer.yaml").write_text(
        text.replace("task: again", "task: fewer").replace(', "light blue"]', "]").replace("{{answer}}", "0")
    )
    work(suite, "again", "again")
    assert cached(work(suite, "fewer", "fewer")) == 0
    work(suite, "again-default", "again", batch_invariant=False)
    assert cached(work(suite, "fewer-default", "fewer", batch_invariant=False)) > 0


@pytest.mark.parametrize(
    "settings",
    [{"batch_invariant": False}, {"batch_invariant": False, "token_budget": 64}, {"dtype": "fast"}],
    ids=str,
)
def test_another_way_of_computing_shares_no_answers(suite: Path, settings: dict[str, Any]) -> None:
    work(suite, "first", "again")
    assert cached(work(suite, "other", "again", **settings)) == 0


def test_other_weights_share_no_answers(suite: Path) -> None:
    from llmasos.testing.checkpoints import write_checkpoint

    work(suite, "first", "again")
    write_checkpoint(
        suite / "model", "llama", seed=1, max_position_embeddings=512, hidden_size=32, intermediate_size=48
    )
    assert cached(work(suite, "other", "again")) == 0


def test_without_the_option_nothing_is_kept(suite: Path) -> None:
    run_suite(suite, suite / "first", ("again",))
    assert not (suite / "cache" / "evals" / "responses").exists()


@pytest.mark.parametrize("answer", ["null", "[1, true]", '["x", 0.5]', "{", "[0.5]", '[NaN, "yes"]'])
def test_what_is_no_answer_is_computed_again(suite: Path, answer: str) -> None:
    whole = work(suite, "first", "again", "story")
    (base,) = (suite / "cache" / "evals" / "responses").glob("*.sqlite")
    with sqlite3.connect(base) as connection:
        connection.execute("UPDATE answers SET answer = ?", (answer,))
    again = work(suite, "second", "again", "story")
    assert cached(again) == 0
    assert again["digest"] == whole["digest"]


def test_a_damaged_file_is_a_warning(suite: Path) -> None:
    from llmasos.testing.doubles import RecordedProgress

    whole = work(suite, "first", "again")
    (base,) = (suite / "cache" / "evals" / "responses").glob("*.sqlite")
    base.write_bytes(b"no data base at all" * 1000)
    progress = RecordedProgress()
    again = work(suite, "second", "again", progress=progress)
    assert again["digest"] == whole["digest"]
    (warning,) = progress.warnings
    assert warning.startswith(f"the response cache {base} cannot be used: ")


def test_two_writers_share_a_file(tmp_path: Path) -> None:
    with ResponseCache(tmp_path, {"a": 1}) as one, ResponseCache(tmp_path, {"a": 1}) as two:
        keys = [bytes([n]) * 32 for n in range(200)]
        one.put((key, [float(n), True]) for n, key in enumerate(keys[:150]))
        two.put((key, [-1.0, False]) for key in keys[100:])
        assert one.get(keys) == two.get(keys)
        assert one.get(keys)[keys[120]] == [120.0, True]  # what is known stays
        assert len(one.get(keys)) == 200
    with ResponseCache(tmp_path, {"a": 2}) as other:
        assert other.get(keys) == {}
        assert other.trouble is None
