"""Filters: from what the model wrote to what is scored.

A pipeline takes the answers to one request (one, or ``repeats`` of them) through its steps. Steps as in
lm-evaluation-harness 0.4.13, ``filters/``. The last step is usually ``take_first``, which leaves a single answer.
"""

from __future__ import annotations

import difflib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmasos.api import EvaluationError, InputError, LlmasosError
from llmasos_evals.patience import Patience
from llmasos_evals.tasks.config import FilterSpec

Doc = Mapping[str, Any]
#: Answers of one request, and the document -> answers, or one answer after ``take_first``.
Step = Callable[[Any, Doc], Any]

INVALID = "[invalid]"
#: Where a pattern is left out: a number after four number signs, as in GSM8K.
NUMBER_PATTERN = r"#### (\-?[0-9\.\,]+)"


def regex(regex_pattern: str = NUMBER_PATTERN, group_select: int = 0, fallback: str = INVALID) -> Step:
    """The ``group_select``-th match of the pattern, stripped; ``fallback`` when nothing matches."""
    pattern = re.compile(regex_pattern)

    def one(answer: Any) -> str:
        found = pattern.findall(answer if isinstance(answer, str) else "")
        if not found:
            return fallback
        match = _select(found, group_select)
        if isinstance(match, tuple):  # alternatives: the first group that took part
            match = next((group for group in match if group), fallback)
        return str(match).strip()

    def apply(answers: Any, doc: Doc) -> list[str]:
        with Patience("step regex"):
            return [one(answer) for answer in answers]

    return apply


def multi_choice_regex(
    regex_pattern: str = NUMBER_PATTERN,
    group_select: int = 0,
    fallback: str = INVALID,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    regexes_to_ignore: Sequence[str] | None = None,
) -> Step:
    """The letter of the answer, as ``(A)``: by the pattern, else by the text of a choice, else by ``: A``.

    The document's column ``choices`` has the choices in the order of the letters.
    """
    pattern = re.compile(regex_pattern)

    def cleaned(text: str) -> str:
        for ignored in regexes_to_ignore or ():
            text = re.sub(ignored, "", text)
        text = text.lower() if ignore_case else text
        return text.translate(_unicode_punctuation()) if ignore_punctuation else text

    def find(searched: re.Pattern[str], text: str, letters: Mapping[str, str]) -> str:
        found = searched.findall(text)
        if not found:
            return ""
        match = _select(found, group_select)
        if isinstance(match, tuple):
            match = next((group for group in match if group), "")
        match = match.strip()
        return letters.get(match, match)

    def apply(answers: Any, doc: Doc) -> list[str]:
        letters = [chr(ord("A") + number) for number in range(len(doc["choices"]))]
        with Patience("step multi_choice_regex"):
            texts = [cleaned(choice.strip()) for choice in doc["choices"]]
        # Longest first: alternation takes the leftmost branch, and one choice may begin another.
        by_text = re.compile("|".join(sorted((re.escape(text) for text in texts), key=len, reverse=True)))
        by_letter = re.compile(rf":[\s]*({'|'.join(letters)})")
        text_letter = {text: f"({letter})" for text, letter in zip(texts, letters, strict=True)}
        bare_letter = {letter: f"({letter})" for letter in letters}
        out = []
        with Patience("step multi_choice_regex"):
            for answer in answers:
                text = answer if isinstance(answer, str) else ""
                out.append(
                    find(pattern, text, {})
                    or find(by_text, cleaned(text), text_letter)
                    or find(by_letter, text, bare_letter)
                    or fallback
                )
        return out

    return apply


def take_first() -> Step:
    """The first answer."""
    return lambda answers, doc: answers[0]


def take_first_k(k: int) -> Step:
    """The first ``k`` answers."""

    def apply(answers: Any, doc: Doc) -> Any:
        if len(answers) < k:
            raise EvaluationError(
                f"filter take_first_k needs {k} answers a document, there are {len(answers)}",
                hint=f"set `repeats: {k}` in the task file",
            )
        return answers[:k]

    return apply


def majority_vote() -> Step:
    """The most frequent answer, the earliest of equals."""
    return lambda answers, doc: [Counter(answers).most_common(1)[0][0]]


def lowercase() -> Step:
    """Answers in lower case."""
    return lambda answers, doc: [answer.lower() for answer in answers]


def uppercase() -> Step:
    """Answers in upper case."""
    return lambda answers, doc: [answer.upper() for answer in answers]


def remove_whitespace() -> Step:
    """Answers without white space at both ends."""
    return lambda answers, doc: [answer.strip() for answer in answers]


def mapped(mapping_dict: Mapping[Any, Any] | None = None, default_value: Any = None) -> Step:
    """What the mapping gives for each answer."""
    table = dict(mapping_dict or {})
    return lambda answers, doc: [table.get(answer, default_value) for answer in answers]


def custom(filter_fn: Callable[[Any, Any], Any]) -> Step:
    """A function of the task's own: it gets lists of answers and documents, here always of one."""
    return lambda answers, doc: next(iter(filter_fn([answers], [doc])))


