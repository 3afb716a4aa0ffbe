"""Filters, one step at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import filter_cases
import pytest

from llmasos.api import EvaluationError
from llmasos_evals.tasks.config import FilterSpec
from llmasos_evals.tasks.filters import STEPS, build_pipeline

DOC = {"choices": ["red", "Dark red", "blue"]}


def step(name: str, answers: Any, doc: Any = DOC, **options: Any) -> Any:
    return STEPS[name](**options)(answers, doc)


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({}, "so #### 1,234.5 it is", "1,234.5"),
        ({}, "none", "[invalid]"),
        ({"fallback": "?"}, "none", "?"),
        ({"regex_pattern": "(\\d+)", "group_select": -1}, "3 then 4", "4"),
        ({"regex_pattern": "(a)|(b)"}, "xb", "b"),
        ({"regex_pattern": "(a*)|(b*)"}, "x", "[invalid]"),
        ({"regex_pattern": "<(.*)>"}, "<  padded >", "padded"),
        ({}, 7, "[invalid]"),
    ],
)
def test_regex(options: dict[str, Any], answer: Any, expected: str) -> None:
    assert step("regex", [answer], **options) == [expected]


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({"regex_pattern": "\\(([A-C])\\)"}, "it is (B)", "B"),
        ({"regex_pattern": "@"}, "surely Dark red", "(B)"),
        ({"regex_pattern": "@", "ignore_case": True}, "surely DARK RED.", "(B)"),
        ({"regex_pattern": "@", "ignore_punctuation": True}, "b«lue»", "(C)"),
        ({"regex_pattern": "@", "regexes_to_ignore": ["-"]}, "b-l-u-e", "(C)"),
        ({"regex_pattern": "@"}, "answer:  C", "(C)"),
        ({"regex_pattern": "@"}, "answer: D", "[invalid]"),
        ({"regex_pattern": "@"}, None, "[invalid]"),
    ],
)
def test_multi_choice_regex(options: dict[str, Any], answer: Any, expected: str) -> None:
    assert step("multi_choice_regex", [answer], **options) == [expected]


def test_simple_steps() -> None:
    assert step("take_first", ["a", "b"]) == "a"
    assert step("take_first_k", ["a", "b", "c"], k=2) == ["a", "b"]
    assert step("majority_vote", ["b", "a", "a", "b", "c"]) == ["b"]
    assert step("lowercase", ["AbÇ"]) == ["abç"]
    assert step("uppercase", ["aß"]) == ["ASS"]
    assert step("remove_whitespace", [" a\n"]) == ["a"]
    assert step("map", ["x", "y"], mapping_dict={"x": 1}, default_value=0) == [1, 0]
    assert step("custom", ["x"], filter_fn=lambda all_answers, docs: [["y"]]) == ["y"]


def test_too_few_answers_and_matches_are_named() -> None:
    with pytest.raises(EvaluationError, match="needs 3 answers") as caught:
        step("take_first_k", ["a"], k=3)
    assert caught.value.hint == "set `repeats: 3` in the task file"
    with pytest.raises(EvaluationError, match="match 2 where the pattern matched 1 times"):
        step("regex", ["a1"], regex_pattern="\\d", group_select=2)


def test_a_pipeline_goes_from_left_to_right() -> None:
    spec = FilterSpec("p", (("lowercase", {}), ("regex", {"regex_pattern": "[a-z]+"}), ("take_first", {})))
    assert build_pipeline(spec, Path("t.yaml"))(["  ABC def", "GHI"], {}) == "abc"


@pytest.mark.parametrize("name", list(filter_cases.CASES))
def test_filters_are_those_of_the_harness(name: str) -> None:
    step_name, options = filter_cases.CASES[name]
    golden = json.loads((Path(__file__).parent / "filter_goldens.json").read_text(encoding="utf-8"))
    answers = [*filter_cases.ANSWERS, filter_cases.ANSWERS[0]]
    made = step(step_name, answers, filter_cases.DOC, **options)
    assert json.loads(json.dumps(made)) == golden["cases"][name]
