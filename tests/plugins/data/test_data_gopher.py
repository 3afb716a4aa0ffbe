"""Processor ``gopher``: every rule on a document small enough to count by hand."""

from __future__ import annotations

from typing import Any

import pytest
from data_samples import PROSE
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos.api import Document, InputError
from llmasos_data.gopher import GopherFilter

#: Every rule off; a test turns its own on.
OFF: dict[str, Any] = dict.fromkeys(
    [
        "min_words",
        "max_words",
        "min_mean_word_length",
        "max_mean_word_length",
        "max_symbol_ratio",
        "max_bullet_lines",
        "max_ellipsis_lines",
        "min_alphabetic_words",
        "min_stop_words",
        "max_duplicate_lines",
        "max_duplicate_paragraphs",
        "max_duplicate_line_characters",
        "max_duplicate_paragraph_characters",
        "max_top_ngram_characters",
        "max_duplicate_ngram_characters",
    ]
)


def broken(text: str, **options: Any) -> tuple[str, str] | None:
    """The rule a text breaks with only these rules on."""
    return GopherFilter({**OFF, **options}, None).broken_rule(text)


@pytest.mark.parametrize(
    ("rule", "limit", "text", "reason", "detail"),
    [
        ("min_words", 50, "one two three", "word_count", "3 < 50"),
        ("max_words", 4, "a b c d e", "word_count", "5 > 4"),
        # (1 + 2 + 3) / 3 = 2
        ("min_mean_word_length", 3, "a bb ccc", "mean_word_length", "2 < 3"),
        # (10 + 12) / 2 = 11
        ("max_mean_word_length", 10, "abcdefghij abcdefghijkl", "mean_word_length", "11 > 10"),
        # 2 hashes, 8 words
        ("max_symbol_ratio", 0.1, "#a #b c d e f g h", "hash_ratio", "0.25 > 0.1"),
        # one of each kind, 8 words
        ("max_symbol_ratio", 0.1, "a... b… c d e f g h", "ellipsis_ratio", "0.25 > 0.1"),
        # 4 of 4 lines; the blank one does not count
        ("max_bullet_lines", 0.9, "• a\n- b\n\n * c\n‣ d", "bullet_lines", "1 > 0.9"),
        # 2 of 4 lines
        ("max_ellipsis_lines", 0.3, "a...\nb… \nc\nd", "ellipsis_lines", "0.5 > 0.3"),
        # 3 of 4 words have a letter
        ("min_alphabetic_words", 0.8, "a1 22 b _c", "alphabetic_words", "0.75 < 0.8"),
        # "the" twice is one stop word
        ("min_stop_words", 2, "the cat saw the dog", "stop_words", "1 < 2"),
        # lines x y x x: 2 of 4 are copies
        ("max_duplicate_lines", 0.3, "x\ny\nx\nx", "duplicate_lines", "0.5 > 0.3"),
        # characters without spaces: aa bbbb aa = 8, copies 2
        ("max_duplicate_line_characters", 0.2, "a a\nbbbb\na a", "duplicate_line_characters", "0.25 > 0.2"),
        # paragraphs p q p: 1 of 3
        ("max_duplicate_paragraphs", 0.3, "p\n\nq\n \np", "duplicate_paragraphs", "0.3333 > 0.3"),
        (
            "max_duplicate_paragraph_characters",
            0.2,
            "p\n\nqq\n\np",
            "duplicate_paragraph_characters",
            "0.25 > 0.2",
        ),
        # "ab cd" three times: 3 * 4 of 18 characters
        (
            "max_top_ngram_characters",
            {"2": 0.2},
            "ab cd x ab cd yy ab cd zzz",
            "top_2gram_characters",
            "0.6667 > 0.2",
        ),
        # overlapping copies count once: all 4 of 4 characters
        ("max_top_ngram_characters", {"2": 0.2}, "a a a a", "top_2gram_characters", "1 > 0.2"),
        # "a b c" twice: 6 of 8
        ("max_top_ngram_characters", {"3": 0.18}, "a b c x a b c y", "top_3gram_characters", "0.75 > 0.18"),
        (
            "max_top_ngram_characters",
            {"4": 0.16},
            "a b c d x a b c d y",
            "top_4gram_characters",
            "0.8 > 0.16",
        ),
        # the second "a b c d e": 5 of 12
        (
            "max_duplicate_ngram_characters",
            {"5": 0.15},
            "a b c d e x a b c d e y",
            "duplicate_5gram_characters",
            "0.4167 > 0.15",
        ),
        # copies of 5-grams at 6 and 7 overlap: words 6 to 11, 6 of 12
        (
            "max_duplicate_ngram_characters",
            {"5": 0.15},
            "a b c d e f a b c d e f",
            "duplicate_5gram_characters",
            "0.5 > 0.15",
        ),
        (
            "max_duplicate_ngram_characters",
            {"6": 0.14},
            "a b c d e f x a b c d e f y",
            "duplicate_6gram_characters",
            "0.4286 > 0.14",
        ),
        (
            "max_duplicate_ngram_characters",
            {"10": 0.1},
            "a b c d e f g h i j x a b c d e f g h i j y",
            "duplicate_10gram_characters",
            "0.4545 > 0.1",
        ),
    ],
)
def test_each_rule_triggers_with_its_number(
    rule: str, limit: Any, text: str, reason: str, detail: str
) -> None:
    assert broken(text) is None
    assert broken(text, **{rule: limit}) == (reason, detail)
    value = float(detail.split()[0])
    loose = dict.fromkeys(limit, value + 0.01) if isinstance(limit, dict) else None
    if rule.startswith("max"):
        assert broken(text, **{rule: loose if loose is not None else int(value) + 1}) is None
    else:
        assert broken(text, **{rule: int(value)}) is None


