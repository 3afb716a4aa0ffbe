"""Metrics over a whole corpus of generated text: BLEU, chrF, chrF++ and TER through ``sacrebleu``.

Items are (references, prediction). A document counts only through its n-gram statistics, so a bootstrap replicate is a
sum of rows, not another pass over the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from llmasos.api import EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric, need
from llmasos_evals.statistics.aggregations import Aggregation, bootstrap_stderr

#: lm-evaluation-harness draws at most this many replicates for these metrics.
MAX_REPLICATES = 100


class CorpusAggregation:
    """A sacrebleu metric (BLEU, CHRF or TER) over (references, prediction) items."""

    def __init__(self, name: str, kind: str, **options: Any) -> None:
        need("sacrebleu", name)
        self.name, self.kind, self.options = name, kind, options
        self._scorer: Any = None

    def value(self, items: Sequence[Any]) -> float:
        predictions, references = self._columns(items)
        return float(self._sacrebleu().corpus_score(predictions, references).score)

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        scorer = self._sacrebleu()
        predictions, references = self._columns(items)
        rows = scorer._extract_corpus_statistics(predictions, references)

        def statistic(block: Any) -> list[float]:
            return [
                float(scorer._aggregate_and_compute([rows[i] for i in replicate]).score)
                for replicate in block
            ]

        return bootstrap_stderr(len(items), min(bootstrap, MAX_REPLICATES), statistic)

    def _sacrebleu(self) -> Any:
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
    """BLEU (Papineni et al. 2002) as sacrebleu computes it: 0 to 100."""

    name = "bleu"

    def __init__(
        self, tokenize: str = "13a", lowercase: bool = False, smooth_method: str = "exp", **idle: Any
    ) -> None:
        super().__init__(**idle)
        if smooth_method not in ("exp", "floor", "add-k", "none"):
            raise InputError(f"bleu: smooth_method {smooth_method!r} is none of exp, floor, add-k, none")
        self.settings = {"tokenize": tokenize, "lowercase": lowercase, "smooth_method": smooth_method}
        # force: skip sacrebleu's guess that the text was tokenised beforehand, a warning without effect on the score
        self.aggregation = CorpusAggregation("bleu", "BLEU", force=True, **self.settings)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation("bleu", "BLEU", force=True)

    def details(self) -> Mapping[str, str]:
        case = "lc" if self.settings["lowercase"] else "mixed"
        return {
            "case": case,
            "tok": str(self.settings["tokenize"]),
            "smooth": str(self.settings["smooth_method"]),
            "sacrebleu": self.library(),
        }


class Chrf(CorpusMetric):
    """chrF (Popović 2015), character 6-grams and beta 2: 0 to 100."""

    name = "chrf"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation("chrf", "CHRF")

    def details(self) -> Mapping[str, str]:
        return {"nc": "6", "nw": "0", "beta": "2", "sacrebleu": self.library()}


class ChrfPlusPlus(CorpusMetric):
    """chrF++ (Popović 2017): chrF with word 1- and 2-grams."""

    name = "chrf++"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation("chrf++", "CHRF", word_order=2)

    def details(self) -> Mapping[str, str]:
        return {"nc": "6", "nw": "2", "beta": "2", "sacrebleu": self.library()}


class Ter(CorpusMetric):
    """TER (Snover et al. 2006), edits a reference word in per cent; lower is better."""

    name = "ter"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return CorpusAggregation("ter", "TER")

    def details(self) -> Mapping[str, str]:
        return {"sacrebleu": self.library()}


#: Corpus aggregations by the name task files use.
CORPUS_AGGREGATIONS: Mapping[str, Any] = {
    "bleu": Bleu.default_aggregation,
    "chrf": Chrf.default_aggregation,
    "chrf++": ChrfPlusPlus.default_aggregation,
    "ter": Ter.default_aggregation,
}
