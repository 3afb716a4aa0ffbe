"""Values and bootstrap intervals of BLEU, chrF, TER and ROUGE equal those of sacrebleu and rouge-score to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu.metrics
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from task_files import GENERATION, load, run, saying, write_task

from llmasos.api import EvaluationError, GenerationOutcome
from llmasos_evals.metrics.corpus import Bleu, Chrf, ChrfPlusPlus, Ter
from llmasos_evals.metrics.rouge import FastBootstrapAggregator, Rouge1, Rouge2, RougeL, RougeLsum
from llmasos_evals.statistics.resampling import rouge_percentiles, sacrebleu_interval, summed

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
SYSTEMS = ("JDExploreAcademy", "OpenNMT", "PROMT")
KINDS = {
    "bleu": (Bleu, "BLEU", {}),
    "chrf": (Chrf, "CHRF", {}),
    "chrf++": (ChrfPlusPlus, "CHRF", {"word_order": 2}),
    "ter": (Ter, "TER", {}),
}


def lines(pattern: str) -> list[str]:
    found = sorted((SHARED / "wmt22").glob(pattern))
    if not found:
        pytest.skip("no shared data")
    return found[0].read_text(encoding="utf-8").split("\n")[:-1]


def same_interval(kind: str, options: dict[str, Any], hyps: list[str], refs: list[list[str]]) -> None:
    """Ours against ``corpus_score(..., n_bootstrap=1000)``."""
    make, name, fixed = KINDS[kind]
    theirs = getattr(sacrebleu.metrics, name)(**fixed, **options)
    expected = theirs.corpus_score(hyps, refs, n_bootstrap=1000)
    metric = make(**options)
    items = [
        metric.item(GenerationOutcome(hyp, tuple(column[row] for column in refs), len(refs) > 1))
        for row, hyp in enumerate(hyps)
    ]
    found = metric.aggregation.interval(items)
    assert metric.aggregate(items) == expected.score
    assert (found.mean, found.half_width) == (float(expected._mean), float(expected._ci))
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize(
    ("kind", "options", "documents"),
    [
        ("bleu", {}, 200),
        ("bleu", {"tokenize": "intl", "lowercase": True}, 200),
        ("bleu", {"smooth_method": "add-k", "smooth_value": 2, "max_ngram_order": 3}, 200),
        ("bleu", {"smooth_method": "floor", "effective_order": True, "tokenize": "char"}, 100),
        ("chrf", {}, 60),
        ("chrf", {"char_order": 4, "beta": 3, "whitespace": True}, 60),
        ("chrf", {"lowercase": True, "eps_smoothing": True}, 60),
        ("chrf++", {}, 60),
        ("ter", {}, 30),
        ("ter", {"normalized": True, "no_punct": True, "asian_support": True, "case_sensitive": True}, 30),
    ],
)
def test_sacrebleu_on_a_slice(kind: str, options: dict[str, Any], documents: int, references: int) -> None:
    refs = [lines("*ref.A*")[:documents], lines("*ref.B*")[:documents]][:references]
    same_interval(kind, options, lines("*OpenNMT*")[:documents], refs)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_sacrebleu_on_all_of_wmt22(kind: str, system: str) -> None:
    same_interval(kind, {}, lines(f"*{system}*"), [lines("*ref.A*")])


def test_an_uneven_number_of_references_gives_thirds_of_words() -> None:
    hyps = ["a b c d", "e f g", "h i j k l"] * 4
    refs = [["a b c", "e f", "h i k l"] * 4, ["b c", "e f g h", "i j"] * 4, ["a", "g", "l"] * 4]
    same_interval("ter", {}, hyps, refs)


def test_replicates_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    draws = np.random.default_rng(1).integers(0, 50, size=(40, 50))
    whole = summed(rows, draws)
    monkeypatch.setattr("llmasos_evals.statistics.resampling.BLOCK", 200)
    assert (summed(rows, draws) == whole).all()
    with pytest.raises(EvaluationError, match="needs documents"):
        sacrebleu_interval([], float)


# ---- ROUGE ----------------------------------------------------------------------------------------------------------


def summaries(name: str, count: int | None) -> list[tuple[str, list[str]]]:
    path = SHARED / "gem" / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("no shared data")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [(".\n".join(row["input"].split(". ")[:2]), row["references"]) for row in rows]


def same_rouge(metric: Any, rows: list[tuple[str, list[str]]], stem: bool) -> None:
    scorer = RougeScorer([metric.name], use_stemmer=stem)
    ours = metric(use_stemmer=stem)
    theirs = [scorer.score_multi(refs, said)[metric.name] for said, refs in rows]
    items = [ours.item(GenerationOutcome(said, tuple(refs))) for said, refs in rows]
    assert items == [score.fmeasure for score in theirs]
    for measure in ("precision", "recall"):
        other = metric(use_stemmer=stem, measure=measure)
        assert other.item(GenerationOutcome(rows[0][0], tuple(rows[0][1]))) == getattr(theirs[0], measure)
    np.random.seed(1234)
    library = BootstrapAggregator()
    for score in theirs:
        library.add_scores({metric.name: score})
    expected = library.aggregate()[metric.name]
    found = ours.interval(items)
    assert (found.low, found.mean, found.high) == tuple(
        float(edge.fmeasure) for edge in (expected.low, expected.mid, expected.high)
    )


@pytest.mark.parametrize("metric", [Rouge1, Rouge2, RougeL, RougeLsum])
@pytest.mark.parametrize(("data", "stem"), [("common_gen", False), ("xsum", True)])
def test_rouge_score_on_a_slice(metric: Any, data: str, stem: bool) -> None:
    same_rouge(metric, summaries(data, 20), stem)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Rouge1, Rouge2, RougeL, RougeLsum])
@pytest.mark.parametrize("data", ["xsum", "common_gen", "e2e_nlg"])
def test_rouge_score_on_all_of_gem(metric: Any, data: str) -> None:
    same_rouge(metric, summaries(data, None), stem=False)


@pytest.mark.parametrize("size", [1, 2, 37])
def test_the_aggregator_for_task_code_is_the_librarys(size: int) -> None:
    scorer = RougeScorer(["rouge1", "rougeLsum"])
    said = ["the cat sat down", "a dog", "rain in the north"]
    scores = [scorer.score("the cat lay down in the rain", said[n % 3]) for n in range(size)]
    results = []
    for make in (BootstrapAggregator, FastBootstrapAggregator):
        np.random.seed(5)
        aggregator = make(n_samples=200, confidence_interval=0.9)
        for score in scores:
            aggregator.add_scores(score)
        results.append((aggregator.aggregate(), np.random.random()))
    assert results[0] == results[1]  # the stream stands at the same place afterwards, too


def test_task_code_gets_it_in_place_of_the_librarys(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        """
from rouge_score import rouge_scorer, scoring

