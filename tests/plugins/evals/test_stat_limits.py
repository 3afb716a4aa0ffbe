"""`--limit auto`: the order of documents, the number it comes to, and that the interval then holds what it says."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import ScriptedHub

from llmasos.api import EvalRequest, UsageError
from llmasos.cli.main import run as command_line
from llmasos.pipelines.evaluate import Silence, evaluate
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.replay import request_of
from llmasos_evals.records.rescoring import rescore
from llmasos_evals.statistics.aggregations import Mean, WeightedPerplexity
from llmasos_evals.statistics.intervals import interval
from llmasos_evals.statistics.limits import PILOT, decide, sampling, target

SHARE = (0.0, 1.0)


def score(items, limits=SHARE, aggregation=None):
    """The score of some documents."""
    aggregation = aggregation or Mean()
    measure = SimpleNamespace(aggregation=aggregation, metric=None, range=limits, aggregate=aggregation.value)
    found = interval(measure, items, bootstrap=1000)
    return SimpleNamespace(
        value=aggregation.value(items), n=len(items), ci_low=found.low, ci_high=found.high,
        stderr_method=found.method, range=limits,
    )  # fmt: skip


# ---- order -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(0, 9))
def test_the_order_has_every_document_once(size, seed):
    found = sampling("quiz", size, seed)
    assert sorted(found.order) == list(range(size))
    assert found == sampling("quiz", size, seed)
    assert found.pilot == min(size, PILOT)
    assert found.first(size // 2) == sorted(found.order[: size // 2])


def test_orders_of_seeds_and_tasks_differ_and_are_random():
    orders = {sampling(task, 300, seed).order for task in ("a", "b") for seed in (1, 2)}
    assert len(orders) == 4
    places = np.asarray([sampling("quiz", 300, seed).order for seed in range(300)])
    assert abs(places[:, :100].mean() - 149.5) < 3
    assert abs(np.corrcoef(places[:, 0], places[:, 1])[0, 1]) < 0.2


def test_clusters_stay_together():
    labels = [f"passage {n // 7}" for n in range(700)]
    found = sampling("quiz", 700, 1, labels)
    assert sorted(found.order) == list(range(700))
    chosen = found.first(250)
    assert len(chosen) == 252
    assert all(
        sum(labels[place] == label for place in chosen) == 7 for label in {labels[place] for place in chosen}
    )
    assert found.pilot == 280  # forty clusters
    assert sampling("quiz", 30, 1, [str(n // 7) for n in range(30)]).first(9999) == list(range(30))


# ---- number ------------------------------------------------------------------------------------------------------------


def test_targets():
    assert target(0.01, 0.7, SHARE) == 0.01
    assert target(0.01, 30.0, (0.0, 100.0)) == pytest.approx(1.0)
    assert target(0.01, 25.0, (1.0, None)) == pytest.approx(0.25)


def test_the_number_by_the_formula():
    half = score([1.0, 0.0] * 100)
    assert decide([half], 0.02, 10_000).documents == math.ceil((1.959964 * 0.5 / 0.02) ** 2)
    assert decide([half], 0.02, 1000).count == 1000
    assert decide([half], 0.5, 1000).count == 200
    sure = score([1.0] * 200)  # the pilot does not say that nothing is ever wrong
    assert 200 < decide([sure], 0.005, 10**6).documents < 3000
    values = np.random.default_rng(1).normal(0.0, 2.0, 200).tolist()
    found = decide([score(values, (-10.0, 10.0))], 0.01, 10**6).documents
    plain = (1.972 * np.std(values, ddof=1) / 0.2) ** 2
    assert 1.1 * plain < found < 1.2 * plain  # ten in a hundred pilots would understate the spread by more


def test_the_widest_metric_decides():
    narrow, wide = score([1.0] * 190 + [0.0] * 10), score([1.0, 0.0] * 100)
    both = decide([narrow, wide], 0.02, 10**6).documents
    assert both == decide([wide], 0.02, 10**6).documents > decide([narrow], 0.02, 10**6).documents


def sequential(draw, make, interval_, runs, truth, limits=SHARE, aggregation=None):
    """(how often the interval holds the truth, how often it is as narrow as wanted) in two-stage runs."""
    held = narrow = 0
    for _ in range(runs):
        items = make(draw, PILOT)
        wanted = decide([score(items, limits, aggregation)], interval_, 10**9).count
        items = [*items, *make(draw, wanted - PILOT)]
        final = score(items, limits, aggregation)
        held += final.ci_low <= truth <= final.ci_high
        narrow += (final.ci_high - final.ci_low) / 2 <= target(interval_, final.value, limits) * (1 + 1e-9)
    return held / runs, narrow / runs


def rates(rate):
    return lambda draw, size: (draw.random(size) < rate).astype(float).tolist()


def perplexities(draw, size):
    words = draw.integers(50, 300, size)
    return [[float(-w * e), int(w)] for w, e in zip(words, draw.normal(2.0, 0.6, size), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "interval_", "truth", "limits", "aggregation"),
    [
        (rates(0.5), 0.03, 0.5, SHARE, None),
        (rates(0.9), 0.02, 0.9, SHARE, None),
        (rates(0.97), 0.01, 0.97, SHARE, None),
        (perplexities, 0.03, math.exp(2.0), (1.0, None), WeightedPerplexity()),
    ],
)
def test_two_stages_keep_the_level_and_reach_the_width(make, interval_, truth, limits, aggregation):
    held, narrow = sequential(np.random.default_rng(7), make, interval_, 1000, truth, limits, aggregation)
    assert 0.93 <= held <= 0.975
    assert narrow >= 0.86


def test_two_stages_keep_the_level_in_a_few_runs():
    held, narrow = sequential(np.random.default_rng(7), rates(0.8), 0.03, 200, 0.8)
    assert held >= 0.9
    assert narrow >= 0.82


# ---- in a run ----------------------------------------------------------------------------------------------------------

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["red", "green", "blue"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("quiz", "other"):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name))
    rows = [{"question": f"Q{n}", "answer": n % 3, "passage": n // 3} for n in range(600)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def auto(tmp_path, tasks, interval_, *, hub=None, names=("quiz",), **settings):
    settings = {"bootstrap": 1000, **settings}
    request = EvalRequest("scripted", names, include=(tasks,), limit="auto", interval=interval_, **settings)
    return evaluate(hub or ScriptedHub(tmp_path / "cache"), request, None)


def test_a_run_scores_what_the_interval_needs(tmp_path, tasks):
    result = auto(tmp_path, tasks, 0.05, output=tmp_path / "out", names=("quiz", "other"))
    for section in result.record["tasks"]:
        (found,) = section["scores"]
        sampled = section["sampling"]
        assert PILOT <= found["n"] < 600
        assert found["n"] == sampled["wanted"]
        assert (found["ci_high"] - found["ci_low"]) / 2 <= 0.05
        assert sampled["reached"] is True
        assert sampled["pilot"] == PILOT
        assert sampled["rule"].startswith("two-stage|")
        indices = [sample["index"] for sample in open_run(tmp_path / "out").samples(section["name"])]
        assert indices == sampling(section["name"], 600, 1234).first(found["n"])
    assert (result.record["settings"]["limit"], result.record["settings"]["interval"]) == ("auto", 0.05)
    # Scored again, the record still says how its documents were chosen.
    request = request_of(result.record, include=(tasks,))
    hub = ScriptedHub(tmp_path / "cache")
    again = rescore(open_run(tmp_path / "out"), request, hub, Silence(), output=tmp_path / "again").record
    assert again["tasks"] == result.record["tasks"]


def test_a_wanted_interval_that_the_data_cannot_give(tmp_path, tasks):
    section = auto(tmp_path, tasks, 0.005).record["tasks"][0]
    assert section["scores"][0]["n"] == 600
    assert section["sampling"]["wanted"] > 600
    assert section["sampling"]["reached"] is False


def test_the_same_run_again_computes_nothing(tmp_path, tasks):
    hub = ScriptedHub(tmp_path / "cache")
    first = auto(tmp_path, tasks, 0.05, hub=hub, output=tmp_path / "out").record
    loads = hub.loads
    second = auto(tmp_path, tasks, 0.05, hub=hub, output=tmp_path / "out").record
    assert second["digest"] == first["digest"]
    assert second["timings"]["documents_computed"] == 0
    assert hub.loads == loads
    fresh = auto(tmp_path, tasks, 0.05, output=tmp_path / "fresh").record
    assert fresh["digest"] == first["digest"]


def test_an_interrupted_run_gives_the_same_record(tmp_path, tasks):
    whole = auto(tmp_path, tasks, 0.05, output=tmp_path / "whole").record
    for kept in (50, 230):
        folder = tmp_path / f"torn_{kept}"
        auto(tmp_path, tasks, 0.05, output=folder)
        (folder / "record.json").unlink()
        path = open_run(tmp_path / "whole").samples_path("quiz")
        (folder / path.name).write_text("".join((folder / path.name).read_text().splitlines(True)[:kept]))
        assert auto(tmp_path, tasks, 0.05, output=folder).record["digest"] == whole["digest"]


def test_clusters_are_sampled_whole(tmp_path, tasks):
    section = auto(tmp_path, tasks, 0.05, cluster_column="passage", output=tmp_path / "out").record["tasks"][
        0
    ]
    indices = [sample["index"] for sample in open_run(tmp_path / "out").samples("quiz")]
    assert len(indices) == section["scores"][0]["n"]
    assert all({3 * (n // 3), 3 * (n // 3) + 1, 3 * (n // 3) + 2} <= set(indices) for n in indices)


def test_auto_needs_standard_errors(tmp_path, tasks):
    with pytest.raises(UsageError, match="limit auto needs standard errors"):
        auto(tmp_path, tasks, 0.05, bootstrap=0)


@pytest.mark.parametrize(("text", "value"), [("1pp", 0.01), ("2.5%", 0.025), ("0.03", 0.03)])
def test_the_option(text, value, capsys, monkeypatch):
    seen = {}

    def caught(hub, request, progress=None):
        seen["interval"] = request.interval
        raise UsageError("far enough")

    monkeypatch.setattr("llmasos.pipelines.evaluate.evaluate", caught)
    assert command_line(["eval", "m", "quickstart", "--limit", "auto", "--interval", text]) == 2
    assert "far enough" in capsys.readouterr().err
    assert seen["interval"] == pytest.approx(value)


@pytest.mark.parametrize("text", ["0", "-1pp", "x", "1 mile"])
def test_what_is_no_interval(text, capsys):
    assert command_line(["eval", "m", "quickstart", "--limit", "auto", f"--interval={text}"]) == 2
    assert "--interval" in capsys.readouterr().err
