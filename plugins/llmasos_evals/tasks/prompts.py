"""Putting a prompt together from turns, with the delimiter rules of lm-evaluation-harness 0.4.13."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's part of a prompt; ``delimiter`` follows it where prompts are plain text."""

    role: str
    content: str
    delimiter: str = ""


def as_text(turns: Sequence[Turn]) -> str:
    """Turns as one plain text."""
    return "".join(turn.content + turn.delimiter for turn in turns)


def joined(left: str | None, right: str, delimiter: str) -> str:
    """``left`` and ``right`` with the delimiter between them, unless a space is there already."""
    if not left or not right:
        return (left or "") + right
    return left + (delimiter if _touching(left, right) else "") + right


def _touching(left: str, right: str) -> bool:
    """Whether no white space is on either side of the join."""
    return bool(left) and not (left[-1].isspace() or right[:1].isspace())


def question_turns(question: str, *, target_delimiter: str, prefix: str | None = None) -> list[Turn]:
    """The question that the model is to answer; ``prefix`` already begins the answer."""
    if not prefix:
        return [Turn("user", question)]
    between = target_delimiter if _touching(question, prefix) else ""
    return [Turn("user", question, between), Turn("assistant", prefix)]


def example_turns(
    question: str,
    answer: Any,
    choices: Sequence[Any] | None,
    *,
    target_delimiter: str,
    fewshot_delimiter: str,
    prefix: str | None = None,
) -> list[Turn]:
    """A solved example. ``answer`` is text, the number of a choice, or a list whose first entry is shown.

    Raises TypeError when question or answer is not text, IndexError for a number that names no choice.
    """
    if not isinstance(question, str):
        raise TypeError(f"the question is {type(question).__name__}, not text")
    if answer is None or answer == "":
        return question_turns(question, target_delimiter=target_delimiter, prefix=prefix)
    if choices and isinstance(answer, int):
        answer = choices[answer]
    elif isinstance(answer, list):
        answer = answer[0]
    if not isinstance(answer, str):
        raise TypeError(f"the answer is {type(answer).__name__}, not text")
    between = target_delimiter if not prefix or _touching(question, prefix) else ""
    return [
        Turn("user", question, between),
        Turn("assistant", joined(prefix, answer, " "), fewshot_delimiter),
    ]
