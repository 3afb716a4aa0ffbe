"""Calibration, probabilities of choices, tokens, label sets, tags, short answers: by hand, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos import Hub
from llmasos.api import (
    ChoiceOutcome,
    EvaluationError,
    GenerationOutcome,
    InputError,
    LikelihoodOutcome,
    RollingOutcome,
    UnknownName,
)
from llmasos_evals.metrics.calibration import ExpectedCalibrationError, reliability
from llmasos_evals.metrics.classification import AveragedF1, F1Score, MacroF1
from llmasos_evals.metrics.corpus import WordErrorRate, edit_distance
from llmasos_evals.metrics.generation import SquadExact, SquadF1
from llmasos_evals.metrics.likelihood import (
    Accuracy,
    AccuracyPerByte,
    AccuracyPerCharacter,
    ChoiceProbability,
    Likelihood,
    TokenPerplexity,
)
from llmasos_evals.metrics.measures import bind
from llmasos_evals.metrics.multilabel import HammingLoss, Jaccard, MicroSetF1, SetMatch
from llmasos_evals.metrics.spans import EntityF1
from llmasos_evals.tasks.functions import TaskCode
from llmasos_evals.tasks.parsing import parse_task


def choice(*scores: float, gold: Any = (0,), choices: tuple[str, ...] = (), **more: Any) -> ChoiceOutcome:
    names = choices or tuple("abcdefgh"[: len(scores)])
    return ChoiceOutcome(scores, (False,) * len(scores), names, tuple(gold), **more)


def said(text: Any, *references: str) -> GenerationOutcome:
    return GenerationOutcome(text, references, len(references) > 1)


# ---- probabilities ----------------------------------------------------------------------------------------------------


def test_likelihood_and_probability_of_the_right_choice() -> None:
    outcome = choice(math.log(0.3), math.log(0.1), gold=(0,))
    assert ChoiceProbability().item(outcome) == pytest.approx(0.75)
    assert ChoiceProbability().item(choice(-1.0, -1.0, gold=(-100,))) == 0.0
    assert ChoiceProbability().item(choice(-1.0, -1.0, gold=(0, 1), multiple=True)) == pytest.approx(1.0)
    longer = choice(-4.0, -1.0, choices=("aaaa", "b"))
    assert ChoiceProbability(norm="chars").item(longer) == pytest.approx(0.5)
    metric = Likelihood()
    items = [metric.item(choice(-1.0, -2.0)), metric.item(choice(-3.0, -5.0, gold=(1,)))]
    assert items == [
        [0, [-1.0, -2.0]],
        [1, [-3.0, -5.0]],
    ]  # what the harness hands to an aggregation function
    assert metric.aggregate(items) == -3.0
    with pytest.raises(EvaluationError, match="names none of its choices"):
        metric.aggregate([[-100, [-1.0]]])
    with pytest.raises(InputError, match="norm 'words' is none of"):
        ChoiceProbability(norm="words")


def test_token_perplexity() -> None:
    metric = TokenPerplexity()
    items = [metric.item(RollingOutcome(-20.0, "x", 10)), metric.item(LikelihoodOutcome(-10.0, True, 5))]
    assert metric.aggregate(items) == pytest.approx(math.exp(2.0))


def test_ties_are_seen_in_what_each_metric_compares() -> None:
    outcome = choice(-2.0, -4.0, choices=("aa", "éé"))
    assert not Accuracy().tied(outcome)
    assert not AccuracyPerCharacter().tied(outcome)
    assert AccuracyPerByte().tied(outcome)


# ---- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    items = [[0.95, 1.0], [0.91, 0.0], [0.55, 1.0], [0.52, 1.0], [0.1, 0.0]]
    metric = ExpectedCalibrationError(bins=10)
    expected = (abs(1 - 1.86) + abs(2 - 1.07) + abs(0 - 0.1)) / 5
    assert metric.aggregate(items) == pytest.approx(expected)
    bins = reliability(items, bins=10)
    assert [(b.count, b.accuracy) for b in bins if b.count] == [(1, 0.0), (2, 1.0), (2, 0.5)]
    assert sum(b.count * abs(b.accuracy - b.confidence) for b in bins if b.count) / 5 == pytest.approx(
        expected
    )  # type: ignore[operator]
    assert bins[0].low == 0.0
    assert bins[-1].high == 1.0


def test_borders_belong_to_the_lower_bin() -> None:
    bins = reliability([[0.5, 1.0], [1.0, 1.0]], bins=2)
    assert [b.count for b in bins] == [1, 1]


def test_bins_of_equal_mass() -> None:
    draw = np.random.default_rng(0)
    items = [[float(c), float(draw.random() < c)] for c in draw.beta(5, 2, 3000)]
    bins = reliability(items, bins=10, binning="mass")
    assert all(290 <= b.count <= 310 for b in bins)
    assert (
        ExpectedCalibrationError(binning="mass").aggregate(items) < 0.05
    )  # it is calibrated by construction
    assert ExpectedCalibrationError().aggregate([[c, 0.0] for c, _ in items]) == pytest.approx(
        np.mean([c for c, _ in items])
    )
    stderr = ExpectedCalibrationError().stderr(items, bootstrap=200)
    assert stderr is not None
    assert 0 < stderr < 0.03


def test_confidence_is_that_of_the_chosen_answer() -> None:
    metric = ExpectedCalibrationError()
    assert metric.item(choice(math.log(3.0), 0.0, gold=(1,))) == [pytest.approx(0.75), 0.0]
    for options in ({"bins": 0}, {"bins": 1.5}, {"binning": "depth"}, {"norm": "x"}):
        with pytest.raises(InputError, match="ece"):
            ExpectedCalibrationError(**options)  # type: ignore[arg-type]


# ---- classes ----------------------------------------------------------------------------------------------------------


def test_labels_of_generated_text() -> None:
    assert F1Score().item(said(1, "1")) == [1, 1]
    assert F1Score().item(said("1", "1")) == ["1", "1"]
    items = [MacroF1().item(said(text, right)) for text, right in (("a", "a"), ("b", "a"), ("c", "c"))]
    assert MacroF1().aggregate(items) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_a_bootstrap_of_averaged_f1_is_that_of_its_values() -> None:
    items = [["a", "a"], ["b", "a"], ["b", "b"], ["a", "c"], ["c", "c"], ["b", "b"]] * 4
    from llmasos_evals.statistics.aggregations import resamples, sample_stddev

    for average in ("macro", "micro", "weighted"):
        aggregation = AveragedF1(average)
        values = [
            aggregation.value([items[i] for i in row]) for block in resamples(len(items), 50) for row in block
        ]
        assert aggregation.stderr(items, 50) == pytest.approx(sample_stddev(values), rel=1e-12)
        statistic = aggregation.statistic(items)
        assert statistic.value() == pytest.approx(aggregation.value(items), rel=1e-15)


# ---- label sets and tags ----------------------------------------------------------------------------------------------


def test_label_sets_by_hand() -> None:
    right_and_given = [("a, b", "B ,a"), ("a", "a,c"), ("", "")]
    outcomes = [said(given, right) for right, given in right_and_given]
    for metric, expected in (
        (SetMatch(), 2 / 3),
        (Jaccard(), 2.5 / 3),
        (HammingLoss(), 1 / 9),
        (MicroSetF1(), 6 / 7),
    ):
        assert metric.aggregate([metric.item(outcome) for outcome in outcomes]) == pytest.approx(expected)
    wide = HammingLoss(labels=["a", "b", "c", "d"])
    assert wide.aggregate([wide.item(outcome) for outcome in outcomes]) == pytest.approx(1 / 12)
    assert SetMatch(case=True).item(outcomes[0]) == 0.0
    with pytest.raises(EvaluationError, match="are not all in `labels`"):
        HammingLoss(labels=["a"]).item(outcomes[0])
    for options in ({"separator": ""}, {"labels": []}, {"labels": "ab"}):
        with pytest.raises(InputError, match="multilabel_match"):
            SetMatch(**options)  # type: ignore[arg-type]


def test_tags_are_cut_and_filled_to_the_length_of_the_right_ones() -> None:
    metric = EntityF1()
    right = "B-PER I-PER O B-LOC"
    assert metric.item(said("B-PER I-PER", right)) == [["LOC", 0, 1, 0], ["PER", 1, 1, 1]]
    assert metric.item(said(right + " B-ORG", right)) == [["LOC", 1, 1, 1], ["PER", 1, 1, 1]]
    assert metric.item(said("one cannot tag this", right)) == [["LOC", 0, 1, 0], ["PER", 0, 1, 0]]
    assert metric.item(said(["B-PER", "I-PER", "O", "B-LOC"], right)) == [["LOC", 1, 1, 1], ["PER", 1, 1, 1]]
    assert metric.aggregate([[], []]) == 0.0
    with pytest.raises(InputError, match="scheme 'IOB1' is none of"):
        EntityF1(scheme="IOB1")
    assert EntityF1(scheme="BIOES").signature == EntityF1(scheme="IOBES").signature


# ---- short answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "references", "exact", "f1"),
    [
        ("The cat.", ("cat",), 1.0, 1.0),
        ("a black cat", ("the cat", "black cats"), 0.0, 2 / 3),
        ("", ("",), 1.0, 1.0),
        ("", (), 1.0, 1.0),
        ("something", ("",), 0.0, 0.0),
        ("York New", ("New York",), 0.0, 1.0),
    ],
)
def test_squad(text: str, references: tuple[str, ...], exact: float, f1: float) -> None:
    outcome = GenerationOutcome(text, references)
    assert SquadExact().item(outcome) == exact
    assert SquadF1().item(outcome) == pytest.approx(f1)


def test_word_error_rate() -> None:
    assert edit_distance("kitten", "sitting") == 3
    metric = WordErrorRate()
    items = [metric.item(said("a b x", "a b c d")), metric.item(said("a", "z y", "a"))]
    assert items == [[2, 4], [0, 1]]
    assert metric.aggregate(items) == 2 / 5
    assert math.isnan(metric.aggregate([[0, 0]]))
    assert WordErrorRate().stderr(items * 5, bootstrap=100) is not None


# ---- task files -------------------------------------------------------------------------------------------------------


def bound(metric: dict[str, Any], output_type: str = "generate_until", **options: Any) -> Any:
    config = parse_task(
        {
            "task": "t",
            "dataset_path": "json",
            "test_split": "test",
            "output_type": output_type,
            "doc_to_text": "{{q}}",
            "doc_to_target": "{{a}}",
            **({"doc_to_choice": ["a", "b"]} if output_type == "multiple_choice" else {}),
            "metric_list": [metric],
        },
        Path("t.yaml"),
    )
    measures, _ = bind(config, TaskCode("t", allowed=False), Hub(), **options)
    return measures[metric["metric"]]


@pytest.mark.parametrize(
    ("metric", "message", "hint"),
    [
        (
            {"metric": "bleu", "tokenise": "intl"},
            "metric bleu has no option `tokenise`",
            "did you mean `tokenize`",
        ),
        ({"metric": "squad_f1", "colour": 1}, "metric squad_f1 has no option `colour`", "it has none"),
        (
            {"metric": "exact_match", "ignore_cases": True},
            "exact_match has no option",
            "did you mean `ignore_case`",
        ),
        ({"metric": "exact_match", "regexes_to_ignore": ["("]}, "regexes_to_ignore: missing", None),
        ({"metric": "rouge1", "measure": "f2"}, "measure 'f2' is none of", None),
        ({"metric": "acc"}, "needs an aggregation function", "exact_match"),
        (
            {"metric": "bertscore", "hf_evaluate": True},
            "script of the `evaluate` hub",
            "known without it: accuracy",
        ),
    ],
)
def test_task_files_with_mistakes(metric: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(InputError, match=message) as caught:
        bound(metric)
    assert caught.value.message.startswith("t.yaml: ")
    assert hint is None or hint in str(caught.value.hint)


def test_an_unknown_metric_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="squad_f2"):
        bound({"metric": "squad_f2"})


@pytest.mark.parametrize(
    ("metric", "text", "right", "expected"),
    [
        ({"metric": "accuracy", "hf_evaluate": True}, "b", "b", 1.0),
        ({"metric": "accuracy", "hf_evaluate": True}, 2, "2", 1.0),
        ({"metric": "f1", "hf_evaluate": True, "average": "micro"}, 2, "2", 1.0),
        ({"metric": "f1", "hf_evaluate": True, "average": "micro"}, -1, "2", 0.0),
        ({"metric": "exact_match", "hf_evaluate": True, "ignore_case": True}, "B", "b", 1.0),
    ],
)
def test_metrics_of_the_evaluate_hub_work_offline(
    metric: dict[str, Any], text: Any, right: str, expected: float
) -> None:
    measure = bound({"aggregation": "mean", **metric})
    assert measure.metric.item(said(text, right)) == expected
    assert measure.aggregate([expected, expected]) == expected


def test_options_of_the_evaluate_hub_mean_nothing_for_choices() -> None:
    measure = bound({"metric": "acc", "hf_evaluate": True}, "multiple_choice")
    assert measure.metric.item(choice(-1.0, -2.0)) == 1.0


def test_an_aggregation_that_does_not_fit_is_an_error_and_no_traceback() -> None:
    measure = bound({"metric": "f1_macro", "aggregation": "mean"})
    with pytest.raises(EvaluationError, match="cannot be aggregated as the task file asks"):
        measure.aggregate([["a", "b"], ["a", "a"]])
