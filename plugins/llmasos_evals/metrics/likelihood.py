"""Metrics over log-likelihoods: multiple choice, whole continuations and running text.

Definitions as in lm-evaluation-harness 0.4.13, ``ConfigurableTask.process_results``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmasos.api import ChoiceOutcome, EvaluationError, LikelihoodOutcome, Outcome, RollingOutcome
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.statistics.aggregations import (
    F1,
    Aggregation,
    BitsPerByte,
    Brier,
    MatthewsCorrelation,
    Perplexity,
    WeightedPerplexity,
)


def best(values: Sequence[float]) -> int:
    """Position of the largest value, the first of equals. Raises EvaluationError when one is not a number."""
    if any(math.isnan(value) for value in values):
        raise EvaluationError("a log-likelihood is not a number", hint="try --dtype exact")
    return max(range(len(values)), key=values.__getitem__)


def per_character(outcome: ChoiceOutcome) -> list[float]:
    """Nats a character of each choice, without the delimiter."""
    return [
        _share(value, len(choice)) for value, choice in zip(outcome.logprobs, outcome.choices, strict=True)
    ]


def per_byte(outcome: ChoiceOutcome) -> list[float]:
    """Nats a UTF-8 byte of each choice, without the delimiter."""
    lengths = [len(choice.encode("utf-8")) for choice in outcome.choices]
    return [_share(value, length) for value, length in zip(outcome.logprobs, lengths, strict=True)]


def ties(outcome: ChoiceOutcome) -> bool:
    """Whether the best choice shares its log-likelihood with another one."""
    return list(outcome.logprobs).count(max(outcome.logprobs)) > 1


def _share(value: float, length: int) -> float:
    return value / float(length) if length else -math.inf


class Accuracy(AggregatedMetric):
    """Share of documents whose most likely choice is right; for a lone continuation, whether it is the greedy one."""

    name = "acc"

    def details(self) -> Mapping[str, str]:
        return {"norm": "none", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return outcome.logprobs

    def item(self, outcome: Outcome) -> float:
        if isinstance(outcome, LikelihoodOutcome):
            return float(outcome.is_greedy)
        if isinstance(outcome, ChoiceOutcome):
            return float(best(self.scores(outcome)) in outcome.gold)
        raise self.cannot_score(outcome)


class AccuracyPerCharacter(Accuracy):
    """Accuracy with log-likelihoods divided by the characters of the choice."""

    name = "acc_norm"

    def details(self) -> Mapping[str, str]:
        return {"norm": "chars", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return per_character(outcome)


class AccuracyPerByte(Accuracy):
    """Accuracy with log-likelihoods divided by the UTF-8 bytes of the choice."""

    name = "acc_bytes"

    def details(self) -> Mapping[str, str]:
        return {"norm": "bytes", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return per_byte(outcome)


class AccuracyMutualInformation(Accuracy):
    """Accuracy of the choice whose likelihood the context raises most."""

    name = "acc_mutual_info"

    def details(self) -> Mapping[str, str]:
        return {"norm": "unconditional", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return [
            with_it - without
            for with_it, without in zip(outcome.logprobs, outcome.unconditional, strict=True)
        ]


class F1Score(AggregatedMetric):
    """F1 of the choice number 1, over all documents."""

    name = "f1"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return F1()

    def details(self) -> Mapping[str, str]:
        return {"positive": "1", "tie": "first"}

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, ChoiceOutcome):
            raise self.cannot_score(outcome)
        if outcome.multiple:
            raise EvaluationError(
                f"metric {self.name} needs one right choice a document, this task has several"
            )
        return [outcome.gold[0], best(outcome.logprobs)]


class Matthews(F1Score):
    """Matthews correlation of right and chosen answers."""

    name = "mcc"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return MatthewsCorrelation()

    def details(self) -> Mapping[str, str]:
        return {"tie": "first"}


class BrierScore(AggregatedMetric):
    """Squared distance of softmax(log-likelihoods) from the right choice."""

    name = "brier_score"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return Brier()

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, ChoiceOutcome) or outcome.multiple:
            raise self.cannot_score(outcome)
        if not 0 <= outcome.gold[0] < len(outcome.choices):
            raise EvaluationError("brier_score: a document's label names none of its choices")
        values = np.asarray(outcome.logprobs)
        powers = np.exp(values - np.max(values))
        return [outcome.gold[0], (powers / powers.sum()).tolist()]


class DocumentPerplexity(AggregatedMetric):
    """exp of the negative mean nats of a whole continuation (so a document, not a token, is the unit)."""

    name = "perplexity"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return Perplexity()

    def item(self, outcome: Outcome) -> float:
        if isinstance(outcome, LikelihoodOutcome):
            return outcome.logprob
        raise self.cannot_score(outcome)


class WordPerplexity(AggregatedMetric):
    """Perplexity a word, words being what white space separates."""

    name = "word_perplexity"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return WeightedPerplexity()

    def item(self, outcome: Outcome) -> Any:
        if isinstance(outcome, RollingOutcome):
            return [outcome.logprob, len(re.split(r"\s+", outcome.text))]
        raise self.cannot_score(outcome)


class BytePerplexity(AggregatedMetric):
    """Perplexity a UTF-8 byte."""

    name = "byte_perplexity"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return WeightedPerplexity()

    def item(self, outcome: Outcome) -> Any:
        if isinstance(outcome, RollingOutcome):
            return [outcome.logprob, len(outcome.text.encode("utf-8"))]
        raise self.cannot_score(outcome)


class BitsPerByteMetric(BytePerplexity):
    """Bits a UTF-8 byte: what a compressor using the model would need."""

    name = "bits_per_byte"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return BitsPerByte()
