"""Known defects of other harnesses in caches, resuming, records and statistics: what the right answer is here.

One test a defect, named after it; the docstring has the thread. See ``test_peer_defects.py`` for prompts and scoring.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import shutil
import signal
import statistics
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flow_suite import run_apart, run_suite, samples, write_suite
from stat_runs import write_run
from task_files import QUESTIONS, write_task

import llmasos
from llmasos.api import canonical_digest
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_evals.records.checks import check_samples
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.store import RECORD_FILE
from llmasos_evals.statistics.aggregations import Mean, Median, bootstrap_stderr
from llmasos_evals.statistics.clusters import Clusters
from llmasos_evals.statistics.comparison import compare
from llmasos_evals.statistics.intervals import interval
from llmasos_evals.statistics.suites import compare_runs, corrected

CHOICE = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "options",
    "doc_to_target": "right",
}


@pytest.fixture
def hub(tmp_path) -> llmasos.Hub:
    return llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "cache", offline=True)


def scored(hub, model: Path, task: Path, output: Path, **settings) -> dict[int, float]:
    hub.evaluate(str(model), [str(task)], bootstrap=0, output=output, **settings)
    return {index: line["responses"][0]["logprob"] for (_, index), line in samples(output).items()}


# ---- caches -----------------------------------------------------------------------------------------------------------


def test_another_model_has_other_answers_in_the_cache(hub, tmp_path):
    """lm-eval #2715 ("different models, same results"), #4063, PRs #3597, #4064, #4065: the cache is not keyed by the model."""
    task = write_task(tmp_path, **CHOICE)
    for name, seed in (("one", 1), ("two", 2)):
        write_checkpoint(tmp_path / name, "llama", seed=seed)
    first = scored(hub, tmp_path / "one", task, tmp_path / "a", cache=True)
    second = scored(hub, tmp_path / "two", task, tmp_path / "b", cache=True)
    assert all(first[index] != second[index] for index in first)
    assert second == scored(hub, tmp_path / "two", task, tmp_path / "c")
    # And what the cache does know, it answers: nothing is computed again.
    record = hub.evaluate(
        str(tmp_path / "one"), [str(task)], bootstrap=0, output=tmp_path / "d", cache=True
    ).record
    assert record["execution"]["cached_requests"] == 2 * len(QUESTIONS)
    assert not record["execution"]["tokens_computed"]


def test_new_weights_under_the_old_name_are_another_model(hub, tmp_path):
    """lighteval #1364: the cache was keyed by the name of a revision, which can move; pytorch/ao #3073 turned it off."""
    task = write_task(tmp_path, **CHOICE)
    write_checkpoint(tmp_path / "model", "llama", seed=1)
    first = scored(hub, tmp_path / "model", task, tmp_path / "a", cache=True)
    write_checkpoint(tmp_path / "model", "llama", seed=2)
    second = scored(hub, tmp_path / "model", task, tmp_path / "b", cache=True)
    assert all(first[index] != second[index] for index in first)


# ---- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    return write_suite(tmp_path_factory.mktemp("peer_runs"), documents=6)


@pytest.fixture(scope="module")
def killed(suite, tmp_path_factory) -> Path:
    """The folder of a run that was killed, as SIGKILL does, when seven documents were written."""
    folder = tmp_path_factory.mktemp("killed")
    assert run_apart(suite, folder / "out", kill_after=7) == -signal.SIGKILL
    return folder / "out"


def test_results_are_on_disk_as_documents_finish(killed):
    """lmms-eval #852, lm-eval #2533, #2548: results are written at the very end; a crash loses hours."""
    assert not (killed / RECORD_FILE).exists()
    kept = samples(killed)
    assert len(kept) == 7
    assert all(line["responses"] and line["items"] for line in kept.values())


def test_a_killed_run_goes_on_where_it_was(suite, killed, tmp_path):
    """lm-eval #2140; lighteval #880, #417, #239; evalscope #1416: resuming starts again, or mixes two runs."""
    shutil.copytree(killed, tmp_path / "out")
    record = run_suite(suite, tmp_path / "out").record
    assert record["timings"]["documents_resumed"] == 7
    assert record["digest"] == run_suite(suite, tmp_path / "whole").record["digest"]


def test_the_number_of_workers_changes_no_number(suite, tmp_path):
    """lm-eval #1081 ("metrics different with multi-node", the local rank is used), #2281; lmms-eval #72, #750; lighteval #482."""
    names = ("last_word",)
    one = run_suite(suite, tmp_path / "one", names).record
    two = run_suite(suite, tmp_path / "two", names, workers=2, shard_tokens=60).record
    assert one["digest"] == two["digest"]
    assert [task["scores"] for task in one["tasks"]] == [task["scores"] for task in two["tasks"]]


