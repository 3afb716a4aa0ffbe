"""Processor ``gopher``: the quality and repetition rules of Rae et al. 2021 (arXiv 2112.11446), section A1.1 and table A1.

Where the paper leaves room: a word is what stands between white space; lines and paragraphs that are blank do not count; a
*copy* is every occurrence after the first; characters are counted without white space, each at most once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llmasos.api import Decision, Document, HubAPI, read_options

_LETTER = re.compile(r"[^\W\d_]")
_PARAGRAPHS = re.compile(r"\n\s*\n")
_BULLETS = ("•", "‣", "▪", "●", "-", "*")
_ELLIPSES = ("...", "…")


def _top() -> dict[str, float]:
    return {"2": 0.20, "3": 0.18, "4": 0.16}


def _copies() -> dict[str, float]:
    return {"5": 0.15, "6": 0.14, "7": 0.13, "8": 0.12, "9": 0.11, "10": 0.10}


@dataclass(frozen=True, slots=True)
class GopherOptions:
    """A document that breaks a limit is dropped; null turns a rule off. The defaults are the published thresholds."""

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3.0
    max_mean_word_length: float | None = 10.0
    max_symbol_ratio: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alphabetic_words: float | None = 0.8
    min_stop_words: int | None = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    max_duplicate_lines: float | None = 0.30
    max_duplicate_paragraphs: float | None = 0.30
    max_duplicate_line_characters: float | None = 0.20
    max_duplicate_paragraph_characters: float | None = 0.20
    max_top_ngram_characters: Mapping[str, float] | None = field(default_factory=_top)
    max_duplicate_ngram_characters: Mapping[str, float] | None = field(default_factory=_copies)

    def __post_init__(self) -> None:
        for table in (self.max_top_ngram_characters, self.max_duplicate_ngram_characters):
            for size in table or ():
                if not size.isdecimal() or not 2 <= int(size) <= 100:
                    raise ValueError(f"n-gram size `{size}` is not a whole number from 2 to 100")


class GopherFilter:
    """Rules are tried in the order of the options and the first that fails decides. ``detail`` is ``value > limit``."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(GopherOptions, options, what="processor gopher")
        self._stop_words = frozenset(self.options.stop_words)
        self._top = _sizes(self.options.max_top_ngram_characters)
        self._copies = _sizes(self.options.max_duplicate_ngram_characters)

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            broken = self.broken_rule(document.text)
            if broken is None:
                yield Decision(document)
            else:
                yield Decision(document, kept=False, reason=broken[0], detail=broken[1])

    def broken_rule(self, text: str) -> tuple[str, str] | None:
        """The first rule a text breaks and the number that broke it, or None."""
        words = text.split()
        lengths = list(map(len, words))
        for rule in (
            self._words(words, lengths),
            self._symbols(text, words),
            self._lines(text),
            self._vocabulary(words),
            self._repeated_lines(text),
            self._repeated_ngrams(words, lengths),
        ):
            for reason, value, low, high in rule:
                if low is not None and value < low:
                    return reason, f"{value:.4g} < {low:g}"
                if high is not None and value > high:
                    return reason, f"{value:.4g} > {high:g}"
        return None

    # Each rule yields (reason, value, lowest allowed, highest allowed); lazily, so that what is not reached is not computed.

    def _words(self, words: Sequence[str], lengths: Sequence[int]) -> Iterator[Measure]:
        limits = self.options
        yield "word_count", len(words), limits.min_words, limits.max_words
        mean = sum(lengths) / len(words) if words else 0.0
        yield "mean_word_length", mean, limits.min_mean_word_length, limits.max_mean_word_length

    def _symbols(self, text: str, words: Sequence[str]) -> Iterator[Measure]:
        limit = self.options.max_symbol_ratio
        if limit is not None and words:
            yield "hash_ratio", text.count("#") / len(words), None, limit
            yield "ellipsis_ratio", sum(map(text.count, _ELLIPSES)) / len(words), None, limit

    def _lines(self, text: str) -> Iterator[Measure]:
        limits = self.options
        if limits.max_bullet_lines is None and limits.max_ellipsis_lines is None:
            return
        lines = _nonblank(text.split("\n"))
        if lines:
            bullets = sum(line.startswith(_BULLETS) for line in lines)
            yield "bullet_lines", bullets / len(lines), None, limits.max_bullet_lines
            ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
            yield "ellipsis_lines", ellipses / len(lines), None, limits.max_ellipsis_lines

    def _vocabulary(self, words: Sequence[str]) -> Iterator[Measure]:
        limits = self.options
        if limits.min_alphabetic_words is not None and words:
            search = _LETTER.search
            alphabetic = sum(1 for word in words if word.isalpha() or search(word))
            yield "alphabetic_words", alphabetic / len(words), limits.min_alphabetic_words, None
        if limits.min_stop_words is not None:
            # Different stop words; case and the punctuation next to a word do not count.
            found = len(self._stop_words.intersection(words))
            if found < limits.min_stop_words:
                found = len(
                    self._stop_words.intersection(w.strip(".,;:!?\"'()[]“”‘’").lower() for w in words)
                )
            yield "stop_words", found, limits.min_stop_words, None

    def _repeated_lines(self, text: str) -> Iterator[Measure]:
        limits = self.options
        lines = _nonblank(text.split("\n"))
        if len(set(lines)) < len(lines):
            count, characters = _copied(lines)
            yield "duplicate_lines", count, None, limits.max_duplicate_lines
            yield "duplicate_line_characters", characters, None, limits.max_duplicate_line_characters
            paragraphs = _nonblank(_PARAGRAPHS.split(text))
            if len(set(paragraphs)) < len(paragraphs):  # impossible without a repeated line
                count, characters = _copied(paragraphs)
                yield "duplicate_paragraphs", count, None, limits.max_duplicate_paragraphs
                yield (
                    "duplicate_paragraph_characters",
                    characters,
                    None,
                    limits.max_duplicate_paragraph_characters,
                )

    def _repeated_ngrams(self, words: Sequence[str], lengths: Sequence[int]) -> Iterator[Measure]:
        """Only where an n-gram repeats at a position and the next can an (n+1)-gram repeat, so after the pairs there is
        little left to look at.
        """
        total = sum(lengths)
        largest = max([*self._top, *self._copies], default=0)
        positions: Sequence[int] = range(len(words) - 1)
        grams: list[tuple[str, ...]] = list(pairwise(words))
        for size in range(2, largest + 1):
            counts = Counter(grams)
            kept = [(at, gram) for at, gram in zip(positions, grams, strict=True) if counts[gram] > 1]
            if not kept:
                return
            if size in self._top:
                yield (
                    f"top_{size}gram_characters",
                    _top_share(kept, counts, lengths) / total,
                    None,
                    self._top[size],
                )
            if size in self._copies:
                share = _copies_share(kept, size, lengths) / total
                yield f"duplicate_{size}gram_characters", share, None, self._copies[size]
            repeated = {at for at, _ in kept}
            positions = [at for at, _ in kept if at + 1 in repeated]
            grams = [tuple(words[at : at + size + 1]) for at in positions]