#: What models call the kinds of names, and the tags they stand for.
_ENTITY_TAGS = {
    "person": "PER",
    "location": "LOC",
    "organization": "ORG",
    "counties": "LOC",
    "places": "LOC",
    "people": "PER",
    "persons": "PER",
    "company": "ORG",
    "country": "LOC",
    "continent": "LOC",
    "time": "DATE",
    "date": "DATE",
    "per": "PER",
    "loc": "LOC",
    "org": "ORG",
}
_ENTITIES = re.compile(r"\b(PER|LOC|ORG|DATE):\s*([^$]+)")
_TAGGED_WORD = re.compile(r"\('[^']*', '([^']*)'\)")


def format_span() -> Step:
    """Named entities as ``per: a name $ loc: a place``, from lines or ``$$`` groups of ``kind: name, name``.

    Entities called ``none`` are left out.
    """

    def one(answer: str) -> str:
        text = answer.lower()
        for kind, tag in _ENTITY_TAGS.items():
            text = re.sub(rf"\b{re.escape(kind)}\s*:", f"{tag}:", text)
        text = text.replace("$$", "$").rstrip("$").replace("\n", "$").strip()
        found = (
            (tag.lower(), name.strip()) for tag, names in _ENTITIES.findall(text) for name in names.split(",")
        )
        return " $ ".join(f"{tag}: {name}" for tag, name in found if name.lower() != "none")

    return lambda answers, doc: [one(answer) for answer in answers]


def regex_pos(
    regex_pattern: str = r"\['(.*?)'\]", group_select: int = 0, fallback: Sequence[str] | None = None
) -> Step:
    """The tags of ``('word', 'TAG')`` pairs in an answer; ``fallback``, or ``["invalid"]``, when there are none.

    The options exist because task files give them; lm-evaluation-harness takes no notice of them either.
    """
    re.compile(regex_pattern)
    otherwise = ["invalid"] if fallback is None else fallback

    def one(answer: Any) -> Any:
        tags = _TAGGED_WORD.findall(answer) if isinstance(answer, str) else [tag for _, tag in answer]
        return tags or otherwise

    return lambda answers, doc: [one(answer) for answer in answers]


def from_class(made: Any) -> Step:
    """A filter object of the task's own: ``apply`` gets lists of answers and documents, here always of one."""
    return lambda answers, doc: next(iter(made.apply([answers], [doc])))


#: Step names in task files.
STEPS: dict[str, Callable[..., Step]] = {
    "regex": regex,
    "multi_choice_regex": multi_choice_regex,
    "take_first": take_first,
    "take_first_k": take_first_k,
    "majority_vote": majority_vote,
    "lowercase": lowercase,
    "uppercase": uppercase,
    "remove_whitespace": remove_whitespace,
    "map": mapped,
    "custom": custom,
    "format_span": format_span,
    "regex_pos": regex_pos,
}


class Pipeline:
    """A named list of steps."""

    def __init__(self, name: str, steps: Sequence[Step]) -> None:
        self.name = name
        self.steps = tuple(steps)

    def __call__(self, answers: Sequence[Any], doc: Doc) -> Any:
        value: Any = list(answers)
        for step in self.steps:
            value = step(value, doc)
        return value


def build_pipeline(spec: FilterSpec, source: Path, classes: Mapping[str, Any] | None = None) -> Pipeline:
    """The pipeline of one ``filter_list`` entry; ``classes`` are filters that the task's code registered by name.

    Raises InputError for unknown steps, options or patterns.
    """
    return Pipeline(
        spec.name, [_step(spec.name, step, options, source, classes or {}) for step, options in spec.steps]
    )


def _step(
    pipeline: str, step: Any, options: Mapping[str, Any], source: Path, classes: Mapping[str, Any]
) -> Step:
    name = step if isinstance(step, str) else getattr(step, "__name__", "filter")
    own = classes.get(step) if isinstance(step, str) else step
    if own is None and name not in STEPS:
        known = sorted({*STEPS, *classes})
        near = difflib.get_close_matches(name, known, n=1)
        guess = f", did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}"
        raise InputError(f"{source}: filter {pipeline!r}: no step {name!r}{guess}")
    try:
        if own is None:
            return STEPS[name](**options)
        made = own(**options)
    except LlmasosError:
        raise
    except Exception as error:  # a class of the task's own may raise anything
        raise InputError(f"{source}: filter {pipeline!r}, step {name}: {error}") from error
    if not callable(getattr(made, "apply", None)):
        raise InputError(
            f"{source}: filter {pipeline!r}: {name} makes {type(made).__name__}, which has no `apply`",
            hint="a plain function can be a filter: `function: custom`, `filter_fn: !function module.name`",
        )
    return from_class(made)


def _select(found: Sequence[Any], number: int) -> Any:
    try:
        return found[number]
    except IndexError as error:
        raise EvaluationError(
            f"a filter asks for match {number} where the pattern matched {len(found)} times",
            hint="`group_select` counts matches from 0, or from the end with -1",
        ) from error


@lru_cache(maxsize=1)
def _unicode_punctuation() -> dict[int, None]:
    return dict.fromkeys(i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P"))
