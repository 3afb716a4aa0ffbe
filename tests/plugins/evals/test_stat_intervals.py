"""Standard errors and intervals: formulas by hand, both bootstraps, clusters, edges, and coverage by simulation."""

from __future__ import annotations

import math
import statistics
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos_evals.metrics.corpus import Bleu, Chrf, Ter
from llmasos_evals.statistics import bootstrap
from llmasos_evals.statistics.aggregations import (
    F1,
    BitsPerByte,
    Brier,
    FunctionAggregation,
    MatthewsCorrelation,
    Mean,
    Median,
    NanMean,
    Perplexity,
    WeightedPerplexity,
)
from llmasos_evals.statistics.bootstrap import bootstrap_sums, masks, picks
from llmasos_evals.statistics.clusters import Clusters, clustered_stderr
from llmasos_evals.statistics.distributions import t_quantile, wilson
from llmasos_evals.statistics.intervals import Uncertainty, interval

SHARE, ANY = (0.0, 1.0), (None, None)


def measure(aggregation: Any, limits=ANY) -> Any:
    """An aggregation as a task's measure."""
    return SimpleNamespace(
        aggregation=aggregation,
        metric=None,
        range=limits,
        aggregate=aggregation.value,
        stderr=lambda items, draws: aggregation.stderr(items, draws) if len(items) > 1 else None,
    )


def found(aggregation: Any, items: Any, limits=ANY, **options: Any) -> Uncertainty:
    return interval(measure(aggregation, limits), items, **{"bootstrap": 10_000, **options})


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pairs(size: int) -> list[list[int]]:
    draw = random(3)
    gold = draw.integers(0, 2, size)
    return [
        [int(a), int(a if keep else b)]
        for a, b, keep in zip(gold, draw.integers(0, 2, size), draw.random(size) < 0.6, strict=True)
    ]


WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "quickly", "slowly", "and"]


def sentences(size: int, noise: float = 0.3) -> list[list[Any]]:
    draw = random(8)
    out = []
    for _ in range(size):
        reference = [str(word) for word in draw.choice(WORDS, 9)]
        said = [str(draw.choice(WORDS)) if draw.random() < noise else word for word in reference]
        out.append([[" ".join(reference)], " ".join(said)])
    return out


# ---- formulas ----------------------------------------------------------------------------------------------------------


def test_a_proportion_has_the_analytic_error_and_wilsons_interval():
    items = [1.0] * 13 + [0.0] * 7
    result = found(Mean(), items, SHARE)
    assert result.stderr == pytest.approx(statistics.stdev(items) / math.sqrt(20), rel=1e-12)
    assert (result.low, result.high) == wilson(13, 20)
    assert result.method == "analytic|wilson"


def test_the_native_error_of_a_mean_is_the_harnesss_bit_for_bit():
    items = random(1).normal(size=200).tolist()
    assert found(Mean(), items).stderr == Mean().stderr(items, 1)


def test_a_mean_of_other_numbers_has_students_interval():
    items = [0.25, 0.5, 0.75, 1.0, 0.1]
    result = found(Mean(), items, SHARE)
    reach = t_quantile(0.975, 4) * statistics.stdev(items) / math.sqrt(5)
    assert (result.low, result.high) == pytest.approx((0.52 - reach, 0.52 + reach))
    assert result.method == "analytic|t"


def test_zeros_and_ones_of_a_metric_that_is_no_share_are_not_a_proportion():
    assert found(Mean(), [0.0, 1.0, 1.0, 0.0], (0.0, None)).method == "analytic|t"
    assert found(Mean(), [0.0, 1.0, 1.0, 0.0], ANY).method == "analytic|wilson"


def test_a_perplexitys_interval_is_that_of_its_logarithm():
    nats = (-random(2).gamma(3.0, 1.0, 80)).tolist()
    result = found(Perplexity(), nats, (1.0, None))
    value, error = math.exp(-statistics.fmean(nats)), statistics.stdev(nats) / math.sqrt(80)
    reach = t_quantile(0.975, 79) * error
    assert result.stderr == pytest.approx(value * error)
    assert (result.low, result.high) == pytest.approx((value * math.exp(-reach), value * math.exp(reach)))
    assert result.method == "analytic|t:log"


@pytest.mark.parametrize("aggregation", [WeightedPerplexity(), BitsPerByte()])
def test_a_ratios_formula_agrees_with_the_bootstrap_over_documents(aggregation):
    draw = random(4)
    words = draw.integers(50, 400, 300)
    items = [[float(-w * draw.normal(2.0, 0.3)), int(w)] for w in words]
    result = found(aggregation, items)
    rows = np.asarray(items, dtype=float)
    replicates = aggregation.statistic(items).sums().finish(bootstrap_sums(rows, 4000))
    assert result.stderr == pytest.approx(float(replicates.std(ddof=1)), rel=0.05)
    assert result.low < aggregation.value(items) < result.high
    assert aggregation.stderr(items, 100) is None  # the harness has none


