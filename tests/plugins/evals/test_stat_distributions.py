"""Distributions against scipy's values (``stat_goldens.json``; ``refresh_stat_goldens.py`` makes them)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from llmasos_evals.statistics.distributions import (
    binomial_at_most,
    incomplete_beta,
    normal_below,
    normal_quantile,
    t_below,
    t_quantile,
    wilson,
)

GOLDENS = json.loads(Path(__file__).with_name("stat_goldens.json").read_text())


@pytest.mark.parametrize(
    ("name", "function", "relative"),
    [
        ("betainc", incomplete_beta, 1e-8),
        ("t_quantile", t_quantile, 1e-9),
        ("t_below", t_below, 1e-10),
        ("binomial_at_most", binomial_at_most, 1e-7),
        ("normal_quantile", normal_quantile, 1e-12),
    ],
)
def test_values_are_those_of_scipy(name, function, relative):
    assert len(GOLDENS[name]) >= 5
    for *arguments, expected in GOLDENS[name]:
        assert function(*arguments) == pytest.approx(expected, rel=relative, abs=1e-14), arguments


def test_wilson_intervals_are_those_of_scipy():
    for successes, size, low, high in GOLDENS["wilson"]:
        assert wilson(successes, size) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_wilson_has_a_width_where_all_documents_agree():
    low, high = wilson(20, 20)
    assert high == 1.0
    assert 0.8 < low < 0.9
    assert wilson(0, 20) == pytest.approx((0.0, 1 - low))


def test_both_tails_of_the_normal_are_accurate():
    assert normal_below(-9.0) == pytest.approx(1.1285884059538324e-19, rel=1e-9)
    assert normal_below(0.0) == 0.5
    assert math.isclose(normal_below(normal_quantile(0.975)), 0.975, rel_tol=1e-12)
