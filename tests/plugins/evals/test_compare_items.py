"""Tests of differences: against scipy's values, by brute force, by their level and power, and against sacrebleu's."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from llmasos_evals.metrics.corpus import Bleu, Chrf, Ter
from llmasos_evals.statistics.aggregations import (
    F1,
    FunctionAggregation,
    Mean,
    Median,
    Perplexity,
    WeightedPerplexity,
)
from llmasos_evals.statistics.clusters import Clusters
from llmasos_evals.statistics.comparison import Settings, compare, compare_means, paired_shares
from llmasos_evals.statistics.holm import holm
from llmasos_evals.statistics.intervals import statistic_of
from llmasos_evals.statistics.permutation import exchanged, mcnemar, randomisation, sign_flip
from llmasos_evals.statistics.power import Design, detectable, documents_needed, paired_deviation

GOLDENS = json.loads(Path(__file__).with_name("stat_goldens.json").read_text())
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- the tests ---------------------------------------------------------------------------------------------------------


def test_mcnemar_is_scipys_binomial_test():
    for only_a, only_b, p in GOLDENS["mcnemar"]:
        assert mcnemar(only_a, only_b).p == pytest.approx(p, rel=1e-7)


def test_sign_flips_are_scipys_permutation_test():
    for differences, p in GOLDENS["sign_flip"]:
        found = sign_flip(np.asarray(differences), 1000)
        assert found.test == "sign-flip:exact"
        assert found.p == pytest.approx(p, rel=1e-9)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_sign_flips_by_brute_force(differences):
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    hits = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed for signs in patterns
    )
    assert sign_flip(np.asarray(differences, dtype=float), 1000).p == pytest.approx(hits / len(patterns))


def test_many_sign_flips_are_sampled_then_normal():
    values = random(1).normal(0.03, 1.0, 30_000)
    sampled, normal = sign_flip(values[:15_000], 20_000), sign_flip(values, 1000)
    assert sampled.test == "sign-flip:20000"
    z = abs(values[:15_000].sum()) / math.sqrt((values[:15_000] ** 2).sum())
    assert sampled.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.005)
    assert normal.test == "sign-flip:normal-limit"
    heavy = values.copy()
    heavy[0] = 1e6
    assert sign_flip(heavy, 1000).test == "sign-flip:1000"


def test_differences_of_one_size_are_mcnemars_whatever_they_are_worth():
    values = np.asarray([0.1] * 30 + [-0.1] * 12 + [0.0] * 500)
    assert sign_flip(values, 1000) == mcnemar(12, 30)


def test_randomisation_by_brute_force():
    """All 2^n exchanges of a few documents against random ones."""
    draw = random(2)
    a = [[float(-w * 2.1), int(w)] for w in draw.integers(5, 60, 9)]
    b = [[x * draw.uniform(0.93, 1.02), w] for x, w in a]
    first, second = (WeightedPerplexity().statistic(items).sums() for items in (a, b))
    every = np.asarray(list(itertools.product((False, True), repeat=9)))
    observed = abs(WeightedPerplexity().value(b) - WeightedPerplexity().value(a))
    exact = float((np.abs(exchanged(first, second, [every])) >= observed - 1e-9).mean())
    found = randomisation(first, second, 20_000)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.test == "randomisation:20000"


def test_a_system_compared_with_itself():
    items = [[["a b c d e"], "a b c d f"]] * 8
    for aggregation in (Bleu().aggregation, Mean(), WeightedPerplexity()):
        own = items if isinstance(aggregation, type(Bleu().aggregation)) else [[-3.0, 2]] * 8
        own = [1.0, 0.0] * 4 if isinstance(aggregation, Mean) else own
        found = compare(aggregation, own, own)
        assert (found.difference, found.p, found.wins, found.losses) == (0.0, 1.0, 0, 0)


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_never_lowers(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
    assert min(adjusted) <= min(p_values) * len(p_values) + 1e-12


# ---- comparisons -------------------------------------------------------------------------------------------------------


def test_right_and_wrong():
    a = [1.0] * 50 + [0.0] * 30 + [1.0] * 5 + [0.0] * 15
    b = [1.0] * 50 + [0.0] * 30 + [0.0] * 5 + [1.0] * 15
    found = compare(Mean(), a, b, limits=(0.0, 1.0))
    assert (found.a, found.b, found.difference) == (0.55, 0.65, pytest.approx(0.1))
    assert (found.wins, found.ties, found.losses) == (15, 80, 5)
    assert (found.p, found.test) == (mcnemar(5, 15).p, "mcnemar:exact")
    assert (found.low, found.high) == paired_shares(5, 15, 100)[1:3]
    assert 0.0 < found.low < 0.1 < found.high
    assert found.stderr == pytest.approx(math.sqrt((0.05 + 0.15 - 0.1**2) / 100))
    assert found.detectable == pytest.approx(
        2.8016 * math.sqrt((6 / 102 + 16 / 102 - (10 / 102) ** 2) / 102), rel=1e-4
    )


def test_equal_answers_do_not_mean_that_anything_could_have_been_seen():
    found = compare(Mean(), [1.0, 0.0] * 12, [1.0, 0.0] * 12, limits=(0.0, 1.0))
    assert (found.stderr, found.p) == (0.0, 1.0)
    assert found.detectable > 0.1
    assert compare(WeightedPerplexity(), [[-3.0, 2]] * 9, [[-3.0, 2]] * 9).detectable is None


def test_lower_is_better_turns_wins_round():
    found = compare(Mean(), [2.0, 3.0, 1.0], [1.0, 3.5, 0.5], higher_is_better=False)
    assert (found.wins, found.ties, found.losses) == (2, 0, 1)
    assert found.test == "sign-flip:exact"


def test_clusters_flip_together():
    draw = random(3)
    shift = np.repeat(draw.normal(0.1, 0.5, 12), 6)
    a = draw.normal(size=72)
    b = a + shift
    clusters = Clusters.of("passage", np.repeat(np.arange(12), 6).tolist())
    naive, honest = (compare(Mean(), a.tolist(), b.tolist(), clusters=c) for c in (None, clusters))
    assert honest.test == "sign-flip:exact"
    assert honest.p == pytest.approx(sign_flip(shift[::6] * 6, 1000).p)
    assert honest.p > naive.p
    assert honest.stderr > 2 * naive.stderr


def test_right_and_wrong_in_clusters_is_no_binomial():
    a, b = [0.0] * 60, [1.0] * 10 + [0.0] * 50
    clusters = Clusters.of("passage", [n // 10 for n in range(60)])
    assert compare(Mean(), a, b, limits=(0.0, 1.0)).p == mcnemar(0, 10).p
    assert compare(Mean(), a, b, limits=(0.0, 1.0), clusters=clusters).p == 1.0  # one cluster moved, one coin


@pytest.mark.parametrize(
    "aggregation", [Median(), FunctionAggregation(lambda items: sum(items) / len(items), "mean")]
)
def test_functions_that_know_no_sums(aggregation):
    a = random(4).normal(size=60).tolist()
    b = [value + 1.0 for value in a]
    found = compare(aggregation, a, b)
    assert found.difference == pytest.approx(1.0)
    assert found.p < 0.01
    assert found.low == pytest.approx(1.0, abs=0.05)
    assert found.high == pytest.approx(1.0, abs=0.05)


def test_paired_bootstrap_of_a_ratio_agrees_with_the_delta_method():
    draw = random(5)
    words = draw.integers(50, 400, 200)
    easy = draw.normal(2.5, 0.5, 200)
    a = [[float(-w * e), int(w)] for w, e in zip(words, easy, strict=True)]
    b = [[x + float(w * draw.normal(0.02, 0.05)), w] for x, w in a]
    found = compare(WeightedPerplexity(), a, b, higher_is_better=False)
    means = [math.log(value) for value in (found.a, found.b)]
    pulls = [
        value * (np.asarray([-x for x, _ in items]) - m * words) / words.mean()
        for items, value, m in ((a, found.a, means[0]), (b, found.b, means[1]))
    ]
    assert found.stderr == pytest.approx((pulls[1] - pulls[0]).std(ddof=1) / math.sqrt(200), rel=0.05)
    assert found.p == pytest.approx(found.p_bootstrap, abs=0.02)
    assert found.low < found.difference < found.high


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30), st.randoms())
def test_the_order_of_documents_changes_nothing(pairs, shuffler):
    shuffled = list(pairs)
    shuffler.shuffle(shuffled)
    before, after = (
        compare(Mean(), [x for x, _ in some], [y for _, y in some], settings=Settings(1000))
        for some in (pairs, shuffled)
    )
    assert after.p == before.p
    assert after.stderr == pytest.approx(before.stderr, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)), min_size=3, max_size=40))
def test_exchanging_the_systems_turns_the_signs(rows):
    for aggregation, make in ((Mean(), lambda g, p: float(p)), (F1(), lambda g, p: [g, p])):
        a, b = ([make(row[0], row[k]) for row in rows] for k in (1, 2))
        there, back = (
            compare(aggregation, a, b, settings=Settings(1000)),
            compare(aggregation, b, a, settings=Settings(1000)),
        )
        assert there.difference == pytest.approx(-back.difference)
        assert (there.wins, there.losses) == (back.losses, back.wins)
        if there.test == "mcnemar:exact":
            assert there.p == back.p


def test_what_is_no_number_is_not_tested():
    for aggregation, items in ((Mean(), [1.0, math.nan, 0.0]), (Perplexity(), [-1.0, -math.inf, -2.0])):
        found = compare(aggregation, items, [-1.0, -2.0, -3.0])
        assert found.p is None
        assert found.stderr is None


def test_one_document_is_compared_without_an_interval():
    found = compare(Mean(), [0.3], [0.7])
    assert found.difference == pytest.approx(0.4)
    assert (found.p, found.stderr) == (1.0, None)
    assert compare(WeightedPerplexity(), [[-3.0, 2]], [[-4.0, 2]]).stderr is None


def test_groups_weigh_their_tasks():
    draw = random(6)
    parts = []
    for size in (40, 120):
        a = draw.integers(0, 2, size).astype(float)
        b = np.where(draw.random(size) < 0.8, a, 1.0)
        parts.append((size / 160, compare(Mean(), a.tolist(), b.tolist(), limits=(0.0, 1.0)), a, b))
    found = compare_means([part[:2] for part in parts])
    whole = compare(
        Mean(), np.concatenate([a for _, _, a, _ in parts]).tolist(), np.concatenate([b for *_, b in parts]).tolist(),
        limits=(0.0, 1.0),
    )  # fmt: skip
    assert found.difference == pytest.approx(whole.difference)
    assert found.p == pytest.approx(whole.p)
    assert found.stderr == pytest.approx(whole.stderr, rel=0.05)
    assert (found.wins, found.losses, found.documents) == (whole.wins, whole.losses, 160)


# ---- level and power ---------------------------------------------------------------------------------------------------


def rejections(runs: int, shift: float, size: int = 60) -> float:
    """How often two systems of a size are told apart at 5 %, where the second is better by ``shift``."""
    hits = 0
    for run in range(runs):
        draw = random(2000 + run)
        easy = draw.normal(0.0, 1.0, size)
        a, b = (easy + draw.normal(0.0, 1.0, size) for _ in range(2))
        hits += compare(Mean(), a.tolist(), (b + shift).tolist(), settings=Settings(1000)).p < 0.05
    return hits / runs


@pytest.mark.slow
def test_level_and_power_are_what_was_asked_for():
    assert 0.035 <= rejections(1500, 0.0) <= 0.065
    effect = detectable(math.sqrt(2.0) / math.sqrt(60), Design(0.05, 0.8))
    assert 0.76 <= rejections(1500, effect) <= 0.84


def test_level_and_power_in_a_few_hundred_runs():
    assert rejections(200, 0.0) <= 0.1
    effect = detectable(math.sqrt(2.0) / math.sqrt(60), Design(0.05, 0.8))
    assert 0.7 <= rejections(200, effect) <= 0.9


def test_documents_needed_is_the_inverse_of_what_is_detectable():
    deviation = paired_deviation(0.5, 0.4)
    assert deviation == pytest.approx(0.5 * math.sqrt(1.2))
    needed = documents_needed(0.02, deviation)
    assert detectable(deviation / math.sqrt(needed)) <= 0.02 < detectable(deviation / math.sqrt(needed - 1))
    # (2.8016 / 3 / 0.03) squared is 968.9
    assert documents_needed(0.03, 1 / 3) == 969


# ---- sacrebleu ---------------------------------------------------------------------------------------------------------


def wmt(system: str, size: int) -> list[list]:
    folder = SHARED / "wmt22"
    if not folder.exists():
        pytest.skip("no shared data")
    said = (folder / f"generaltest2022.en-de.hyp.{system}.de").read_text().splitlines()[:size]
    wanted = (folder / "generaltest2022.en-de.ref.A.de").read_text().splitlines()[:size]
    return [[[reference], text] for reference, text in zip(wanted, said, strict=True)]


def against_sacrebleu(metric, library, size: int, samples: int, systems=("OpenNMT", "PROMT")) -> None:
    """Approximate randomisation with sacrebleu's own exchanges gives its p-value, and with ours nearly so."""
    a, b = (wmt(system, size) for system in systems)
    os.environ.pop("SACREBLEU_SEED", None)
    references = [[item[0][0] for item in a]]
    named = [("a", [item[1] for item in a]), ("b", [item[1] for item in b])]
    _, scores = PairedTest(named, {"it": library}, references, test_type="ar", n_samples=samples)()
    theirs = next(values for name, values in scores.items() if name != "System")[1]
    first, second = (statistic_of(metric.aggregation, items) for items in (a, b))
    assert second.value() == theirs.score
    taken = np.random.default_rng(12345).integers(
        2, size=(samples, size), dtype=bool
    )  # the stream sacrebleu documents
    found = np.abs(exchanged(first, second, [~taken]))
    observed = abs(second.value() - first.value())
    assert (int((found > observed).sum()) + 1) / (samples + 1) == theirs.p_value
    ours = randomisation(first, second, samples).p
    assert abs(ours - theirs.p_value) <= 4 * math.sqrt(2 * max(ours, 1 / samples) / samples)