def test_good_prose_passes_with_the_published_thresholds() -> None:
    decision = next(GopherFilter({}, None).process([Document("1", PROSE)]))
    assert decision.kept
    assert decision.reason == ""


def test_stop_words_are_found_behind_punctuation_and_in_capitals() -> None:
    assert broken('"The end," and... THAT!', min_stop_words=3) is None


def test_an_empty_document_is_dropped_by_its_word_count() -> None:
    decision = next(GopherFilter({}, None).process([Document("1", " \n ")]))
    assert (decision.kept, decision.reason, decision.detail) == (False, "word_count", "0 < 50")
    assert broken(" \n ", max_bullet_lines=0.9, max_top_ngram_characters={"2": 0.2}) is None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=0, max_size=40), st.integers(2, 10))
def test_ngram_shares_equal_a_plain_count(words: list[str], size: int) -> None:
    """The incremental search finds what counting every n-gram finds."""
    text = " ".join(words)
    grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    covered = {at + k for at, gram in enumerate(grams) if gram in grams[:at] for k in range(size)}
    share = len(covered) / len(words) if words else 0.0
    found = broken(text, max_duplicate_ngram_characters={str(size): 0.0})
    assert found == (None if not covered else (f"duplicate_{size}gram_characters", f"{share:.4g} > 0"))
    top = max((grams.count(gram) for gram in grams), default=0)
    best = max((gram for gram in grams if grams.count(gram) == top), default=())
    inside = {at + k for at, gram in enumerate(grams) if gram == best for k in range(size)}
    found = broken(text, max_top_ngram_characters={str(size): 0.0})
    expected = f"{len(inside) / len(words):.4g} > 0" if top > 1 else None
    assert found == (None if expected is None else (f"top_{size}gram_characters", expected))


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="did you mean `min_words`"):
        GopherFilter({"min_word": 3}, None)
    with pytest.raises(InputError, match="n-gram size `one`"):
        GopherFilter({"max_top_ngram_characters": {"one": 0.1}}, None)
