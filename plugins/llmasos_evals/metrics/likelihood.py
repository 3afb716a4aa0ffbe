"""Metrics over log-likelihoods: multiple choice, whole continuations and running text.

Definitions as in lm-evaluation-harness 0.4.13, ``ConfigurableTask.process_results``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmasos.api import (
    ChoiceOutcome,
    EvaluationError,
    GenerationOutcome,
    InputError,
    LikelihoodOutcome,
    Outcome,
    RollingOutcome,
)
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.statistics.aggregations import (
    Aggregation,
    BitsPerByte,
    Brier,
    Perplexity,
    WeightedPerplexity,
    mean,
    sample_stddev,
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


def label_pair(outcome: GenerationOutcome) -> list[Any]:
    """(right label, given label) of a generated answer, the right one in the type of the other, as in the harness."""
    if not outcome.references:
        raise EvaluationError("a document has no right label")
    given = outcome.prediction[0] if isinstance(outcome.prediction, list) else outcome.prediction
    right: Any = outcome.references[0]
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        with contextlib.suppress(ValueError):
            right = type(given)(right)
    return [right, given]


def probabilities(scores: Sequence[float]) -> NDArray[np.float64]:
    """softmax. Raises EvaluationError when a score is not a number."""
    best(scores)
    values = np.asarray(scores, dtype=np.float64)
    powers = np.exp(values - np.max(values))
    found: NDArray[np.float64] = powers / powers.sum()
    return found


def _share(value: float, length: int) -> float:
    return value / float(length) if length else -math.inf


class Accuracy(AggregatedMetric):
    """Share of documents whose most likely choice is right; for a lone continuation, whether it is the greedy one.

    Generated text is only handed on, as (right, said), to an aggregation function of the task's own: the harness does so.
    """

    name = "acc"
    pairs = True

    def details(self) -> Mapping[str, str]:
        return {"norm": "none", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return outcome.logprobs

    def item(self, outcome: Outcome) -> Any:
        if isinstance(outcome, LikelihoodOutcome):
            return float(outcome.is_greedy)
        if isinstance(outcome, GenerationOutcome) and self.pairs:
            return label_pair(outcome)
        if isinstance(outcome, ChoiceOutcome):
            return float(best(self.scores(outcome)) in outcome.gold)
        raise self.cannot_score(outcome)

    def tied(self, outcome: ChoiceOutcome) -> bool:
        """Whether another choice scores as high as the best one: the first of them was taken."""
        scores = list(self.scores(outcome))
        return scores.count(max(scores)) > 1


class AccuracyPerCharacter(Accuracy):
    """Accuracy with log-likelihoods divided by the characters of the choice."""

    name = "acc_norm"
    pairs = False

    def details(self) -> Mapping[str, str]:
        return {"norm": "chars", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return per_character(outcome)


class AccuracyPerByte(Accuracy):
    """Accuracy with log-likelihoods divided by the UTF-8 bytes of the choice."""

    name = "acc_bytes"
    pairs = False

    def details(self) -> Mapping[str, str]:
        return {"norm": "bytes", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return per_byte(outcome)


class AccuracyMutualInformation(Accuracy):
    """Accuracy of the choice whose likelihood the context raises most."""

    name = "acc_mutual_info"
    pairs = False

    def details(self) -> Mapping[str, str]:
        return {"norm": "unconditional", "tie": "first"}

    def scores(self, outcome: ChoiceOutcome) -> Sequence[float]:
        return [
            with_it - without
            for with_it, without in zip(outcome.logprobs, outcome.unconditional, strict=True)
        ]


class Likelihood(AggregatedMetric):
    """Mean log-likelihood of the right choice in nats; an aggregation function gets (right choice, log-likelihoods)."""

    name = "likelihood"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return GoldLikelihood()

    def item(self, outcome: Outcome) -> Any:
        if not isinstance(outcome, ChoiceOutcome):
            raise self.cannot_score(outcome)
        gold: Any = list(outcome.gold) if outcome.multiple else outcome.gold[0]
        return [gold, list(outcome.logprobs)]


class GoldLikelihood:
    """Mean of the right choice's log-likelihood, of several right ones the likeliest; items are (right, all)."""

    name = "gold_likelihood"

    def value(self, items: Sequence[Any]) -> float:
        return mean(self._nats(items))

    def stderr(self, items: Sequence[Any], bootstrap: int) -> float | None:
        return sample_stddev(self._nats(items)) / math.sqrt(len(items))

    @staticmethod
    def _nats(items: Sequence[Any]) -> list[float]:
        found = []
        for gold, nats in items:
            right = [nats[g] for g in (gold if isinstance(gold, list) else [gold]) if 0 <= g < len(nats)]
            if not right:
                raise EvaluationError("likelihood: a document's label names none of its choices")
            found.append(float(max(right)))
        return found


class ChoiceProbability(AggregatedMetric):
    """Mean probability of the right choices, softmax over the log-likelihoods of all choices.

    ``norm`` divides log-likelihoods by characters or bytes first. A label that names no choice counts as 0.
    """

    name = "choice_probability"

    def __init__(self, norm: str = "none", **idle: Any) -> None:
        super().__init__(**idle)
        self.norm, self.scores = norm, normalisation(self.name, norm)

    def details(self) -> Mapping[str, str]:
        return {"norm": self.norm}

    def item(self, outcome: Outcome) -> float:
        if not isinstance(outcome, ChoiceOutcome):
            raise self.cannot_score(outcome)
        shares = probabilities(self.scores(outcome))
        return float(sum(shares[gold] for gold in set(outcome.gold) if 0 <= gold < len(shares)))


def normalisation(metric: str, norm: str) -> Callable[[ChoiceOutcome], Sequence[float]]:
    """What an option ``norm`` means: none, chars or bytes."""
    known: dict[str, Callable[[ChoiceOutcome], Sequence[float]]] = {
        "none": lambda outcome: outcome.logprobs,
        "chars": per_character,
        "bytes": per_byte,
    }
    if norm not in known:
        raise InputError(f"{metric}: norm {norm!r} is none of {', '.join(known)}")
    return known[norm]


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
        return [outcome.gold[0], probabilities(outcome.logprobs).tolist()]


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


class TokenPerplexity(AggregatedMetric):
    """Perplexity a token of the model's own tokenizer: models with different ones cannot be compared by it."""

    name = "token_perplexity"

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return WeightedPerplexity()

    def item(self, outcome: Outcome) -> Any:
        if isinstance(outcome, (LikelihoodOutcome, RollingOutcome)):
            return [outcome.logprob, outcome.tokens]
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
