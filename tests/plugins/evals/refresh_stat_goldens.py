"""Make ``stat_goldens.json``: what scipy says of small cases.

Run in an environment that has scipy: ``python tests/plugins/evals/refresh_stat_goldens.py``.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import scipy
from scipy import stats
from scipy.special import betainc


def sign_flips(differences: list[float]) -> float:
    """Two-sided p of the exact sign-flip test of a mean."""
    result = stats.permutation_test(
        (np.asarray(differences),),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    return float(result.pvalue)


def main() -> None:
    random = np.random.default_rng(5)
    flips = [random.normal(0.3, 1, size).round(3).tolist() for size in (4, 9, 12)]
    goldens = {
        "made_by": "python tests/plugins/evals/refresh_stat_goldens.py",
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "betainc": [
            [a, b, x, float(betainc(a, b, x))]
            for a in (0.5, 1, 2.5, 30, 5000, 100_000)
            for b in (0.5, 1, 7, 400, 90_000)
            for x in (0.001, 0.2, 0.5, 0.9)
        ],
        "t_quantile": [
            [p, df, float(stats.t.ppf(p, df))]
            for p in (0.6, 0.9, 0.975, 0.9995)
            for df in (1, 2, 3, 9, 61, 1171)
        ],
        "t_below": [
            [t, df, float(stats.t.cdf(t, df))] for t in (-30, -2.5, -0.1, 0, 1.96) for df in (1, 4, 50)
        ],
        "binomial_at_most": [
            [k, n, p, float(stats.binom.cdf(k, n, p))]
            for k, n, p in [(0, 1, 0.5), (3, 10, 0.5), (7, 10, 0.8), (95, 200, 0.5), (60_000, 120_500, 0.5)]
        ],
        "wilson": [
            [k, n, *stats.binomtest(k, n).proportion_ci(0.95, method="wilson")]
            for k, n in [(0, 5), (5, 5), (1, 1), (3, 10), (620, 1172), (199_990, 200_000)]
        ],
        "mcnemar": [
            [b, c, float(stats.binomtest(min(b, c), b + c, 0.5).pvalue) if b + c else 1.0]
            for b, c in [(0, 0), (1, 0), (5, 5), (3, 12), (40, 71), (2100, 2400), (30_000, 30_500)]
        ],
        "sign_flip": [[differences, sign_flips(differences)] for differences in flips],
        "normal_quantile": [[p, float(stats.norm.ppf(p))] for p in (1e-6, 0.025, 0.5, 0.8, 0.975)],
    }
    Path(__file__).with_name("stat_goldens.json").write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