def test_brier_is_a_mean_over_documents():
    items = [[0, [0.7, 0.3]], [1, [0.4, 0.6]], [0, [0.5, 0.5]]]
    distances = [0.18, 0.32, 0.5]
    result = found(Brier(), items, (0.0, 2.0))
    assert result.stderr == pytest.approx(statistics.stdev(distances) / math.sqrt(3))
    assert Brier().statistic(items).mean == pytest.approx(Brier().value(items))


def test_nanmean_leaves_out_what_is_no_number():
    items = [1.0, math.nan, 0.0, 1.0, math.nan, 0.5]
    known = [1.0, 0.0, 1.0, 0.5]
    result = found(NanMean(), items)
    assert NanMean().statistic(items).mean == pytest.approx(statistics.fmean(known))
    # n in the correction is that of all documents, so the two agree up to that factor
    assert result.stderr == pytest.approx(
        math.sqrt(statistics.pvariance(known) * 4) / 4 * math.sqrt(6 / 5), rel=1e-12
    )


# ---- bootstrap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "items"),
    [
        (F1(), pairs(200)),
        (MatthewsCorrelation(), pairs(200)),
        (Median(), random(5).normal(size=101).tolist()),
        (FunctionAggregation(lambda items: max(0.0, sum(items)) / len(items), "share"), random(6).normal(0.4, 1, 150).tolist()),
    ],
)  # fmt: skip
def test_the_native_bootstrap_has_the_spread_of_the_harnesss(aggregation, items):
    result = found(aggregation, items)
    values = [
        aggregation.value([items[i] for i in row])
        for block in bootstrap.resamples(len(items), 3000)
        for row in block
    ]
    assert result.stderr == pytest.approx(statistics.stdev(values), rel=0.06)
    assert result.low == pytest.approx(float(np.quantile(values, 0.025)), abs=0.35 * result.stderr)
    assert result.high == pytest.approx(float(np.quantile(values, 0.975)), abs=0.35 * result.stderr)
    assert result.method.startswith("bootstrap:")
    assert result.method.endswith(":philox|percentile")


@pytest.mark.parametrize("metric", [Bleu(), Chrf(), Ter()])
def test_corpus_metrics_are_sums_of_rows(metric):
    items = sentences(60)
    aggregation = metric.aggregation
    result = interval(measure(aggregation), items, bootstrap=2000)
    harness = aggregation.stderr(items, 100)
    assert result.stderr == pytest.approx(harness, rel=0.35)  # a hundred replicates say no more
    assert result.low < aggregation.value(items) < result.high
    assert result.method == "bootstrap:2000:philox|percentile"


def test_a_bootstrap_of_a_function_is_bounded():
    calls = []

    def slow(items):
        calls.append(len(items))
        return sum(items) / len(items)

    items = [float(n % 7) for n in range(30_000)]
    result = found(FunctionAggregation(slow, "slow"), items, bootstrap=100_000)
    assert sum(calls) <= 102 * 30_000
    assert result.method == "bootstrap:100:philox|t"
    assert result.stderr == pytest.approx(statistics.stdev(items) / math.sqrt(30_000), rel=0.3)


def test_a_function_that_cannot_be_resampled_has_no_error():
    def picky(items):
        if len(set(items)) < len(items):
            raise KeyError("every document once")
        return float(len(items))

    result = found(FunctionAggregation(picky, "picky"), [1.0, 2.0, 3.0])
    assert result == Uncertainty(None, None, None, "none|none")


def test_streams_do_not_depend_on_blocks_or_on_how_many_replicates_follow(monkeypatch):
    rows = random(7).normal(size=(90, 2))
    whole = bootstrap_sums(rows, 700)
    coins = np.concatenate(list(masks(90, 700, 5)))
    drawn = np.concatenate(list(picks(90, 700, 5)))
    assert (bootstrap_sums(rows, 300) == whole[:300]).all()
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)
    assert (bootstrap_sums(rows, 700) == whole).all()
    assert (np.concatenate(list(masks(90, 700, 5))) == coins).all()
    assert (np.concatenate(list(picks(90, 700, 5))) == drawn).all()
    assert (np.concatenate(list(picks(90, 700, 6))) != drawn).any()


def test_the_three_ways_to_sum_are_one_bootstrap():
    """Few distinct rows (multinomial), whole numbers (weights) and anything else (gathering) have the same spread."""
    draw = random(9)
    few = draw.integers(0, 2, (2000, 1)).astype(float)
    whole = draw.integers(0, 1000, (400, 6)).astype(float)
    other = draw.normal(size=(400, 2))
    for rows in (few, whole, other):
        sums = bootstrap_sums(rows, 2000)
        expected = rows.std(axis=0) * math.sqrt(len(rows))
        assert sums.mean(axis=0) == pytest.approx(rows.sum(axis=0), abs=float(expected.max()) / 10)
        assert sums.std(axis=0) == pytest.approx(expected, rel=0.08)