def test_saved_answers_can_be_scored_again(suite, tmp_path, monkeypatch):
    """lm-eval #1627 ("How can I evaluate on an output file?": it should, it does not)."""
    from llmasos.cli.main import run as command_line

    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    run_suite(suite, tmp_path / "run", ("colours",), batch_invariant=False)
    (suite / "model").rename(suite / "elsewhere")  # no model is needed
    try:
        flags = ["--include", str(suite / "tasks"), "--metric", "acc_bytes", "--quiet"]
        command = ["eval", "rescore", str(tmp_path / "run"), "--output", str(tmp_path / "new"), *flags]
        assert command_line(command) == 0
    finally:
        (suite / "elsewhere").rename(suite / "model")
    scores = open_run(tmp_path / "new").task("colours")["scores"]
    assert "acc_bytes" in {score["metric"] for score in scores}


# ---- records ----------------------------------------------------------------------------------------------------------


def test_a_changed_task_is_another_task(hub, tmp_path):
    """lm-eval #2211, #2322 (0.2637 and 0.3022 by the version of the harness); mesh-transformer-jax #257; SPIN #12; #367, #805."""
    write_checkpoint(tmp_path / "model", "llama")
    records = []
    for number, text in enumerate(("{{question}}", "{{question}} Answer:")):
        (tmp_path / str(number)).mkdir()
        task = write_task(tmp_path / str(number), **{**CHOICE, "doc_to_text": text})
        out = tmp_path / f"out{number}"
        records.append(hub.evaluate(str(tmp_path / "model"), [str(task)], bootstrap=0, output=out).record)
    first, second = (record["tasks"][0] for record in records)
    assert first["data_digest"] == second["data_digest"]
    assert first["digest"] != second["digest"]
    found = compare_runs(open_run(tmp_path / "out0"), open_run(tmp_path / "out1"), hub)
    assert found.rows == []
    assert found.skipped


def test_a_record_says_what_was_run(suite, tmp_path):
    """Every Eval Ever #156 (no provenance of a run), mteb #259, bbeh #10 (decoding settings undocumented), open-r1 #224."""
    record = run_suite(suite, tmp_path / "out", ("colours", "story")).record
    assert all(len(digest) == 64 for digest in record["model"]["files"].values())
    assert {plugin["id"] for plugin in record["plugins"]} >= {"llmasos-evals", "llmasos-transformer"}
    for task in record["tasks"]:
        assert len(task["digest"]) == len(task["data_digest"]) == len(task["prompt_digest"]) == 64
    (story,) = [task for task in record["tasks"] if task["name"] == "story"]
    assert story["generation"] == {**story["generation"], "until": ["!"], "max_tokens": 6, "temperature": 0.0}
    assert record["settings"]["seed"] == 1234
    assert record["tokenizer"]["digest"]


def test_altered_samples_are_seen(suite, tmp_path):
    """SWE-bench #138 (verified or not), ruflo #2543 (eight benchmarks gamed), inspect_evals #1610 (attestations, closed)."""
    run_suite(suite, tmp_path / "out", ("colours",))
    assert check_samples(open_run(tmp_path / "out", fresh=True)) == []
    path = tmp_path / "out" / "samples_colours.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    sample = json.loads(first)
    sample["items"] = [[name, of, 1.0] for name, of, _ in sample["items"]]
    sample["responses"][0]["logprob"] = -0.5
    path.write_text("".join([json.dumps(sample) + "\n", *rest]))
    assert check_samples(open_run(tmp_path / "out", fresh=True))


def test_one_sample_of_many_is_read_without_the_others(tmp_path):
    """inspect #1375 (viewer out of memory), #2249, #2873 (200,000 samples: 4 hours to start), #4931, PR #2932 (96 GB)."""
    count = 5_000
    write_run(tmp_path, {"big": {"acc": [1.0] * count}})
    run = open_run(tmp_path)
    run.sample("big", 5)  # makes the index
    tracemalloc.start()
    try:
        run = open_run(tmp_path)
        assert run.sample("big", count - 1)["index"] == count - 1
        assert sum(1 for _ in run.items("big", "acc")) == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 * count  # places of the documents, not the documents


# ---- statistics -------------------------------------------------------------------------------------------------------


