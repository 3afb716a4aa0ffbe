"""Suggestions for words that are almost right."""

from __future__ import annotations

from collections.abc import Iterable


def closest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Known words most like ``word``, best first, ties in alphabetical order."""
    # difflib costs a millisecond that only a mistake should pay.
    import difflib

    return difflib.get_close_matches(word, sorted(set(known)), n=limit)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean `x`?`` for the closest known word, or nothing."""
    best = closest(word, known, limit=1)
    return f", did you mean `{best[0]}`?" if best else ""


def capped(words: Iterable[str], limit: int = 12) -> str:
    """A sorted, comma-separated list that stops after ``limit`` words and says how many are left."""
    ordered = sorted(set(words))
    shown = ", ".join(ordered[:limit])
    return f"{shown} and {len(ordered) - limit} more" if len(ordered) > limit else shown
