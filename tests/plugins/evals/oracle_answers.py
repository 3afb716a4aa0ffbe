"""Answers that are a function of the question alone: both harnesses get the same ones, without a model.

Imported by the tests and, in an environment with lm-evaluation-harness, by ``refresh_goldens.py``.
"""

from __future__ import annotations

import hashlib

WORDS = (
    "the",
    "hotel",
    "near",
    "river",
    "serves",
    "cheap",
    "food",
    "and",
    "is",
    "family",
    "friendly",
    "a",
    "pub",
)
NUMBERS = (0, 1, 3, 5, 7, 8, 18, 20, 60, 64, 540)


def _bytes(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def loglikelihood(context: str, continuation: str) -> tuple[float, bool]:
    """Nats in [-40, 0) with few digits, so that ties happen, and a greedy flag one time in four."""
    raw = _bytes("ll", context[-200:], continuation)
    return -(1 + raw[0] % 160) / 4.0, raw[1] % 4 == 0


def rolling(text: str) -> float:
    """Nats that grow with the text."""
    return -len(text) * (0.5 + _bytes("roll", text[:500])[0] / 512.0)


def generation(context: str) -> str:
    """A sum with a small answer when the prompt asks a question, a handful of words otherwise."""
    raw = _bytes("gen", context[-400:])
    if "Question:" in context:
        number = NUMBERS[raw[0] % len(NUMBERS)]
        return (
            f" Adding up gives ${number}.\n#### {number}.",
            f" {raw[1]} minus {raw[2]}, so the answer is {number}",
            " I do not know",
            f" #### {number},00",
        )[raw[3] % 4]
    return " ".join(WORDS[byte % len(WORDS)] for byte in raw[: 4 + raw[31] % 10]).capitalize() + "."