@pytest.mark.parametrize(("metric", "library"), [(Bleu(), BLEU()), (Chrf(), CHRF())])
def test_exchanges_as_sacrebleu_makes_them(metric, library):
    against_sacrebleu(metric, library, 200, 400)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "library"), [(Bleu(), BLEU()), (Chrf(), CHRF()), (Ter(), TER())])
def test_exchanges_as_sacrebleu_makes_them_on_the_whole_test_set(metric, library):
    against_sacrebleu(metric, library, 2037, 10_000, ("JDExploreAcademy", "PROMT"))


def test_paired_bootstrap_as_sacrebleu_computes_it():
    """sacrebleu's p-value from our replicate sums with its draws: it looks at one tail, ours at both."""
    size, samples = 150, 300
    a, b = (wmt(system, size) for system in ("OpenNMT", "PROMT"))
    references = [[item[0][0] for item in a]]
    named = [("a", [item[1] for item in a]), ("b", [item[1] for item in b])]
    _, scores = PairedTest(named, {"bleu": BLEU()}, references, test_type="bs", n_samples=samples)()
    theirs = scores["BLEU"][1]
    first, second = (statistic_of(Bleu().aggregation, items) for items in (a, b))
    drawn = np.random.default_rng(12345).choice(size, size=(samples, size), replace=True)
    differences = np.abs(
        second.finish(second.rows[drawn].sum(axis=1)) - first.finish(first.rows[drawn].sum(axis=1))
    )
    far = differences - differences.mean() > abs(second.value() - first.value())
    assert (int(far.sum()) + 1) / (samples + 1) == pytest.approx(theirs.p_value)
