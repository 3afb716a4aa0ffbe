"""Leaderboards: what may stand in one column, in what order, and how rows are tested."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
from registries import InProcess
from result_documents import a_record, packed, samples_of
from test_results_publishing import Author

from llmasos_registry.server.results.paired import compare, flips, mcnemar

VALUES = [1.0, 0.0, 1.0, 1.0] * 5
WORSE = [0.0, 0.0, 1.0, 0.0] * 5


def columns(app: InProcess, query: str = "") -> list[dict[str, Any]]:
    answer = app.get(f"/v1/leaderboards/quick{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["columns"]
    return found


def test_ranks_intervals_and_the_test_against_the_row_above(app: InProcess, tmp_path: Path) -> None:
    ann, bob = Author(app, tmp_path, "ann"), Author(app, tmp_path, "bob")
    better, worse = a_record(VALUES, "better"), a_record(WORSE, "worse")
    for author, record, values in ((bob, worse, WORSE), (ann, better, VALUES)):
        assert author.publish(record).status_code == 201
        assert author.send(record, packed(samples_of(values))).status_code == 201
    (column,) = columns(app)
    assert [(row["rank"], row["model"], row["owner"]) for row in column["rows"]] == [
        (1, "better", "ann"),
        (2, "worse", "bob"),
    ]
    assert column["rows"][0]["above"] is None
    # Ten documents only the better one has right, none only the worse.
    assert column["rows"][1]["above"] == {
        "documents": 20,
        "difference": 0.5,
        "p": pytest.approx(2 / 2**10),
        "test": "McNemar, exact",
    }
    assert column["rows"][1]["ci_low"] == pytest.approx(0.05)
    assert app.get("/v1/leaderboards").json() == {"tasks": [{"task": "quick", "models": 2}]}
    assert app.get("/v1/leaderboards?search=slow").json() == {"tasks": []}


def test_without_samples_there_is_no_test(app: InProcess, tmp_path: Path) -> None:
    ann = Author(app, tmp_path, "ann")
    ann.publish(a_record(VALUES, "a"))
    ann.publish(a_record(WORSE, "b"))
    (column,) = columns(app)
    assert [row["above"] for row in column["rows"]] == [None, None]


@pytest.mark.parametrize(
    "changed",
    [
        {"digest": "1" * 64},
        {"data_digest": "1" * 64},
        {"num_fewshot": 5},
        {"generation": {"until": ["x"]}},
        {"limit": 10},
        {"samples": {"quick": [1, 2]}},
        {"stride": 64},
        {"chat_template_applied": True},
        {"chat_template_name": "tool_use"},
        {"system_instruction": "1" * 64},
    ],
)
def test_what_differs_stands_in_another_column(
    app: InProcess, tmp_path: Path, changed: dict[str, Any]
) -> None:
    ann = Author(app, tmp_path, "ann")
    assert ann.publish(a_record(VALUES, "a")).status_code == 201
    assert ann.publish(a_record(VALUES, "b", **changed)).status_code == 201
    assert [column["models"] for column in columns(app)] == [1, 1]


def test_seed_and_compatibility_matter_only_with_shots(app: InProcess, tmp_path: Path) -> None:
    ann = Author(app, tmp_path, "ann")
    ann.publish(a_record(VALUES, "a"))
    ann.publish(a_record(VALUES, "b", seed=1))
    assert [column["models"] for column in columns(app)] == [2]
    ann.publish(a_record(VALUES, "c", num_fewshot=5))
    ann.publish(a_record(VALUES, "d", num_fewshot=5, seed=1))
    assert [column["models"] for column in columns(app)] == [2, 1, 1]


def test_another_signature_is_another_metric(app: InProcess, tmp_path: Path) -> None:
    ann = Author(app, tmp_path, "ann")
    record, other = a_record(VALUES, "a"), a_record(VALUES, "b")
    scores = [dict(other["tasks"][0]["scores"][0], signature="acc|tie:last|agg:mean|v:1")]
    ann.publish(record)
    ann.publish(a_record(VALUES, "b", scores=scores))
    assert len(columns(app)) == 2


def test_the_newest_record_of_a_model_counts(app: InProcess, tmp_path: Path) -> None:
    ann, bob = Author(app, tmp_path, "ann"), Author(app, tmp_path, "bob")
    ann.publish(a_record(VALUES, "a"))
    ann.publish(a_record(WORSE, "a"))
    bob.publish(a_record([1.0] * 20, "a"))
    (column,) = columns(app)
    assert [(row["owner"], row["value"]) for row in column["rows"]] == [("bob", 1.0), ("ann", 0.25)]


def test_lower_is_better_turns_the_order(app: InProcess, tmp_path: Path) -> None:
    ann = Author(app, tmp_path, "ann")
    for values, model in ((VALUES, "a"), (WORSE, "b")):
        record = a_record(values, model)
        scores = [record["tasks"][0]["scores"][0] | {"higher_is_better": False, "metric": "err"}]
        ann.publish(a_record(values, model, scores=scores))
    (column,) = columns(app)
    assert [row["model"] for row in column["rows"]] == ["b", "a"]
    assert columns(app, "?metric=err") == [column]
    assert app.get("/v1/leaderboards/quick?metric=acc").status_code == 404


def test_a_score_that_is_no_number_has_no_place(app: InProcess, tmp_path: Path) -> None:
    ann = Author(app, tmp_path, "ann")
    scores = [a_record(VALUES)["tasks"][0]["scores"][0] | {"value": "NaN"}]
    assert ann.publish(a_record(VALUES, scores=scores)).status_code == 201
    assert app.get("/v1/leaderboards/quick").status_code == 404


def test_mcnemar_is_the_binomial_test() -> None:
    for b, c in itertools.product(range(6), repeat=2):
        n = b + c
        exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(min(b, c) + 1)) / 2**n) if n else 1.0
        assert mcnemar(b, c) == pytest.approx(exact, rel=1e-12)
    assert mcnemar(60_000, 61_000) == pytest.approx(
        math.erfc(999.5 / math.sqrt(121_000) / math.sqrt(2)), rel=0.01
    )


def test_sign_flips_count_all_of_them() -> None:
    assert flips([1.0, 2.0, 3.0]) == 2 / 8
    assert flips([1.0, -1.0]) == 1.0
    assert flips([]) == 1.0


def test_the_approximation_is_close_to_drawing() -> None:
    draw = random.Random(4)
    first = {str(i): draw.gauss(0.25, 1) for i in range(60)}
    second = dict.fromkeys(first, 0.0)
    found = compare(first, second)
    assert found is not None
    assert found.test == "sign flips, normal approximation"
    seen = abs(sum(first.values()))
    drawn = sum(
        abs(sum(value if draw.random() < 0.5 else -value for value in first.values())) >= seen
        for _ in range(20_000)
    )
    assert found.p == pytest.approx(drawn / 20_000, abs=0.015)


def test_documents_are_matched_by_their_digest() -> None:
    assert compare({"a": 1.0}, {"b": 1.0}) is None
    found = compare({"a": 1.0, "b": 0.0}, {"b": 0.0, "c": 1.0})
    assert found is not None
    assert (found.documents, found.difference, found.p) == (1, 0.0, 1.0)
