"""IFEval: share of prompts, and of instructions, that responses follow, strictly and loosely.

Documents have ``instruction_id_list``, ``kwargs`` (a mapping an instruction) and ``prompt``. A prompt counts when all its
instructions are followed. Loosely: when one of eight forms of the response follows an instruction (without first line,
last line, asterisks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from llmasos.api import EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric, need, said
from llmasos_evals.metrics.instructions import follows, loosened, splitter
from llmasos_evals.patience import Patience
from llmasos_evals.statistics.aggregations import Aggregation
from llmasos_evals.statistics.resampling import SumAggregation


class FollowedInstructions(SumAggregation):
    """Share of all instructions that are followed; items are lists of 0 and 1, one a prompt."""

    name = "instructions"

    def rows(self, items: Sequence[Any]) -> Any:
        return super().rows([[sum(item), len(item)] for item in items])

    def score_of_row(self, row: Any) -> float:
        return float(row[0] / row[1]) if row[1] else math.nan


class IfevalMetric(AggregatedMetric):
    """``sentences``: rule (nothing to download) or punkt (NLTK's model, the harness's numbers to the last one)."""

    loose: ClassVar[bool] = False

    def __init__(self, sentences: str = "rule", **idle: Any) -> None:
        super().__init__(**idle)
        if sentences not in ("rule", "punkt"):
            raise InputError(f"{self.name}: sentences {sentences!r} is neither rule nor punkt")
        need("langdetect", self.name)
        need("nltk", self.name)
        self.sentences = sentences

    def details(self) -> Mapping[str, str]:
        return {
            "mode": "loose" if self.loose else "strict",
            "sentences": self.sentences,
            "nltk": version("nltk"),
            "langdetect": version("langdetect"),
        }

    def followed(self, outcome: Outcome) -> list[int]:
        """1 for each instruction that the response follows."""
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        doc = outcome.doc
        names, arguments = doc.get("instruction_id_list"), doc.get("kwargs")
        if not isinstance(names, Sequence) or not isinstance(arguments, Sequence) or isinstance(names, str):
            raise EvaluationError(f"{self.name}: a document lacks instruction_id_list or kwargs")
        if len(names) != len(arguments) or not names:
            raise EvaluationError(
                f"{self.name}: a document has {len(names)} instructions and {len(arguments)} kwargs"
            )
        text = said(outcome.prediction)
        forms, split = loosened(text) if self.loose else [text], splitter(self.sentences)
        found = []
        for name, given in zip(names, arguments, strict=True):
            kept = {key: value for key, value in dict(given).items() if value}
            # Keywords are patterns and come with the data. Long, because some checks load a library first.
            with Patience(f"{self.name}: {name}", seconds=60):
                found.append(int(any(follows(str(name), kept, form, split) for form in forms)))
        return found


class PromptStrict(IfevalMetric):
    """Share of prompts all of whose instructions are followed."""

    name = "ifeval_prompt_strict"

    def item(self, outcome: Outcome) -> float:
        return float(all(self.followed(outcome)))


class PromptLoose(PromptStrict):
    """Share of prompts all of whose instructions are followed by some form of the response."""

    name = "ifeval_prompt_loose"
    loose = True


class InstructionStrict(IfevalMetric):
    """Share of instructions that are followed."""

    name = "ifeval_instruction_strict"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return FollowedInstructions()

    def item(self, outcome: Outcome) -> list[int]:
        return self.followed(outcome)


class InstructionLoose(InstructionStrict):
    """Share of instructions that are followed by some form of the response."""

    name = "ifeval_instruction_loose"
    loose = True
