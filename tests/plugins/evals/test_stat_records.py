"""Intervals in the record of a run: every score has one, clusters are taken from a column, compat keeps the harness's errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_model import ScriptedHub

from llmasos.api import EvalRequest, InputError
from llmasos.pipelines.evaluate import evaluate
from llmasos_evals.records.reading import open_run

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
{fields}
"""
CHOICE = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: brier_score}, {metric: mcc}]"""
PROSE = "output_type: loglikelihood_rolling\ndoc_to_target: '{{page}}'"
STORY = """output_type: generate_until
doc_to_text: "{{page}}"
doc_to_target: "x y z"
generation_kwargs: {until: ["!"], max_gen_toks: 4}
metric_list: [{metric: exact_match}, {metric: bleu}, {metric: chrf}]"""


@pytest.fixture
def tasks(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, fields in {"colours": CHOICE, "prose": PROSE, "story": STORY}.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, fields=fields))
        rows = [
            {
                "question": f"Q{n} " * (n % 5 + 1),
                "options": ["red", "green", "blue"],
                "answer": n % 3,
                "page": "It was a dark night. " * (n % 4 + 1) + str(n),
                "passage": n // 4,
            }
            for n in range(24)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "all.yaml").write_text(
        "group: all\ntask: [colours, story]\n"
        "aggregate_metric_list: [{metric: acc}, {metric: exact_match, weight_by_size: false}]\n"
    )
    return folder


def run(tmp_path, tasks, *names, **settings):
    request = EvalRequest("scripted", names, include=(tasks,), **{"bootstrap": 1000, **settings})
    return evaluate(ScriptedHub(tmp_path / "cache"), request, None)


def test_every_score_of_a_native_run_has_an_error_and_an_interval(tmp_path, tasks):
    record = run(tmp_path, tasks, "all", "prose").record
    sections = [*record["tasks"], *record["groups"]]
    scores = {score["metric"]: score for section in sections for score in section["scores"]}
    assert {"acc", "brier_score", "mcc", "exact_match", "bleu", "chrf", "word_perplexity"} <= set(scores)
    for score in [score for section in sections for score in section["scores"]]:
        assert score["stderr"] is not None, score
        assert score["ci_low"] <= score["value"] <= score["ci_high"], score
    assert scores["word_perplexity"]["stderr_method"] == "analytic|t:log"
    assert scores["chrf"]["stderr_method"] == "bootstrap:1000:philox|percentile"
    group = record["groups"][0]["scores"][0]
    assert group["stderr_method"] == "pooled|wilson"
    assert group["range"] == [0.0, 1.0]


def test_compat_writes_the_harnesss_errors(tmp_path, tasks):
    record = run(tmp_path, tasks, "prose", "colours", compat="lm-eval").record
    scores = {score["metric"]: score for task in record["tasks"] for score in task["scores"]}
    assert scores["word_perplexity"]["stderr"] is None
    assert scores["word_perplexity"]["stderr_method"] == "none|t:log"
    assert scores["word_perplexity"]["ci_low"] < scores["word_perplexity"]["value"]
    assert scores["mcc"]["stderr_method"] == "bootstrap:1000:mt19937|percentile"
    assert scores["brier_score"]["stderr"] is None


def test_clusters_come_from_the_option_or_the_task(tmp_path, tasks):
    plain = run(tmp_path, tasks, "colours", output=tmp_path / "plain")
    asked = run(tmp_path, tasks, "colours", cluster_column="passage", output=tmp_path / "asked")
    path = tasks / "colours.yaml"
    path.write_text(path.read_text() + "metadata: {cluster: passage}\n")
    told = run(tmp_path, tasks, "colours", output=tmp_path / "told")
    scores = [result.record["tasks"][0]["scores"][0] for result in (plain, asked, told)]
    assert scores[0]["stderr_method"] == "analytic|wilson"
    assert scores[1]["stderr_method"] == "clustered:passage|wilson"
    assert scores[1] == scores[2]
    assert scores[0]["stderr"] != scores[1]["stderr"]
    clusters = [sample["cluster"] for sample in open_run(tmp_path / "asked").samples("colours")]
    assert len(set(clusters)) == 6
    assert clusters[0] == clusters[3] != clusters[4]
    assert "cluster" not in open_run(tmp_path / "plain").sample("colours", 0)


def test_a_column_that_is_not_there_is_said_before_scoring(tmp_path, tasks):
    with pytest.raises(InputError, match="document 0 has no column chapter to cluster by"):
        run(tmp_path, tasks, "colours", cluster_column="chapter")


def test_no_bootstrap_no_errors(tmp_path, tasks):
    record = run(tmp_path, tasks, "colours", bootstrap=0).record
    assert all(score["stderr"] is None and score["ci_low"] is None for score in record["tasks"][0]["scores"])


def test_a_function_that_draws_numbers_has_the_same_error_in_every_run(tmp_path, tasks):
    path = tasks / "story.yaml"
    (tasks / "work.py").write_text(
        "import random\n\n\ndef noisy(items):\n    return sum(items) / len(items) + random.random()\n"
    )
    path.write_text(
        path.read_text().replace(
            "{metric: exact_match}", "{metric: exact_match, aggregation: !function work.noisy}"
        )
    )
    (one, two) = (
        run(tmp_path, tasks, "story", allow_task_code=True, output=tmp_path / name).record
        for name in ("a", "b")
    )
    score = one["tasks"][0]["scores"][0]
    assert score["stderr"] > 0
    assert score["stderr_method"] == "bootstrap:1000:philox|percentile"
    assert one["digest"] == two["digest"]
