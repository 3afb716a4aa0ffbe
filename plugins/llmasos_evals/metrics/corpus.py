"""Metrics over a whole corpus of generated text: BLEU, chrF, chrF++ and TER through ``sacrebleu``, and word error rate.

Items are (references, prediction). A document counts only through a row of sufficient statistics, so a bootstrap
replicate is a sum of rows, not another pass over the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from llmasos.api import EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric, need
from llmasos_evals.statistics.aggregations import Aggregation, sample_stddev
from llmasos_evals.statistics.bootstrap import resamples
from llmasos_evals.statistics.resampling import (
    REPLICATES,
    SACREBLEU_SEED,
    Interval,
    SumAggregation,
    sacrebleu_interval,
    scores_of_blocks,
)
from llmasos_evals.statistics.sums import Sums

#: lm-evaluation-harness draws at most this many replicates for these metrics.
MAX_REPLICATES = 100


class CorpusAggregation:
    """A sacrebleu metric (BLEU, CHRF or TER) over (references, prediction) items."""

    max_replicates = MAX_REPLICATES
    #: A document has a score of its own, for counting wins.
    scores_documents = True

    def __init__(self, name: str, kind: str, **options: Any) -> None:
        need("sacrebleu", name)
        self.name, self.kind, self.options = name, kind, options
        self._scorer: Any = None
        self._kept: tuple[Sequence[Any], list[list[float]]] | None = None

    def value(self, items: Sequence[Any]) -> float:
        return float(self.scorer._aggregate_and_compute(self.rows(items)).score)

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        """lm-evaluation-harness's bootstrap: its random stream, at most 100 replicates."""
        # In float64: no rounding of counts, and the scores are those of Python numbers.
        rows = np.asarray(self.rows(items), dtype=np.float64)
        blocks = resamples(len(items), min(bootstrap, MAX_REPLICATES))
        return sample_stddev(list(scores_of_blocks(rows, blocks, self.score_of_row)))

    def interval(
        self, items: Sequence[Any], *, replicates: int = REPLICATES, seed: int = SACREBLEU_SEED
    ) -> Interval:
        """The 95 % interval that ``sacrebleu --confidence`` prints, to the last digit."""
        return sacrebleu_interval(
            self.rows(items),
            lambda row: self.scorer._compute_score_from_stats(row).score,
            replicates=replicates,
            seed=seed,
        )

    def statistic(self, items: Sequence[Any]) -> Sums:
        """The rows, and what their sums come to."""
        rows = np.asarray(self.rows(items), dtype=np.float64)
        return Sums(
            rows,
            lambda sums: np.array([self.score_of_row(row) for row in sums]),
            lambda: np.array([self.score_of_row(row) for row in rows]),
        )

    def rows(self, items: Sequence[Any]) -> list[list[float]]:
        """Sufficient statistics, a row a document; their sum is what ``score_of_row`` takes.

        Kept for the list that was asked for last: value, standard error and interval read the same text.
        """
        if self._kept is None or self._kept[0] is not items or len(self._kept[1]) != len(items):
            predictions, references = self._columns(items)
            self._kept = items, self.scorer._extract_corpus_statistics(predictions, references)
        return self._kept[1]

    def score_of_row(self, row: Any) -> float:
        """The value of a sum of rows."""
        return float(self.scorer._compute_score_from_stats(row.tolist()).score)

    @property
    def scorer(self) -> Any:
        """The sacrebleu object."""
        if self._scorer is None:
            from sacrebleu import metrics  # half a second

            self._scorer = getattr(metrics, self.kind)(**self.options)
        return self._scorer

    def _columns(self, items: Sequence[Any]) -> tuple[list[str], list[list[str | None]]]:
        """Predictions, and references by rank: sacrebleu takes None where a document has fewer."""
        listed = [[refs] if isinstance(refs, str) else list(refs) for refs, _ in items]
        if not all(listed):
            raise EvaluationError(f"{self.name}: a document has no reference")
        most = max(len(refs) for refs in listed)
        references = [[refs[rank] if rank < len(refs) else None for refs in listed] for rank in range(most)]
        predictions = [
            prediction[0] if isinstance(prediction, list) else prediction for _, prediction in items
        ]
        return predictions, references


class CorpusMetric(AggregatedMetric):
    """References and prediction as they are; the work is in the aggregation."""

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        prediction = outcome.prediction[0] if isinstance(outcome.prediction, list) else outcome.prediction
        return [list(outcome.references), str(prediction)]

    def library(self) -> str:
        return version("sacrebleu")