def score(doc, results):
    aggregator = scoring.BootstrapAggregator()
    for _ in range(3):
        aggregator.add_scores(rouge_scorer.RougeScorer(["rouge1"]).score(doc["question"], results[0]))
    assert type(aggregator).__name__ == "FastBootstrapAggregator", type(aggregator)
    return {"mine": aggregator.aggregate()["rouge1"].mid.fmeasure}
"""
    )
    fields = {**GENERATION, "process_results": "!function work.score", "metric_list": [{"metric": "mine"}]}
    task = load(write_task(tmp_path, **fields), code=True)
    (score,) = run(task, saying("What is 1 + 1?"), limit=1)
    assert score.value == 1.0


def test_the_middle_of_one_score_is_that_score() -> None:
    value = np.array([[0.1, 0.7, 1 / 3]])
    assert (rouge_percentiles(value, np.random.RandomState(0)) == value).all()


def test_t5_sentences() -> None:
    reference, said = "a b . c d", "c d . a b"
    scorer = RougeScorer(["rougeLsum"])
    plain = scorer.score(reference, said)["rougeLsum"].fmeasure
    broken = scorer.score("a b.\nc d", "c d.\na b")["rougeLsum"].fmeasure
    outcome = GenerationOutcome(said, (reference,))
    assert RougeLsum().item(outcome) == plain
    assert RougeLsum(sentences="t5").item(outcome) == broken
    assert plain < broken
