"""ROUGE through the ``rouge-score`` package, and its bootstrap interval without its loop.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from llmasos.api import GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric, need, said
from llmasos_evals.statistics.resampling import REPLICATES, Interval, rouge_interval, rouge_percentiles

#: Columns of a rouge-score ``Score``.
MEASURES = ("precision", "recall", "fmeasure")


class Rouge(AggregatedMetric):
    """Overlap of prediction and reference between 0 and 1; of several references the one with the best F-measure counts.

    ``measure`` is fmeasure, precision or recall. The Lsum kind takes lines as sentences; ``sentences: t5`` breaks lines at
    " . " first, as the T5 code and TruthfulQA's do.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        use_stemmer: bool = False,
        measure: str = "fmeasure",
        sentences: str = "lines",
        **idle: Any,
    ) -> None:
        super().__init__(**idle)
        need("rouge-score", self.name)
        if measure not in MEASURES:
            raise InputError(f"{self.name}: measure {measure!r} is none of {', '.join(MEASURES)}")
        if sentences not in ("lines", "t5"):
            raise InputError(f"{self.name}: sentences {sentences!r} is neither lines nor t5")
        self.use_stemmer, self.measure, self.sentences = use_stemmer, measure, sentences
        self._scorer: Any = None

    def details(self) -> Mapping[str, str]:
        return {
            "measure": self.measure[0],
            "stem": "yes" if self.use_stemmer else "no",
            "sentences": self.sentences,
            "refs": "best",
            "rouge-score": version("rouge-score"),
        }

    def item(self, outcome: Outcome) -> float:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        prediction = self._prepared(said(outcome.prediction))
        scores = [
            self.scorer.score(self._prepared(reference), prediction)[self.kind]
            for reference in outcome.references
        ]
        if not scores:
            return 0.0
        return float(getattr(max(scores, key=lambda score: score.fmeasure), self.measure))

    def interval(self, items: Sequence[Any], *, replicates: int = REPLICATES, seed: int = 1234) -> Interval:
        """rouge-score's 95 % bootstrap interval of the mean, with its stream seeded."""
        return rouge_interval(items, replicates=replicates, seed=seed)

    @property
    def scorer(self) -> Any:
        """The ``RougeScorer``."""
        if self._scorer is None:
            from rouge_score.rouge_scorer import RougeScorer  # imports nltk: a second

            self._scorer = RougeScorer([self.kind], use_stemmer=self.use_stemmer)
        return self._scorer

    def _prepared(self, text: str) -> str:
        return text.replace(" . ", ".\n") if self.sentences == "t5" else text


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


class FastBootstrapAggregator:
    """Takes the place of ``rouge_score.scoring.BootstrapAggregator`` for task code: the same numbers from the same draws.

    TruthfulQA's code makes one for every single reference, and the library then draws a thousand replicates of one row in
    a Python loop. Like the library it draws from numpy's global stream, and as many numbers.
    """

    def __init__(self, confidence_interval: float = 0.95, n_samples: int = REPLICATES) -> None:
        if not 0 <= confidence_interval <= 1:
            raise ValueError("confidence_interval must be in range [0, 1]")
        if n_samples <= 0:
            raise ValueError("n_samples must be positive")
        self.confidence, self.replicates = confidence_interval, n_samples
        self._scores: dict[str, list[Any]] = {}

    def add_scores(self, scores: Mapping[str, Any]) -> None:
        """``scores``: a named tuple of numbers for each kind."""
        for kind, score in scores.items():
            self._scores.setdefault(kind, []).append(score)

    def aggregate(self) -> dict[str, Any]:
        """Kind -> ``AggregateScore(low, mid, high)``."""
        from rouge_score.scoring import AggregateScore

        found = {}
        for kind, scores in self._scores.items():
            rows = rouge_percentiles(
                np.vstack(tuple(scores)).astype(np.float64),
                np.random,
                replicates=self.replicates,
                confidence=self.confidence,
            )
            made = type(scores[0])
            found[kind] = AggregateScore(*(made(*row) for row in rows))
        return found