def test_coins_are_fair_and_independent():
    drawn = np.concatenate(list(masks(100, 4000, 1))).astype(float)
    assert drawn.shape == (4000, 100)
    assert abs(drawn.mean() - 0.5) < 0.003
    assert np.abs(np.corrcoef(drawn.T) - np.eye(100)).max() < 0.08


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40), st.randoms())
def test_the_order_of_documents_changes_nothing(pairs_, shuffler):
    shuffled = list(pairs_)
    shuffler.shuffle(shuffled)
    for aggregation in (F1(), MatthewsCorrelation()):
        before = interval(measure(aggregation), [list(p) for p in pairs_], bootstrap=300)
        after = interval(measure(aggregation), [list(p) for p in shuffled], bootstrap=300)
        assert before == after


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=40),
    st.floats(-5, 5),
    st.floats(0.1, 8),
)
def test_errors_of_means_scale_and_do_not_shift(values, shift, factor):
    plain = found(Mean(), values, (None, 1e9))
    moved = found(Mean(), [factor * value + shift for value in values], (None, 1e9))
    assert moved.stderr == pytest.approx(factor * plain.stderr, rel=1e-6, abs=1e-9)
    assert moved.high - moved.low == pytest.approx(factor * (plain.high - plain.low), rel=1e-6, abs=1e-8)


# ---- compat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "items", "method"),
    [
        (Mean(), [1.0, 0.0, 1.0, 1.0], "analytic|wilson"),
        (Perplexity(), [-1.0, -2.0, -1.5], "bootstrap:500:mt19937|t:log"),
        (F1(), pairs(30), "bootstrap:500:mt19937|percentile"),
        (WeightedPerplexity(), [[-3.0, 2], [-8.0, 5], [-1.0, 1]], "none|t:log"),
        (Bleu().aggregation, sentences(20), "bootstrap:100:mt19937|t"),
    ],
)
def test_compat_has_the_harnesss_errors_and_our_intervals(aggregation, items, method):
    result = found(aggregation, items, compat="lm-eval", bootstrap=500)
    assert result.stderr == aggregation.stderr(items, 500)
    native = found(aggregation, items, bootstrap=500)
    assert (result.low, result.high) == (native.low, native.high)
    assert result.method.partition("|")[0] == method.partition("|")[0]


# ---- clusters ----------------------------------------------------------------------------------------------------------


def test_the_clustered_error_by_the_double_sum():
    """Miller 2024: the usual variance of a mean plus the covariances within clusters, pair by pair."""
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.25]
    labels = ["a", "b", "a", "c", "b", "c", "c"]
    size, centre = 7, sum(values) / 7
    usual = sum((v - centre) ** 2 for v in values) / (size - 1) / size
    cross = sum(
        (values[i] - centre) * (values[j] - centre)
        for i in range(size)
        for j in range(size)
        if i != j and labels[i] == labels[j]
    )
    clusters = Clusters.of("passage", labels)
    result = found(Mean(), values, (None, None), clusters=clusters)
    assert result.stderr == pytest.approx(math.sqrt(usual + cross / size**2), rel=1e-12)
    assert result.method == "clustered:passage|t"


def test_clusters_of_one_document_change_nothing():
    values = random(10).normal(size=50)
    alone = Clusters.of("id", list(range(50)))
    assert clustered_stderr(values - values.mean(), alone) == pytest.approx(
        values.std(ddof=1) / math.sqrt(50)
    )


def test_documents_repeated_within_clusters_are_not_more_documents():
    base = random(11).integers(0, 2, 80).astype(float)
    once = found(Mean(), base.tolist(), SHARE)
    items, labels = np.repeat(base, 10), np.repeat(np.arange(80), 10)
    naive = found(Mean(), items.tolist(), SHARE)
    honest = found(Mean(), items.tolist(), SHARE, clusters=Clusters.of("passage", labels.tolist()))
    assert naive.stderr == pytest.approx(once.stderr / math.sqrt(10), rel=0.02)
    assert honest.stderr == pytest.approx(once.stderr, rel=0.02)
    assert (honest.low, honest.high) == pytest.approx((once.low, once.high), rel=0.03)
    assert honest.method == "clustered:passage|wilson"


