"""Whether an answer holds what was asked for: text or a number, anywhere or at one end; and graded choices.

Semantics of the scorers ``match`` and ``includes`` of inspect, and of BIG-bench's ``multiple_choice_grade``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from llmasos.api import ChoiceOutcome, EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.metrics.likelihood import best

_PLACES = ("begin", "end", "any", "exact")
#: What stands in and around numbers without being part of them.
_AROUND_NUMBERS = str.maketrans("", "", "$€£,*_")
_EDGES = string.whitespace + string.punctuation


class Match(AggregatedMetric):
    """1 when an answer begins with, ends with, holds or is the reference, else 0; of several references any will do.

    White space and punctuation around both do not count, nor does case unless asked. ``numeric``: a reference that is a
    number is compared as one (five significant digits) with the first or last number of the answer, or with any.
    """

    name = "match"

    def __init__(self, location: str = "end", ignore_case: bool = True, numeric: bool = False) -> None:
        super().__init__()
        if location not in _PLACES:
            raise InputError(f"metric {self.name}: location {location!r} is none of {', '.join(_PLACES)}")
        self.location = location
        self.ignore_case = bool(ignore_case)
        self.numeric = bool(numeric)

    def details(self) -> Mapping[str, str]:
        """Where, and how it is compared."""
        return {
            "at": self.location,
            "case": "lower" if self.ignore_case else "mixed",
            "numeric": "yes" if self.numeric else "no",
        }

    def item(self, outcome: Outcome) -> float:
        """The share of the answers that match; usually there is one."""
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        answers = outcome.prediction if isinstance(outcome.prediction, list) else [outcome.prediction]
        found = [
            any(self.matches(str(answer), wanted) for wanted in outcome.references) for answer in answers
        ]
        return sum(found) / len(found) if found else 0.0

    def matches(self, answer: str, wanted: str) -> bool:
        """Whether one answer matches one reference."""
        answer, wanted = answer.strip(), wanted.strip()
        if self.ignore_case:
            answer, wanted = answer.casefold(), wanted.casefold()
        if self.numeric and (number := _number(wanted)) is not None:
            return self._same_number(answer, number)
        answer, wanted = answer.strip(_EDGES), wanted.strip(_EDGES)
        match self.location:
            case "begin":
                return answer.startswith(wanted)
            case "end":
                return answer.endswith(wanted)
            case "any":
                return wanted in answer
            case _:
                return answer == wanted

    def _same_number(self, answer: str, wanted: str) -> bool:
        if self.location == "exact":
            return _number(answer) == wanted
        numbers = [number for word in answer.split() if (number := _number(word)) is not None]
        if self.location == "any":
            return wanted in numbers
        return bool(numbers) and numbers[0 if self.location == "begin" else -1] == wanted


class Includes(AggregatedMetric):
    """1 when the reference is a part of the answer, else 0; of several references any will do."""

    name = "includes"

    def __init__(self, ignore_case: bool = True) -> None:
        super().__init__()
        self.ignore_case = bool(ignore_case)

    def details(self) -> Mapping[str, str]:
        """How it is compared."""
        return {"case": "lower" if self.ignore_case else "mixed"}

    def item(self, outcome: Outcome) -> float:
        """The share of the answers that hold it; usually there is one."""
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        answers = outcome.prediction if isinstance(outcome.prediction, list) else [outcome.prediction]
        found = [any(self._holds(str(answer), wanted) for wanted in outcome.references) for answer in answers]
        return sum(found) / len(found) if found else 0.0

    def _holds(self, answer: str, wanted: str) -> bool:
        return wanted.casefold() in answer.casefold() if self.ignore_case else wanted in answer


class ChoiceGrade(AggregatedMetric):
    """The grade of the most likely choice: the document's column ``scores`` has one for each choice."""

    name = "multiple_choice_grade"

    def details(self) -> Mapping[str, str]:
        """How ties are resolved."""
        return {"tie": "first"}

    def item(self, outcome: Outcome) -> float:
        """The grade of one document. Raises EvaluationError when it has no grades."""
        if not isinstance(outcome, ChoiceOutcome):
            raise self.cannot_score(outcome)
        grades: Any = outcome.doc.get("scores")
        if not isinstance(grades, list) or len(grades) != len(outcome.choices):
            raise EvaluationError(
                f"metric {self.name} needs a column `scores` with a grade for each choice",
                hint="for right and wrong choices use `acc`",
            )
        return float(grades[best(outcome.logprobs)])


def _number(text: str) -> str | None:
    """A number in one form, to five significant digits; None for what is none."""
    try:
        value = float(text.translate(_AROUND_NUMBERS).rstrip("."))
    except ValueError:
        return None
    return f"{value:.5g}" if value == value and abs(value) != float("inf") else None
