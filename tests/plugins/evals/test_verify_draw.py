"""Drawing documents, what a draw is worth, and what counts as a difference."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter

import pytest
from record_samples import a_sample

from llmasos_evals.records.comparison import Comparison
from llmasos_evals.records.drawing import detection, draw
from llmasos_evals.records.tolerance import TOLERANCES, tolerance_of

DOCUMENTS = {"a": range(60), "b": range(100, 140)}


def test_a_draw_is_a_function_of_seed_and_documents():
    first = draw(DOCUMENTS, 10, "seed")
    assert first == draw(dict(reversed(DOCUMENTS.items())), 10, "seed")
    assert first != draw(DOCUMENTS, 10, "another")
    assert sum(map(len, first.values())) == 10
    assert all(set(indices) <= set(DOCUMENTS[task]) for task, indices in first.items())


def test_a_larger_draw_contains_the_smaller_one():
    small, large = draw(DOCUMENTS, 10, "s"), draw(DOCUMENTS, 30, "s")
    assert all(set(indices) <= set(large[task]) for task, indices in small.items())


def test_no_more_than_there_are():
    assert draw(DOCUMENTS, 1000, "s") == {"a": list(range(60)), "b": list(range(100, 140))}


def test_each_document_is_as_likely_as_any_other():
    counts = Counter(
        (task, index)
        for n in range(2000)
        for task, indices in draw(DOCUMENTS, 10, str(n)).items()
        for index in indices
    )
    assert len(counts) == 100
    # Expected 200 each, standard deviation about 13.4.
    assert max(abs(count - 200) for count in counts.values()) < 6 * 13.4


@pytest.mark.parametrize("documents", [7, 100, 5000])
@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.3])
def test_the_probability_is_that_of_counting(documents, size, share):
    altered = math.ceil(share * documents - 1e-9)
    size_ = min(size, documents)
    exact = 1 - math.comb(documents - altered, size_) / math.comb(documents, size_)
    assert detection(documents, size, share) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_the_probability_is_near_the_rule_of_thumb():
    assert detection(10**6, 64, 0.05) == pytest.approx(1 - 0.95**64, abs=1e-4)
    assert detection(10**6, 64, 0.02) == pytest.approx(0.7255, abs=1e-3)


@pytest.mark.parametrize(
    ("stored", "found", "tokens", "allowed"),
    [
        (-10.0, -10.0009, 1, True),
        (-10.0, -10.0012, 1, False),
        (-10.0, -10.0012, 0, False),
        (-1000.0, -1000.0095, 100, True),
        (-1000.0, -1000.011, 100, False),
        (-math.inf, -math.inf, 1, True),
        (-math.inf, -1e9, 1, False),
        (math.nan, math.nan, 1, True),
        (None, None, 1, True),
        (None, 0.0, 1, False),
    ],
)
def test_log_likelihoods_within_the_tolerance(stored, found, tokens, allowed):
    assert tolerance_of("float32").allows(stored, found, tokens) is allowed


def test_an_unknown_precision_gets_the_widest_tolerance():
    made = tolerance_of("float8")
    assert (made.dtype, made.nats) == ("float8", TOLERANCES["bfloat16"].nats)


def comparison(gap=lambda *_: 1.0, generation=None) -> Comparison:
    return Comparison(tolerance_of("float32"), gap, generation or {})


def changed(**fields) -> dict:
    sample = copy.deepcopy(a_sample(3))
    sample["responses"][0].update(fields)
    return sample


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"logprob": -1.52}, "log-likelihood is -1.5, not -1.52"),
        ({"logprob": {"$float": "-inf"}}, "not -inf"),
        ({"is_greedy": False}, "is_greedy is True, not False"),
        ({"ids_digest": "f" * 64}, "token ids"),
        ({"tokens": 2}, "tokens is 1, not 2"),
        ({"truncated": 2}, "truncated is 0, not 2"),
        ({"text": "x"}, "no text"),
    ],
)
def test_what_refutes_a_document_is_named(fields, said):
    made = comparison()
    assert made.add("t", changed(**fields), a_sample(3)) == "refuted"
    ((task, index, what),) = made.refuted
    assert (task, index) == ("t", 3)
    assert said in what


def test_equal_and_nearly_equal_documents_agree():
    made = comparison()
    assert made.add("t", a_sample(3), a_sample(3)) == "agreed"
    assert made.add("t", changed(logprob=-1.5004), a_sample(3)) == "agreed"
    assert made.largest == pytest.approx(0.0004)
    assert (made.agreed, made.undecided, made.refuted) == (2, 0, [])


def test_a_greedy_flag_may_differ_where_two_tokens_are_equally_likely():
    assert comparison(gap=lambda *_: 1e-6).add("t", changed(is_greedy=False), a_sample(3)) == "agreed"


@pytest.mark.parametrize(
    ("gap", "settings", "outcome"),
    [
        (5e-4, {"temperature": 0.0}, "agreed"),
        (0.5, {"temperature": 0.0}, "refuted"),
        (None, {"temperature": 0.0}, "refuted"),
        (9.0, {"temperature": 0.8}, "undecided"),
    ],
)
def test_texts_that_differ(gap, settings, outcome):
    made = comparison(lambda *_: gap, {"t": settings})
    stored = changed(text="theirs", logprob=None, is_greedy=None)
    found = changed(text="mine", logprob=None, is_greedy=None)
    assert made.add("t", stored, found) == outcome


def test_altered_documents_are_met_as_often_as_stated():
    chosen = random.Random(4)
    altered = {("a", index) for index in chosen.sample(range(60), 5)}
    met = [
        any(
            (task, index) in altered
            for task, indices in draw(DOCUMENTS, 20, str(n)).items()
            for index in indices
        )
        for n in range(2000)
    ]
    stated = detection(100, 20, 0.05)
    deviation = math.sqrt(stated * (1 - stated) / len(met))
    assert abs(sum(met) / len(met) - stated) < 4 * deviation
