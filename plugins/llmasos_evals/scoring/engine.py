"""The way to answers: an engine for a model and the settings of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from llmasos.api import CausalLM
from llmasos_evals.scoring.plan import Answer, PlanSettings, Shard
from llmasos_evals.scoring.reference import ReferenceEngine


class Engine(Protocol):
    """Answers the rows of shards with one model. Each shard is a task of its own: nothing of one reaches the next."""

    #: Short name for the record.
    name: str

    def run(self, shard: Shard) -> Iterator[Answer]:
        """Every row of the shard once, as soon as it is known. Raises EvaluationError when scores are not numbers."""


def open_engine(model: CausalLM, settings: PlanSettings) -> Engine:
    """The engine that computes plans of these settings with this model."""
    return ReferenceEngine(model)
