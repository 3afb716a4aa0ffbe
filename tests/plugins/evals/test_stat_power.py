"""`llmasos eval power`: documents needed and differences that can be seen, assumed or from runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from stat_runs import write_run

from llmasos.api import UsageError
from llmasos.cli.main import run as command_line
from llmasos_evals.statistics.amounts import amount

TASK = """task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: quiz.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
REACH = 1.959964 + 0.841621


def power(capsys, *arguments):
    code = command_line(["eval", "power", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return json.loads(captured.out)["plans"] if code == 0 else captured.err


@pytest.mark.parametrize(
    ("text", "limits", "value"),
    [
        ("1pp", (0.0, 1.0), 0.01),
        ("0.5 pp", (0.0, 100.0), 0.5),
        ("0.02", (None, None), 0.02),
        ("2e-3", (0.0, 1.0), 0.002),
    ],
)
def test_amounts(text, limits, value):
    assert amount(text, limits, "m") == pytest.approx(value)


@pytest.mark.parametrize("text", ["0", "-1pp", "x", "1%", "inf", "1pp"])
def test_what_is_no_amount(text):
    with pytest.raises(UsageError):
        amount(text, (1.0, None), "word_perplexity")


def test_before_any_run(tmp_path, capsys):
    (tmp_path / "quiz.yaml").write_text(TASK)
    (tmp_path / "quiz.jsonl").write_text('{"q": "?"}\n' * 1000)
    (plan,) = power(capsys, tmp_path / "quiz.yaml", "--effect", "2pp")
    assert (plan["documents"], plan["deviation"]) == (1000, 0.5)
    assert plan["unpaired_sees"] == pytest.approx(REACH * 0.5 * math.sqrt(2 / 1000), rel=1e-5)
    assert plan["paired_sees"] == pytest.approx(REACH * 0.5 * math.sqrt(1 / 1000), rel=1e-5)
    assert plan["needs_unpaired"] == math.ceil((REACH * 0.5 * math.sqrt(2) / 0.02) ** 2)
    assert plan["known"] == "assumed: rate 0.5, r 0.5"
    (narrow,) = power(
        capsys, tmp_path / "quiz.yaml", "--rate", "0.9", "--correlation", "0.8", "--documents", "250"
    )
    assert narrow["paired_sees"] == pytest.approx(REACH * math.sqrt(0.09 * 0.4 / 250), rel=1e-5)
    assert narrow["needs"] is None


def test_from_one_run_and_from_two(tmp_path, capsys):
    draw = np.random.default_rng(3)
    easy = draw.normal(size=4000)
    a, b = (easy + 0.5 * draw.normal(size=4000) for _ in range(2))
    write_run(tmp_path / "a", {"t": {"loss": a.tolist(), "rouge": draw.random(4000).tolist()}})
    write_run(tmp_path / "b", {"t": {"loss": b.tolist(), "rouge": draw.random(4000).tolist()}})
    one = power(capsys, "--baseline", tmp_path / "a", "--effect", "0.05")
    assert [(plan["metric"], plan["correlation"]) for plan in one] == [("loss", 0.5), ("rouge", 0.5)]
    assert one[0]["deviation"] == pytest.approx(float(a.std(ddof=1)))
    (two,) = power(
        capsys, "--baseline", tmp_path / "a", "--baseline", tmp_path / "b", "--metric", "loss", "t"
    )
    assert two["correlation"] == pytest.approx(float(np.corrcoef(a, b)[0, 1]), abs=0.01)
    assert two["paired_sees"] == pytest.approx(REACH * float((b - a).std(ddof=1)) / math.sqrt(4000), rel=0.02)
    assert two["known"] == "baseline"


def test_the_table(tmp_path, capsys):
    write_run(tmp_path / "a", {"t": {"acc": [1.0, 0.0] * 50}})
    assert command_line(["eval", "power", "--baseline", str(tmp_path / "a"), "--effect", "5pp"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    assert header.split()[:3] == ["task", "metric", "documents"]
    assert row.split()[:3] == ["t", "acc", "100"]


def test_mistakes(tmp_path, capsys):
    write_run(tmp_path / "a", {"t": {"word_perplexity": [[-3.0, 2], [-4.0, 2], [-3.3, 1]]}})
    assert "no task was named" in power(capsys)
    assert "no score was chosen" in power(capsys, "--baseline", tmp_path / "a", "other*")
    assert "no share" in power(capsys, "--baseline", tmp_path / "a", "--effect", "1pp")
    assert "more than two" in power(capsys, *["--baseline", tmp_path / "a"] * 3)