def test_the_bootstrapped_standard_error_is_that_of_the_statistic():
    """lighteval `bootstrap_stderr` returns the standard error of the mean of the replicates: too small by the root of their
    number (0.00046 instead of 0.0145 with 1,000)."""
    draw = random.Random(7)
    items = [draw.gauss(0, 1) for _ in range(400)]
    values = np.asarray(items)
    found = bootstrap_stderr(len(items), 1000, lambda block: values[block].mean(axis=1))
    exact = statistics.stdev(items) / math.sqrt(len(items))
    assert found == pytest.approx(exact, rel=0.1)
    assert found > 20 * (exact / math.sqrt(1000))


def test_the_bootstrap_is_the_harness_s_own_stream_and_starts_no_process(monkeypatch):
    """lm-eval #1485 (wmt deadlock), #2581 (Windows starts itself again and again), PR #3106: a pool of processes for each metric."""

    def refused(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing, "Pool", refused)
    monkeypatch.setattr(multiprocessing.Process, "start", refused)
    draw = random.Random(3)
    items = [draw.random() for _ in range(57)]
    replicates = []
    for chunk in range(2):  # as lm-eval draws them, one after the other
        stream = random.Random(chunk)
        replicates += [sorted(stream.choices(items, k=len(items)))[len(items) // 2] for _ in range(1000)]
    mean = sum(replicates) / len(replicates)
    expected = math.sqrt(sum((x - mean) ** 2 for x in replicates) / (len(replicates) - 1))
    assert Median().stderr(items, 2000) == pytest.approx(expected, rel=1e-12)


def test_a_difference_is_tested_on_the_documents_both_answered():
    """lm-eval #3831, #3868: the comparison is an unpaired z-test, which sees nothing where the same documents differ."""
    draw = random.Random(5)
    first = [float(draw.random() < 0.6) for _ in range(400)]
    second = [1.0 if index % 16 == 0 else value for index, value in enumerate(first)]  # never worse
    found = compare(Mean(), first, second, limits=(0.0, 1.0))
    spread = math.sqrt(sum(statistics.variance(one) / len(one) for one in (first, second)))
    unpaired = (statistics.fmean(second) - statistics.fmean(first)) / spread
    assert abs(unpaired) < 1.96
    assert found.p is not None
    assert found.p < 0.01
    assert (found.losses, found.test) == (0, found.test)
    assert found.low is not None
    assert found.low > 0


def test_many_comparisons_are_corrected(tmp_path):
    """lm-eval's comparison of a suite marks every task below 0.05: of 57 subjects of mmlu three by chance alone."""
    draw = random.Random(11)
    columns = {
        name: {f"task{n}": {"acc": [float(draw.random() < 0.5) for _ in range(60)]} for n in range(40)}
        for name in ("a", "b")
    }
    runs = [write_run(tmp_path / name, columns[name], model=name) for name in ("a", "b")]
    found = compare_runs(*runs, llmasos.Hub())
    corrected([found])
    rows = [row for row in found.rows if row.result.p is not None]
    assert len(rows) == 40
    assert any(row.result.p < 0.05 for row in rows)
    assert not any(row.p_holm < 0.05 for row in rows)


def test_documents_of_one_passage_are_not_independent():
    """inspect #1251, #1118: five questions on one passage are not five observations; lm-eval #1701 asks what stderr is for."""
    draw = random.Random(2)
    passages = [float(draw.random() < 0.5) for _ in range(80)]
    items = [value for value in passages for _ in range(5)]
    clusters = Clusters.of("passage", [str(index // 5) for index in range(len(items))])

    class Measured:
        aggregation, metric, range = Mean(), None, (0.0, 1.0)

        def aggregate(self, values):
            return statistics.fmean(values)

        def stderr(self, values, bootstrap):
            return Mean().stderr(values, bootstrap)

    plain = interval(Measured(), items, bootstrap=100)
    grouped = interval(Measured(), items, bootstrap=100, clusters=clusters)
    assert grouped.stderr == pytest.approx(plain.stderr * math.sqrt(5), rel=0.02)


def test_perplexities_have_standard_errors(suite, tmp_path):
    """lm-eval prints N/A for word perplexity and bits per byte, so nobody knows whether 12.1 and 12.3 differ."""
    (task,) = run_suite(suite, tmp_path / "out", ("prose",), batch_invariant=False).record["tasks"]
    (score,) = task["scores"]
    assert score["metric"] == "word_perplexity"
    assert score["ci_low"] < score["value"] < score["ci_high"]
    assert score["stderr"] > 0


def test_questions_are_there():
    """The data of this file is what it says: no test above passes because there is nothing to test."""
    assert len(QUESTIONS) == 20
    assert len({canonical_digest(row) for row in QUESTIONS}) == 20