#: reason, value, lowest allowed, highest allowed
Measure = tuple[str, float, float | None, float | None]


def _sizes(table: Mapping[str, float] | None) -> dict[int, float]:
    return {int(size): limit for size, limit in (table or {}).items()}


def _nonblank(pieces: Iterable[str]) -> list[str]:
    return [stripped for piece in pieces if (stripped := piece.strip())]


def _copied(pieces: Sequence[str]) -> tuple[float, float]:
    """Share of pieces, and of their characters, that are copies of an earlier piece."""
    seen: set[str] = set()
    count = characters = total = 0
    for piece in pieces:
        size = len(piece) - sum(map(piece.count, " \t\n"))
        total += size
        if piece in seen:
            count += 1
            characters += size
        seen.add(piece)
    return count / len(pieces), characters / total


def _top_share(
    kept: Sequence[tuple[int, tuple[str, ...]]], counts: Mapping[tuple[str, ...], int], lengths: Sequence[int]
) -> int:
    """Characters inside the most frequent n-gram; of equally frequent ones the longest."""
    _, _, top = max((counts[gram], sum(map(len, gram)), gram) for gram in {gram for _, gram in kept})
    return _covered([at for at, gram in kept if gram == top], len(top), lengths)


def _copies_share(kept: Sequence[tuple[int, tuple[str, ...]]], size: int, lengths: Sequence[int]) -> int:
    """Characters inside n-grams that occurred before."""
    seen: set[tuple[str, ...]] = set()
    copies: list[int] = []
    for at, gram in kept:
        if gram in seen:
            copies.append(at)
        seen.add(gram)
    return _covered(copies, size, lengths)


def _covered(positions: Iterable[int], size: int, lengths: Sequence[int]) -> int:
    """Characters of the words in windows of ``size`` at sorted ``positions``, each word once."""
    total = end = 0
    for at in positions:
        total += sum(lengths[max(at, end) : at + size])
        end = at + size
    return total
