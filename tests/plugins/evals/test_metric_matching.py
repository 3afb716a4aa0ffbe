"""Answers that hold, begin with or end with what was asked for; grades of choices."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos.api import ChoiceOutcome, EvaluationError, GenerationOutcome, InputError
from llmasos_evals.metrics.matching import ChoiceGrade, Includes, Match


def said(answer: Any, *references: str) -> GenerationOutcome:
    return GenerationOutcome(answer, references, multiple=len(references) > 1)


@pytest.mark.parametrize(
    ("options", "answer", "wanted", "value"),
    [
        ({}, "The answer is Paris.", "paris", 1.0),
        ({}, "Paris is the answer", "paris", 0.0),
        ({"location": "begin"}, '"Paris" it is', "Paris", 1.0),
        ({"location": "any"}, "it is Paris, I think", "Paris", 1.0),
        ({"location": "exact"}, " Paris! ", "Paris", 1.0),
        ({"location": "exact"}, "in Paris", "Paris", 0.0),
        ({"ignore_case": False}, "PARIS", "Paris", 0.0),
        ({"numeric": True}, "that makes $1,234.50", "1234.5", 1.0),
        ({"numeric": True}, "first 7, then 25", "5", 0.0),
        ({"numeric": True}, "first 7, then 25.", "25", 1.0),
        ({"numeric": True, "location": "begin"}, "7 or 25", "7.0", 1.0),
        ({"numeric": True, "location": "any"}, "7 or 25 or 9", "25", 1.0),
        ({"numeric": True, "location": "exact"}, "**25**", "25", 1.0),
        ({"numeric": True}, "none at all", "25", 0.0),
        ({"numeric": True}, "it is not a number", "a number", 1.0),
        ({"numeric": True}, "inf", "inf", 1.0),
    ],
)
def test_match(options: dict[str, Any], answer: str, wanted: str, value: float) -> None:
    assert Match(**options).item(said(answer, wanted)) == value


def test_any_reference_will_do_and_answers_are_averaged() -> None:
    assert Match().item(said("a cat", "dog", "cat")) == 1.0
    assert Includes().item(said(["a CAT here", "a cow"], "cat")) == 0.5
    assert Includes(ignore_case=False).item(said("a CAT", "cat")) == 0.0
    assert Match().item(said([], "cat")) == 0.0


def test_grades() -> None:
    outcome = ChoiceOutcome((-1.0, -0.5), (False, True), ("a", "b"), (0,), doc={"scores": [1.0, 0.25]})
    assert ChoiceGrade().item(outcome) == 0.25
    with pytest.raises(EvaluationError, match="needs a column `scores`"):
        ChoiceGrade().item(ChoiceOutcome((-1.0,), (True,), ("a",), (0,)))
    with pytest.raises(EvaluationError, match="cannot score"):
        ChoiceGrade().item(said("x", "x"))


def test_options_and_signatures() -> None:
    with pytest.raises(InputError, match="location 'middle'"):
        Match(location="middle")
    assert Match(numeric=True).signature == "match|at:end|case:lower|numeric:yes|agg:mean|v:1"
    assert Includes().signature != Includes(ignore_case=False).signature
