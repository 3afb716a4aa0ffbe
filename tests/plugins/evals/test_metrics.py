"""Metrics and their standard errors, against definitions and against the libraries themselves."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos import Hub
from llmasos.api import (
    ChoiceOutcome,
    EvaluationError,
    GenerationOutcome,
    LikelihoodOutcome,
    MissingDependency,
    RollingOutcome,
)
from llmasos_evals.metrics import base
from llmasos_evals.metrics.classification import F1Score, Matthews
from llmasos_evals.metrics.corpus import Bleu, Chrf, ChrfPlusPlus, Ter
from llmasos_evals.metrics.generation import ExactMatch
from llmasos_evals.metrics.likelihood import (
    Accuracy,
    AccuracyMutualInformation,
    AccuracyPerByte,
    AccuracyPerCharacter,
    BrierScore,
    ties,
)
from llmasos_evals.metrics.rouge import Rouge1, Rouge2, RougeL, RougeLsum
from llmasos_evals.plugin import llmasos_metrics
from llmasos_evals.statistics.aggregations import (
    F1,
    MatthewsCorrelation,
    Median,
    NanMean,
    Perplexity,
    pooled_stderr,
    sample_stddev,
    total,
    unweighted_stderr,
)

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def choice(*logprobs: float, gold: int = 0, choices: tuple[str, ...] = (), **more: Any) -> ChoiceOutcome:
    names = choices or tuple("abcdefgh"[: len(logprobs)])
    greedy = tuple(value == max(logprobs) for value in logprobs)
    return ChoiceOutcome(logprobs, greedy, names, (gold,), **more)


def said(prediction: Any, *references: str) -> GenerationOutcome:
    return GenerationOutcome(prediction, references, len(references) > 1)


# ---- likelihoods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "outcome", "expected"),
    [
        (Accuracy, choice(-1.0, -2.0), 1.0),
        (Accuracy, choice(-2.0, -1.0), 0.0),
        (Accuracy, choice(-1.0, -1.0, gold=1), 0.0),  # the first of equals wins
        (Accuracy, choice(-1.0, -2.0, gold=-100), 0.0),
        (Accuracy, LikelihoodOutcome(-3.0, True), 1.0),
        (AccuracyPerCharacter, choice(-3.0, -4.0, gold=1, choices=("abc", "abcdef")), 1.0),
        (AccuracyPerByte, choice(-3.0, -4.0, gold=0, choices=("ééé", "abcde")), 1.0),
        (AccuracyPerCharacter, choice(-3.0, -4.0, gold=0, choices=("ééé", "abcde")), 0.0),
        (AccuracyPerCharacter, choice(0.0, -4.0, gold=1, choices=("", "b")), 1.0),
        (AccuracyMutualInformation, choice(-3.0, -1.0, gold=0, unconditional=(-9.0, -1.0)), 1.0),
        (ExactMatch, choice(-1.0, -2.0, gold=0), 1.0),
        (ExactMatch, choice(-1.0, -2.0, gold=1), 0.0),
        (ExactMatch, choice(-1.0, -2.0, gold=-100), 0.0),
        (F1Score, choice(-2.0, -1.0, gold=1), [1, 1]),
        (Matthews, choice(-2.0, -1.0, gold=0), [0, 1]),
    ],
)
def test_items(metric: Callable[[], Any], outcome: Any, expected: Any) -> None:
    assert metric().item(outcome) == expected


def test_ties() -> None:
    assert ties(choice(-1.0, -1.0, -2.0))
    assert not ties(choice(-1.0, -2.0, -2.0))


def test_brier_by_hand() -> None:
    items = [
        BrierScore().item(choice(math.log(3.0), 0.0, gold=0)),
        BrierScore().item(choice(0.0, 0.0, gold=1)),
    ]
    assert BrierScore().aggregate(items) == pytest.approx((2 * 0.25**2 + 2 * 0.5**2) / 2)


def test_what_a_metric_cannot_score_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="bleu cannot score LikelihoodOutcome"):
        Bleu().item(LikelihoodOutcome(-1.0, True))
    with pytest.raises(EvaluationError, match="f1 needs labels 0 and 1"):
        F1().value([[2, 1], [0, 1]])
    with pytest.raises(EvaluationError, match="the same number of choices"):
        BrierScore().aggregate([[0, [0.5, 0.5]], [0, [1.0]]])
    with pytest.raises(EvaluationError, match="no words or bytes at all"):
        Hub().get("metric", "byte_perplexity")().aggregate([[-0.0, 0]])


@pytest.mark.parametrize(
    ("items", "f1", "mcc"),
    [
        ([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], 2 * 2 / (3 + 3), None),
        ([[0, 0], [0, 0]], 0.0, 0.0),
        ([[1, 0], [0, 1]], 0.0, -1.0),
        ([[1, 1], [0, 0]], 1.0, 1.0),
    ],
)
def test_f1_and_matthews(items: list[list[int]], f1: float, mcc: float | None) -> None:
    assert F1().value(items) == f1
    hits, misses = sum(a == b == 1 for a, b in items), sum(a == 1 and b == 0 for a, b in items)
    alarms, rests = sum(a == 0 and b == 1 for a, b in items), sum(a == b == 0 for a, b in items)
    root = math.sqrt((hits + alarms) * (hits + misses) * (rests + alarms) * (rests + misses))
    expected = (hits * rests - alarms * misses) / root if root else 0.0
    assert MatthewsCorrelation().value(items) == pytest.approx(expected if mcc is None else mcc)


# ---- generations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prediction", "references", "expected"),
    [
        ({}, "Yes.", ("Yes.",), 1.0),
        ({}, "yes.", ("Yes.",), 0.0),
        ({"ignore_case": True}, "yes.", ("Yes.",), 1.0),
        ({"ignore_punctuation": True}, "Yes", ("Yes.",), 1.0),
        ({"ignore_numbers": True}, "Yes12", ("Yes",), 1.0),
        ({"regexes_to_ignore": ["(?s).*#### ", ","]}, "1,000", ("so\n#### 1000",), 1.0),
        ({}, "b", ("a", "b"), 1.0),
        ({}, ["b", "c"], ("b",), 0.5),
        ({}, [], ("b",), 0.0),
        ({}, "", ("",), 1.0),
    ],
)
def test_exact_match(
    options: dict[str, Any], prediction: Any, references: tuple[str, ...], expected: float
) -> None:
    assert ExactMatch(**options).item(said(prediction, *references)) == expected


def test_rouge_of_several_references_is_the_best() -> None:
    assert Rouge1().item(said("a red house", "a blue car", "the red house")) == pytest.approx(2 / 3)
    assert Rouge1().item(said("", "a")) == 0.0


@pytest.mark.parametrize("metric", [Rouge1, Rouge2, RougeL, RougeLsum])
def test_rouge_equals_rouge_score_on_summaries(metric: Any) -> None:
    path = SHARED / "gem" / "xsum.jsonl"
    if not path.is_file():
        pytest.skip("no shared data")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([metric.name], use_stemmer=False)
    made = metric()
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(40), lines, strict=False)]
    for row in rows:
        prediction = ".\n".join(row["input"].split(". ")[:2])
        assert made.item(said(prediction, row["references"][0])) == (
            scorer.score(row["references"][0], prediction)[metric.name].fmeasure
        )


def wmt22(system: str) -> tuple[list[str], list[str], list[str]]:
    folder = SHARED / "wmt22"
    if not folder.is_dir():
        pytest.skip("no shared data")

    def lines(pattern: str) -> list[str]:
        (path,) = folder.glob(pattern)
        return path.read_text(encoding="utf-8").split("\n")[:-1]

    return lines(f"*{system}*"), lines("*ref*A*"), lines("*ref*B*")


def test_corpus_metrics_equal_sacrebleu_on_wmt22() -> None:
    import sacrebleu

    predictions, first, second = wmt22("JDExploreAcademy")
    predictions, first, second = predictions[:300], first[:300], second[:300]
    one = [[[reference], prediction] for reference, prediction in zip(first, predictions, strict=True)]
    two = [[[a, b], prediction] for a, b, prediction in zip(first, second, predictions, strict=True)]
    assert Bleu().aggregate(one) == sacrebleu.corpus_bleu(predictions, [first]).score
    assert Chrf().aggregate(one) == sacrebleu.corpus_chrf(predictions, [first]).score
    assert ChrfPlusPlus().aggregate(one) == sacrebleu.corpus_chrf(predictions, [first], word_order=2).score
    assert Ter().aggregate(one[:80]) == sacrebleu.corpus_ter(predictions[:80], [first[:80]]).score
    assert Bleu().aggregate(two) == sacrebleu.corpus_bleu(predictions, [first, second]).score
    lower = sacrebleu.corpus_bleu(predictions, [first], tokenize="intl", lowercase=True).score
    assert Bleu(tokenize="intl", lowercase=True).aggregate(one) == lower


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "bleu", "chrf"),
    [("JDExploreAcademy", 37.79, 64.32), ("OpenNMT", 35.69, 62.13), ("PROMT", 36.12, 62.85)],
)
def test_published_values_of_whole_wmt22_systems(system: str, bleu: float, chrf: float) -> None:
    predictions, reference, _ = wmt22(system)
    items = list(zip(reference, predictions, strict=True))
    assert round(Bleu().aggregate(items), 2) == bleu
    assert round(Chrf().aggregate(items), 2) == chrf


def test_documents_with_different_numbers_of_references() -> None:
    import sacrebleu

    items = [[["a b c d e", "x"], "a b c d e"], [["f g h i"], "f g h j"]]
    expected = sacrebleu.corpus_bleu(["a b c d e", "f g h j"], [["a b c d e", "f g h i"], ["x", None]]).score
    assert Bleu().aggregate(items) == expected


@pytest.mark.parametrize("metric", [Bleu, Chrf, Ter])
def test_empty_text_is_a_score_not_a_crash(metric: Any) -> None:
    items = [metric().item(said("", "a reference")), metric().item(said("", "another one"))]
    assert metric().aggregate(items) == (100.0 if metric is Ter else 0.0)
    with pytest.raises(EvaluationError, match="has no documents"):
        metric().aggregate([])
    with pytest.raises(EvaluationError, match="no reference"):
        metric().aggregate([[[], "x"]])


@pytest.mark.parametrize("make", [Bleu, Chrf, Ter, Rouge1])
def test_a_missing_library_is_an_error(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="is not installed") as caught:
        make()
    assert caught.value.hint == "pip install 'llmasos[evals]'"


# ---- standard errors ------------------------------------------------------------------------------------------------


def plain_bootstrap(statistic: Callable[[list[Any]], float], items: list[Any], replicates: int) -> float:
    """The harness's bootstrap, written out: chunks of at most 1000, each with a generator of its own."""
    chunk, values = min(1000, replicates), []
    for number in range(replicates // chunk):
        stream = random.Random(number)
        values += [statistic(stream.choices(items, k=len(items))) for _ in range(chunk)]
    return sample_stddev(values)


PAIRS = [[random.Random(i).randrange(2), random.Random(i + 100).randrange(2)] for i in range(30)]
NATS = [-random.Random(i).random() * 5 for i in range(37)]
TEXTS = [
    [[f"the {w} house is {w}"], f"the {w} house was {v}"] for w, v in zip("abcdefgh", "aacceegg", strict=True)
]


@pytest.mark.parametrize(
    ("aggregation", "items", "replicates"),
    [
        (Perplexity(), NATS, 2500),
        (Median(), NATS, 1000),
        (NanMean(), [*NATS, math.nan], 200),
        (F1(), PAIRS, 2000),
        (MatthewsCorrelation(), PAIRS, 300),
        (Bleu().aggregation, TEXTS, 100),
        (Chrf().aggregation, TEXTS, 70),
        (Ter().aggregation, TEXTS, 50),
    ],
)
def test_bootstrap_is_the_plain_one_to_the_last_bit(
    aggregation: Any, items: list[Any], replicates: int
) -> None:
    assert aggregation.stderr(items, replicates) == plain_bootstrap(aggregation.value, items, replicates)


def test_corpus_metrics_draw_at_most_a_hundred_replicates() -> None:
    assert Bleu().stderr(TEXTS, bootstrap=100_000) == Bleu().stderr(TEXTS, bootstrap=100)


def test_blocks_do_not_change_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Perplexity().stderr(NATS, 1000)
    monkeypatch.setattr("llmasos_evals.statistics.bootstrap.BLOCK", 100)
    assert Perplexity().stderr(NATS, 1000) == whole


def test_analytic_standard_error_of_a_mean() -> None:
    items = [1.0, 0.0, 0.0, 1.0, 1.0]
    expected = statistics.stdev(items) / math.sqrt(5)
    assert Accuracy().stderr(items, bootstrap=1) == pytest.approx(expected)
    assert Accuracy().stderr(items, bootstrap=0) is None
    assert Accuracy().stderr([1.0], bootstrap=10) is None


def test_sums_run_from_left_to_right() -> None:
    assert total([1e16, 1.0, -1e16]) == 0.0


def test_standard_errors_of_groups() -> None:
    assert unweighted_stderr([3.0, 4.0]) == 2.5
    values = [[0.0, 1.0] * 10, [1.0, 1.0, 0.0] * 10]
    stderrs = [Accuracy().stderr(part, bootstrap=1) or 0.0 for part in values]
    together = Accuracy().stderr(values[0] + values[1], bootstrap=1)
    assert pooled_stderr(stderrs, [20, 30]) == pytest.approx(together, rel=0.05)


# ---- catalogue ------------------------------------------------------------------------------------------------------


BBQ = {
    "context_condition": "ambig",
    "question_polarity": "neg",
    "label": 2,
    "ans0": "The old man",
    "ans1": "The young man",
    "ans2": "Not known",
    "answer_info": {"ans0": ["the old man", "old"], "ans1": ["x", "young"], "ans2": ["x", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
}
IFEVAL = {
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
    "kwargs": [{}, {"num_sentences": 2, "relation": "less than"}],
}


def outcome_for(name: str, kind: str) -> Any:
    """An outcome that a metric can score."""
    if kind == "multiple_choice":
        pair = ("pct_stereotype", "likelihood_diff")
        scores = (
            (-1.0, -2.0) if name in pair or not name.startswith(("bbq", "stereoset")) else (-1.0, -2.0, -3.0)
        )
        doc = BBQ | ({"scores": [0.5, 1.0]} if name == "multiple_choice_grade" else {})
        return choice(*scores, gold=1, unconditional=(-1.0,) * len(scores), doc=doc)
    if kind == "loglikelihood":
        return LikelihoodOutcome(-2.0, False, 3)
    if kind == "loglikelihood_rolling":
        return RollingOutcome(-20.0, "some words", 5)
    if name.startswith("entity"):
        return said("B-PER O", "B-PER B-LOC")
    if name == "f1" or name == "acc":
        return said(1, "0")
    if name == "pass_at_k":
        return said("x = 1", "assert x == 1")
    return GenerationOutcome("a b c", ("a b d",), doc=BBQ | IFEVAL)


@pytest.mark.parametrize("definition", list(llmasos_metrics()), ids=lambda definition: definition.name)
def test_every_metric_of_the_catalogue_keeps_its_promises(definition: Any) -> None:
    hub = Hub()
    assert hub.contribution("metric", definition.name) == definition
    metric = hub.get("metric", definition.name)()
    assert metric.signature.startswith(f"{definition.name}|")
    assert "|v:" in metric.signature
    assert definition.unit
    for kind in definition.scores:
        if (definition.name, kind) == ("acc", "generate_until"):
            continue  # only for the task's own aggregation
        if definition.name == "pass_at_k":
            metric.permitted = True
        items = [metric.item(outcome_for(definition.name, kind))] * 3
        if definition.name == "pass_at_k":
            items = [item["pass@1"] for item in items]
        assert json.loads(json.dumps(items)) == items
        if definition.name.endswith("_disambig"):
            items = [[0, *item[1:]] for item in items]
        value = metric.aggregate(items)
        low, high = definition.range
        assert low is None or low <= value
        assert high is None or value <= high
        stderr = metric.stderr(items, bootstrap=100)
        assert stderr is None or stderr == pytest.approx(0.0, abs=1e-12)
