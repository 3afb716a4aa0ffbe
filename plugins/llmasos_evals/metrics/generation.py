"""Metrics over generated text, a document at a time: exact match and ROUGE."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from llmasos.api import ChoiceOutcome, GenerationOutcome, Outcome
from llmasos_evals.digests import digest
from llmasos_evals.metrics.base import AggregatedMetric, need


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
            raise TypeError("regexes_to_ignore must be a list of patterns")
        self.regexes = [re.compile(pattern) for pattern in regexes_to_ignore or ()]
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


class Rouge(AggregatedMetric):
    """Overlap of prediction and reference as an F-measure between 0 and 1, through the ``rouge-score`` package.

    Of several references the best counts. Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries". The Lsum
    kind takes lines as sentences.
    """

    kind: ClassVar[str]

    def __init__(self, use_stemmer: bool = False) -> None:
        super().__init__()
        need("rouge-score", self.name)
        self.use_stemmer = use_stemmer
        self._scorer: Any = None

    def details(self) -> Mapping[str, str]:
        stem = "yes" if self.use_stemmer else "no"
        return {"measure": "f", "stem": stem, "refs": "best", "rouge-score": version("rouge-score")}

    def item(self, outcome: Outcome) -> float:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        if self._scorer is None:
            from rouge_score.rouge_scorer import RougeScorer  # imports nltk: a second

            self._scorer = RougeScorer([self.kind], use_stemmer=self.use_stemmer)
        prediction = outcome.prediction[0] if isinstance(outcome.prediction, list) else outcome.prediction
        scores = [
            self._scorer.score(reference, str(prediction))[self.kind] for reference in outcome.references
        ]
        return float(max((score.fmeasure for score in scores), default=0.0))


class Rouge1(Rouge):
    """ROUGE-1: words."""

    name = kind = "rouge1"


class Rouge2(Rouge):
    """ROUGE-2: pairs of words."""

    name = kind = "rouge2"


class RougeL(Rouge):
    """ROUGE-L: longest common subsequence of the whole text."""

    name = kind = "rougeL"


class RougeLsum(Rouge):
    """ROUGE-Lsum: longest common subsequence, sentence by sentence."""

    name = kind = "rougeLsum"
