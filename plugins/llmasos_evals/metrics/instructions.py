"""The 25 kinds of instruction of IFEval, each a check that a program can make of a response.

Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models". The rules are those of the authors' published
checks in the version of lm-evaluation-harness 0.4.13, against which they are tested; the code is our own. Arguments come
from documents: a keyword is a regular expression, as there. Differences: an argument that is missing is an error (theirs
draws a random one), and so a letter to count may be any character (theirs draws another for ``#``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from llmasos.api import EvaluationError, MissingDependency
from llmasos_evals.metrics.base import need

#: Splits a text into sentences.
Sentences = Callable[[str], list[str]]
Check = Callable[[str, Mapping[str, Any], Sentences], bool]

#: Answers that ``constrained_response`` allows.
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
#: After these a full stop ends no sentence, in the rule that needs no trained model.
_ABBREVIATIONS = frozenset(
    re.split(
        " ",
        "mr mrs ms dr prof rev hon st sr jr gen col maj capt lt sgt gov sen rep pres inc ltd co corp dept univ assn bros "
        "etc e.g i.e cf vs al approx est fig no nos vol pp ed eds jan feb mar apr jun jul aug sep sept oct nov dec "
        "a.m p.m u.s u.k u.n ph.d m.d b.a m.a d.c",
    )
)


# ---- words, sentences, language ---------------------------------------------------------------------------------------


def splitter(kind: str) -> Sentences:
    """``rule``: Punkt's rules with a list of abbreviations and nothing learnt; ``punkt``: NLTK's English model.

    Raises MissingDependency when NLTK or its model is not there.
    """
    need("nltk", "ifeval")
    return _rule() if kind == "rule" else _punkt()


@lru_cache(maxsize=1)
def _rule() -> Sentences:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    split: Sentences = PunktSentenceTokenizer(parameters).tokenize
    return split


@lru_cache(maxsize=1)
def _punkt() -> Sentences:
    from nltk.tokenize import PunktTokenizer

    try:
        split: Sentences = PunktTokenizer("english").tokenize
    except LookupError as error:
        raise MissingDependency(
            "ifeval: NLTK's sentence model punkt_tab is not installed",
            hint="python -m nltk.downloader punkt_tab, or `sentences: rule` in the metric's options",
        ) from error
    return split


def words_of(text: str, sentences: Sentences) -> list[str]:
    """Words and punctuation as NLTK's ``word_tokenize`` parts them."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in sentences(text) for word in tokenizer.tokenize(sentence)]


@lru_cache(maxsize=1)
def _languages() -> Any:
    """langdetect with a seed of its own: without one its answer on short texts changes from call to call."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


@lru_cache(maxsize=4096)
def language_of(text: str) -> str | None:
    """langdetect's ISO 639-1 code, None for a text without letters. Kept: four metrics ask for the same texts."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = _languages().create()
    try:
        detector.append(text)
        return str(detector.detect())
    except LangDetectException:
        return None


def is_language(text: str, language: str) -> bool:
    """Whether ``text`` is in ``language``; a text without letters counts as any, as in the original."""
    return language_of(text) in (language, None)


# ---- checks -----------------------------------------------------------------------------------------------------------


def _compared(count: int, given: Mapping[str, Any], limit: str, relation: str) -> bool:
    if given[relation] == "less than":
        return count < int(given[limit])
    if given[relation] == "at least":
        return count >= int(given[limit])
    raise EvaluationError(f"ifeval: unknown relation {given[relation]!r}")


def _keywords(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return all(re.search(keyword, text, re.IGNORECASE) for keyword in given["keywords"])


def _keyword_frequency(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    found = re.findall(str(given["keyword"]).strip(), text, re.IGNORECASE)
    return _compared(len(found), given, "frequency", "relation")


def _forbidden_words(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in given["forbidden_words"])


def _letter_frequency(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    count = text.lower().count(str(given["letter"]).strip().lower())
    return _compared(count, given, "let_frequency", "let_relation")


def _response_language(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return is_language(text, str(given["language"]))


def _number_sentences(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return _compared(len(split(text)), given, "num_sentences", "relation")


def _number_words(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return _compared(len(re.findall(r"\w+", text)), given, "num_words", "relation")


def _number_paragraphs(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    """Parted by ***; an empty one is allowed only at either end."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    full = [bool(part.strip()) for part in parts]
    return all(full[1:-1]) and sum(full) == int(given["num_paragraphs"])


def _first_word(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    """Paragraphs are parted by an empty line; the number of full ones must be right as well as the word."""
    parts = text.split("\n\n")
    full = sum(bool(part.strip()) for part in parts)
    wanted = int(given["nth_paragraph"])
    if wanted > full or not parts[wanted - 1].strip():
        return False
    word = parts[wanted - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    return full == int(given["num_paragraphs"]) and first == str(given["first_word"]).lower()


def _number_placeholders(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= int(given["num_placeholders"])


def _postscript(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    marker = str(given["postscript_marker"]).strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, marker.lower())
    return re.search(pattern, text.lower()) is not None


def _number_bullets(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == int(given["num_bullets"])


def _constrained_response(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return any(answer in text for answer in _ANSWERS)


def _number_highlights(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    """*so* and **so**; the outer form counts for both patterns as far as they match, as in the original."""
    single = sum(bool(part.strip("*").strip()) for part in re.findall(r"\*[^\n\*]*\*", text))
    double = sum(bool(part[2:-2].strip()) for part in re.findall(r"\*\*[^\n\*]*\*\*", text))
    return single + double >= int(given["num_highlights"])


def _multiple_sections(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    mark = str(given["section_spliter"]).strip()
    return len(re.split(rf"\s?{mark}\s?\d+\s?", text)) - 1 >= int(given["num_sections"])


def _json_format(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    parts = [part.strip() for part in text.split("******")]
    full = [part for part in parts if part]
    return all(parts[1:-1]) and len(full) == 2 and full[0] != full[1]


def _repeat_prompt(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return text.strip().lower().startswith(str(given["prompt_to_repeat"]).strip().lower())


def _end(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return text.strip().strip('"').lower().endswith(str(given["end_phrase"]).strip().lower())


def _quotation(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_words(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    count = sum(word.isupper() for word in words_of(text, split))
    return _compared(count, given, "capital_frequency", "capital_relation")


def _english_capital(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return text.isupper() and is_language(text, "en")


def _english_lowercase(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return text.islower() and is_language(text, "en")


def _no_comma(text: str, given: Mapping[str, Any], split: Sentences) -> bool:
    return "," not in text


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullets,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlights,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}


def follows(instruction: str, given: Mapping[str, Any], text: str, split: Sentences) -> bool:
    """Whether ``text`` follows one instruction; an empty text follows none.

    Raises EvaluationError for an unknown instruction and for one that lacks an argument.
    """
    check = CHECKS.get(instruction)
    if check is None:
        raise EvaluationError(f"ifeval: unknown instruction {instruction!r}")
    try:
        return bool(text.strip()) and check(text, given, split)
    except KeyError as error:
        raise EvaluationError(f"ifeval: instruction {instruction} lacks its argument {error}") from error
    except (re.error, ValueError, TypeError) as error:
        raise EvaluationError(f"ifeval: instruction {instruction}: {error}") from error


def loosened(text: str) -> list[str]:
    """The response as it is and without its first line, its last line, both; each also without asterisks."""
    lines = text.split("\n")
    forms = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*forms, *(form.replace("*", "") for form in forms)]
