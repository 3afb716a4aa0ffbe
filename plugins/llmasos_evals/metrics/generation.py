"""Metrics over generated text, a document at a time: exact match, and the token F1 of reading comprehension."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from llmasos.api import ChoiceOutcome, GenerationOutcome, InputError, Outcome
from llmasos_evals.digests import digest
from llmasos_evals.metrics.base import AggregatedMetric, said
from llmasos_evals.patience import Patience


class ExactMatch(AggregatedMetric):
    """1 when prediction and reference are the same text after both are cleaned, else 0.

    Cleaning in this order: each of ``regexes_to_ignore`` is removed, then case, ASCII punctuation and digits if asked.
    Of several references any will do. For multiple choice: whether greedy decoding gives a right choice. Semantics of
    Hugging Face ``evaluate``'s exact_match and of lm-evaluation-harness 0.4.13.
    """

    name = "exact_match"

    def __init__(
        self,
        regexes_to_ignore: Sequence[str] | None = None,
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        ignore_numbers: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(regexes_to_ignore, str):
            raise InputError("exact_match: regexes_to_ignore must be a list of patterns")
        try:
            self.regexes = [re.compile(pattern) for pattern in regexes_to_ignore or ()]
        except (re.error, TypeError) as error:
            raise InputError(f"exact_match: regexes_to_ignore: {error}") from error
        self.ignore_case = ignore_case
        self.dropped = (string.punctuation if ignore_punctuation else "") + (
            string.digits if ignore_numbers else ""
        )
        self._table = str.maketrans("", "", self.dropped)

    def details(self) -> Mapping[str, str]:
        patterns = [regex.pattern for regex in self.regexes]
        return {
            "case": "lower" if self.ignore_case else "mixed",
            "punct": "no" if string.punctuation[0] in self.dropped else "yes",
            "digits": "no" if string.digits[0] in self.dropped else "yes",
            "regexes": digest(patterns)[:8] if patterns else "none",
        }

    def cleaned(self, text: str) -> str:
        if self.regexes:
            with Patience("exact_match: regexes_to_ignore"):
                for regex in self.regexes:
                    text = regex.sub("", text)
        if self.ignore_case:
            text = text.lower()
        return text.translate(self._table)

    def item(self, outcome: Outcome) -> float:
        if isinstance(outcome, ChoiceOutcome):
            return float(
                any(outcome.greedy[gold] for gold in outcome.gold if 0 <= gold < len(outcome.greedy))
            )
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        wanted = [self.cleaned(reference) for reference in outcome.references]
        predictions = outcome.prediction if isinstance(outcome.prediction, list) else [outcome.prediction]
        right = [float(self.cleaned(str(prediction)) in wanted) for prediction in predictions]
        return sum(right) / len(right) if right else 0.0


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's official script compares: lower case, no ASCII punctuation, no articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


class SquadExact(AggregatedMetric):
    """1 when prediction and a reference have the same words in SQuAD's sense, else 0 (Rajpurkar et al. 2016).

    Without a reference, or with an empty one, the right answer is an empty prediction (SQuAD 2.0).
    """

    name = "squad_em"

    def details(self) -> Mapping[str, str]:
        return {"norm": "squad", "refs": "best"}

    def score(self, wanted: list[str], given: list[str]) -> float:
        return float(wanted == given)

    def item(self, outcome: Outcome) -> float:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        given = squad_words(said(outcome.prediction))
        return max(self.score(squad_words(reference), given) for reference in outcome.references or ("",))


class SquadF1(SquadExact):
    """F1 of the words that prediction and reference share, by the best reference (Rajpurkar et al. 2016)."""

    name = "squad_f1"

    def score(self, wanted: list[str], given: list[str]) -> float:
        if not wanted or not given:
            return float(wanted == given)
        same = sum((Counter(wanted) & Counter(given)).values())
        if not same:
            return 0.0
        precision, recall = same / len(given), same / len(wanted)
        return 2 * precision * recall / (precision + recall)