@pytest.mark.parametrize(
    "aggregation",
    [F1(), FunctionAggregation(lambda items: sum(a == b for a, b in items) / len(items), "agreement")],
)
def test_other_metrics_draw_clusters(aggregation):
    items = [pair for pair in pairs(60) for _ in range(5)]
    labels = [n // 5 for n in range(300)]
    naive = found(aggregation, items)
    honest = found(aggregation, items, clusters=Clusters.of("subject", labels))
    assert 1.8 < honest.stderr / naive.stderr < 2.7  # the root of five is 2.24
    assert honest.method.startswith("cluster-bootstrap:subject:")


# ---- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "item"),
    [(Mean(), 0.3), (Perplexity(), -1.0), (WeightedPerplexity(), [-2.0, 3]), (F1(), [1, 1]), (Median(), 2.0), (Bleu().aggregation, [["a b c d"], "a b c d"])],
)  # fmt: skip
@pytest.mark.parametrize("compat", ["native", "lm-eval"])
def test_one_document_has_no_error(aggregation, item, compat):
    result = found(aggregation, [item], compat=compat)
    assert (result.stderr, result.low, result.high) == (None, None, None)


def test_one_document_right_or_wrong_still_has_wilsons_interval():
    result = found(Mean(), [1.0], SHARE)
    assert result == Uncertainty(None, *wilson(1, 1), "none|wilson")


def test_no_bootstrap_no_error():
    assert found(Mean(), [1.0, 0.0], bootstrap=0) == Uncertainty(None, None, None, None)


@pytest.mark.parametrize("aggregation", [Mean(), Median(), Perplexity()])
def test_equal_values_have_no_spread(aggregation):
    result = found(aggregation, [-0.5] * 6)
    assert result.stderr == 0.0
    assert result.low == pytest.approx(aggregation.value([-0.5] * 6))
    assert result.high == pytest.approx(result.low)


@pytest.mark.parametrize("aggregation", [Mean(), Perplexity()])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_no_number_has_no_interval(aggregation, bad):
    result = found(aggregation, [-1.0, bad, -2.0])
    assert math.isnan(result.stderr)
    assert (result.low, result.high) == (None, None)


def test_one_cluster_has_no_error():
    assert found(Mean(), [1.0, 0.0, 1.0], clusters=Clusters.of("x", [1, 1, 1])).stderr is None
    assert found(F1(), pairs(9), clusters=Clusters.of("x", [1] * 9)).stderr is None


# ---- coverage ----------------------------------------------------------------------------------------------------------


def coverage(draw_items, aggregation, truth: float, runs: int, limits=ANY, clusters=None) -> float:
    """How often the 95 % interval holds the true value."""
    held = 0
    for run in range(runs):
        result = interval(
            measure(aggregation, limits), draw_items(random(1000 + run)), bootstrap=1000, clusters=clusters
        )
        held += result.low <= truth <= result.high
    return held / runs


CASES = {
    "rate 0.9 of 30": (lambda draw: (draw.random(30) < 0.9).astype(float).tolist(), Mean(), 0.9, SHARE, None),
    "rate 0.5 of 200": (lambda draw: (draw.random(200) < 0.5).astype(float).tolist(), Mean(), 0.5, SHARE, None),
    "mean of 8": (lambda draw: draw.normal(1.0, 2.0, 8).tolist(), Mean(), 1.0, ANY, None),
    "perplexity of 60": (
        lambda draw: (-draw.gamma(4.0, 0.5, 60)).tolist(), Perplexity(), math.exp(2.0), ANY, None,
    ),
    "bits a byte of 80": (
        lambda draw: [[float(-n * e), int(n)] for n, e in zip(draw.integers(50, 300, 80), draw.gamma(9.0, 0.1, 80), strict=True)],
        BitsPerByte(), 0.9 / math.log(2), ANY, None,
    ),
    "f1 of 150": (
        lambda draw: [[int(g), int(g if k else 1 - g)] for g, k in zip(draw.random(150) < 0.5, draw.random(150) < 0.8, strict=True)],
        F1(), 0.8, ANY, None,
    ),
    "40 clusters of 5": (
        lambda draw: (np.repeat(draw.normal(0.0, 1.0, 40), 5) + draw.normal(0.0, 1.0, 200)).tolist(),
        Mean(), 0.0, ANY, Clusters.of("passage", [n // 5 for n in range(200)]),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_their_level(case):
    draw_items, aggregation, truth, limits, clusters = CASES[case]
    held = coverage(draw_items, aggregation, truth, 2000, limits, clusters)
    assert 0.93 <= held <= 0.98, (case, held)  # a proportion of 30 has few possible values


def test_intervals_hold_their_level_in_a_few_hundred_runs():
    for case in ("rate 0.9 of 30", "mean of 8", "f1 of 150"):
        draw_items, aggregation, truth, limits, clusters = CASES[case]
        assert 0.905 <= coverage(draw_items, aggregation, truth, 250, limits, clusters) <= 0.988, case
