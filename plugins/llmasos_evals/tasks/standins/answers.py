"""Comparing short answers, as SQuAD does (Rajpurkar et al. 2016, the official evaluation script)."""

from __future__ import annotations

import re
import string
from collections import Counter

__all__ = ["compute_exact", "compute_f1", "get_tokens", "normalize_answer"]

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(s: str) -> str:
    """Lower case, without ASCII punctuation, English articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", s.lower().translate(_PUNCTUATION)).split())


def get_tokens(s: str) -> list[str]:
    """The words of an answer once normalised."""
    return normalize_answer(s).split() if s else []


def compute_exact(a_gold: str, a_pred: str) -> int:
    """1 when both are the same once normalised."""
    return int(normalize_answer(a_gold) == normalize_answer(a_pred))


def compute_f1(a_gold: str, a_pred: str) -> float:
    """F1 of the words; when one has none, whether the other has none either."""
    gold, answer = get_tokens(a_gold), get_tokens(a_pred)
    if not gold or not answer:
        return int(gold == answer)
    common = sum((Counter(gold) & Counter(answer)).values())
    if common == 0:
        return 0
    precision, recall = common / len(answer), common / len(gold)
    return (2 * precision * recall) / (precision + recall)