class Bleu(CorpusMetric):
    """BLEU (Papineni et al. 2002) as sacrebleu computes it: 0 to 100. Options are those of ``sacrebleu.metrics.BLEU``."""

    name = "bleu"

    def __init__(
        self,
        tokenize: str = "13a",
        lowercase: bool = False,
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        max_ngram_order: int = 4,
        effective_order: bool = False,
        **idle: Any,
    ) -> None:
        super().__init__(**idle)
        if smooth_method not in ("exp", "floor", "add-k", "none"):
            raise InputError(f"bleu: smooth_method {smooth_method!r} is none of exp, floor, add-k, none")
        self.settings = {
            "tokenize": tokenize,
            "lowercase": lowercase,
            "smooth_method": smooth_method,
            "smooth_value": smooth_value,
            "max_ngram_order": max_ngram_order,
            "effective_order": effective_order,
        }
        # force: skip sacrebleu's guess that the text was tokenised beforehand, a warning without effect on the score
        self.aggregation = CorpusAggregation("bleu", "BLEU", force=True, **self.settings)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation("bleu", "BLEU", force=True)

    def details(self) -> Mapping[str, str]:
        smooth, value = str(self.settings["smooth_method"]), self.settings["smooth_value"]
        found = {
            "case": "lc" if self.settings["lowercase"] else "mixed",
            "eff": "yes" if self.settings["effective_order"] else "no",
            "tok": str(self.settings["tokenize"]),
            "smooth": smooth if value is None else f"{smooth}[{value}]",
        }
        if self.settings["max_ngram_order"] != 4:
            found["order"] = str(self.settings["max_ngram_order"])
        return found | {"sacrebleu": self.library()}


class Chrf(CorpusMetric):
    """chrF (Popović 2015): 0 to 100. Options are those of ``sacrebleu.metrics.CHRF``."""

    name = "chrf"
    words = 0

    def __init__(
        self,
        char_order: int = 6,
        word_order: int | None = None,
        beta: int = 2,
        lowercase: bool = False,
        whitespace: bool = False,
        eps_smoothing: bool = False,
        **idle: Any,
    ) -> None:
        super().__init__(**idle)
        self.settings = {
            "char_order": char_order,
            "word_order": self.words if word_order is None else word_order,
            "beta": beta,
            "lowercase": lowercase,
            "whitespace": whitespace,
            "eps_smoothing": eps_smoothing,
        }
        self.aggregation = CorpusAggregation(self.name, "CHRF", **self.settings)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation(cls.name, "CHRF", word_order=cls.words)

    def details(self) -> Mapping[str, str]:
        yes = {True: "yes", False: "no"}
        return {
            "case": "lc" if self.settings["lowercase"] else "mixed",
            "eff": yes[not self.settings["eps_smoothing"]],
            "nc": str(self.settings["char_order"]),
            "nw": str(self.settings["word_order"]),
            "beta": str(self.settings["beta"]),
            "space": yes[bool(self.settings["whitespace"])],
            "sacrebleu": self.library(),
        }


class ChrfPlusPlus(Chrf):
    """chrF++ (Popović 2017): chrF with word 1- and 2-grams."""

    name = "chrf++"
    words = 2


class Ter(CorpusMetric):
    """TER (Snover et al. 2006), edits a reference word in per cent; lower is better.

    Options are those of ``sacrebleu.metrics.TER``.
    """

    name = "ter"

    def __init__(
        self,
        normalized: bool = False,
        no_punct: bool = False,
        asian_support: bool = False,
        case_sensitive: bool = False,
        **idle: Any,
    ) -> None:
        super().__init__(**idle)
        self.settings = {
            "normalized": normalized,
            "no_punct": no_punct,
            "asian_support": asian_support,
            "case_sensitive": case_sensitive,
        }
        self.aggregation = CorpusAggregation("ter", "TER", **self.settings)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation("ter", "TER")

    def details(self) -> Mapping[str, str]:
        yes = {True: "yes", False: "no"}
        return {
            "case": "mixed" if self.settings["case_sensitive"] else "lc",
            "norm": yes[bool(self.settings["normalized"])],
            "punct": yes[not self.settings["no_punct"]],
            "asian": yes[bool(self.settings["asian_support"])],
            "sacrebleu": self.library(),
        }


class WordErrors(SumAggregation):
    """Edits over reference words of the whole corpus; items are (edits, words)."""

    name = "word_errors"
    scores_documents = True

    def score_of_row(self, row: Any) -> float:
        return float(row[0] / row[1]) if row[1] else math.nan


class WordErrorRate(AggregatedMetric):
    """Word error rate: substitutions, deletions and insertions of words a reference word (best of the references).

    Words are what white space separates. Below ``mean`` as aggregation each document counts the same, as in the harness's
    use of Hugging Face ``evaluate``; the default weighs by words.
    """

    name = "wer"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return WordErrors()

    def details(self) -> Mapping[str, str]:
        return {"words": "space", "refs": "best"}

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, GenerationOutcome) or not outcome.references:
            raise self.cannot_score(outcome)
        said = outcome.prediction[0] if isinstance(outcome.prediction, list) else outcome.prediction
        words = str(said).split()
        pairs = [(edit_distance(ref.split(), words), len(ref.split())) for ref in outcome.references]
        edits, size = min(pairs, key=lambda pair: pair[0] / max(1, pair[1]))
        if self.aggregation.name == "mean":
            return edits / size if size else float(edits > 0)
        return [edits, size]


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Levenshtein distance, all three operations at cost 1."""
    row = list(range(len(right) + 1))
    for i, one in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (one != other))
    return row[-1]


#: Corpus aggregations by the name task files use.
CORPUS_AGGREGATIONS: Mapping[str, Any] = {
    "bleu": Bleu.default_aggregation,
    "chrf": Chrf.default_aggregation,
    "chrf++": ChrfPlusPlus.default_aggregation,
    "ter": Ter.default_aggregation,
}
