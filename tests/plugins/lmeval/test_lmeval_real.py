"""The bridge with lm-evaluation-harness itself: its classes through our engine, and its engine with our model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def found(kept_folder, tmp_path_factory) -> dict:
    make = [
        sys.executable,
        str(ROOT / "tests" / "parity" / "oracle_environment.py"),
        str(kept_folder / "lm-eval-0.4.13"),
    ]
    python = subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "plugins", "registry")),
        "HF_HUB_OFFLINE": "1",
    }
    side = [python, str(Path(__file__).parent / "bridge_side.py"), str(tmp_path_factory.mktemp("bridge"))]
    done = subprocess.run(side, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_task_of_the_package_has_a_name(found):
    assert found["entries"] > 13_000


def test_both_engines_give_the_same_numbers(found):
    """Multiple choice with shots, likelihood, generation, windows, a group, and two Python classes."""
    ours, theirs = found["tree"], found["lm-eval"]
    assert ours.keys() == theirs.keys()
    assert set(ours) == {"b_group", "b_choice", "b_word", "b_story", "b_prose", "b_completion", "b_both"}
    for name, scores in theirs.items():
        assert ours[name].keys() == scores.keys()
        for metric, (value, stderr) in scores.items():
            assert ours[name][metric][0] == pytest.approx(value, rel=1e-5), (name, metric)
            if stderr is not None:
                assert ours[name][metric][1] == pytest.approx(stderr, rel=1e-4), (name, metric)


def test_the_oracle_says_what_it_is(found):
    assert found["written"] == sorted(
        ["oracle.json", "results.json", "status.json"]
        + [
            f"samples_{name}.jsonl"
            for name in ("b_choice", "b_word", "b_story", "b_prose", "b_completion", "b_both")
        ]
    )
    oracle = found["oracle"]
    assert oracle["engine"] == "lm-eval 0.4.13"
    assert "not a record" in oracle["note"]
    assert all(len(digest) == 64 for digest in oracle["model"]["files"].values())
