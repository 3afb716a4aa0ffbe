"""The columns of a task: what they hold, and that they are kept only for the file they were made of."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from record_samples import a_sample, write_run
from test_record import a_record
from view_runs import choice_run

from llmasos_evals.records.reading import open_run
from llmasos_evals.view.columns import columns_of, reliability_bins, task_columns


def test_columns_of_plain_documents(tmp_path: Path) -> None:
    samples = [a_sample(3, 0.0), a_sample(0), a_sample(7, 0.0)]
    samples[0]["responses"][0]["truncated"] = 2
    samples[1]["observed"] = {"ties": 1, "labels_out_of_range": 1}
    run = open_run(write_run(tmp_path, samples))
    columns = task_columns(run, "t")
    assert columns["index"] == [0, 3, 7]
    assert columns["items"] == {"acc,none": [1.0, 0.0, 0.0]}
    assert columns["verdict"] == "100"
    assert columns["flags"] == "c10"
    digests = [run.sample("t", index)["doc_digest"][:8] for index in (0, 3, 7)]
    assert columns["digest"] == "".join(digests)


def test_confidence_and_reliability(tmp_path: Path) -> None:
    run = open_run(choice_run(tmp_path, 200))
    columns = task_columns(run, "t")
    import math

    for place, sample in enumerate(run.samples("t")):
        shares = [math.exp(response["logprob"]) for response in sample["responses"]]
        assert columns["confidence"][place] == pytest.approx(max(shares) / sum(shares), rel=1e-5)
    bins = reliability_bins(columns)
    assert sum(one["count"] for one in bins) == 200
    assert sum(one["accuracy"] * one["count"] for one in bins) == pytest.approx(columns["verdict"].count("1"))
    assert all(one["low"] <= one["confidence"] <= one["high"] for one in bins)


def test_a_value_that_is_no_share_has_no_verdict(tmp_path: Path) -> None:
    columns = task_columns(open_run(write_run(tmp_path, [a_sample(0, 0.5), a_sample(1)])), "t")
    assert columns["verdict"] == "--"


def test_a_rude_word_is_no_right_answer(tmp_path: Path) -> None:
    record = a_record()
    score = record["tasks"][0]["scores"][0]
    score.update(metric="toxic_share", higher_is_better=False)
    samples = [a_sample(0), a_sample(1, 0.0)]
    for sample in samples:
        sample["items"][0][0] = "toxic_share"
    columns = task_columns(open_run(write_run(tmp_path / "loss", samples, record)), "t")
    assert columns["items"] == {"toxic_share,none": [1, 0]}
    assert columns["verdict"] == "--"
    record["tasks"][0]["scores"].append({**score, "metric": "acc", "higher_is_better": True})
    for sample in samples:
        sample["items"].append(["acc", "none", 1.0 - sample["items"][0][2]])
    columns = task_columns(open_run(write_run(tmp_path / "both", samples, record)), "t")
    assert columns["verdict"] == "01"


def test_columns_are_kept_and_made_again_for_another_file(tmp_path: Path) -> None:
    run = open_run(choice_run(tmp_path, 5))
    first, kept = columns_of(run, "t"), tmp_path / "samples_t.jsonl.columns"
    assert columns_of(run, "t") == first
    marked = json.loads(gzip.decompress(kept.read_bytes()))
    marked["columns"]["verdict"] = "kept"
    kept.write_bytes(gzip.compress(json.dumps(marked).encode()))
    assert columns_of(run, "t")["verdict"] == "kept"
    os.utime(tmp_path / "samples_t.jsonl", ns=(1, 1))
    assert columns_of(open_run(tmp_path), "t") == first


@pytest.mark.parametrize(
    "damage",
    [b"", b"no gzip", gzip.compress(b"no json"), gzip.compress(b"[]")],
    ids=("empty", "no gzip", "no json", "list"),
)
def test_damaged_columns_are_made_again(tmp_path: Path, damage: bytes) -> None:
    run = open_run(choice_run(tmp_path, 5))
    first = columns_of(run, "t")
    (tmp_path / "samples_t.jsonl.columns").write_bytes(damage)
    assert columns_of(run, "t") == first
