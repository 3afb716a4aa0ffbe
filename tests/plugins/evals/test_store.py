"""The sample store: nothing lost by a kill, nothing mixed, nothing computed twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from llmasos.api import EvaluationError, UsageError
from llmasos_evals.records.store import (
    LOCK_FILE,
    RECORD_FILE,
    RUN_FILE,
    SampleStore,
    samples_name,
    write_json,
)

IDENTITY = {"model": {"digest": "a"}, "settings": {"limit": 5}, "tasks": [{"name": "t", "num_fewshot": 0}]}


def sample(index: int) -> dict:
    return {"index": index, "text": f"d{index} ünï"}


def fill(folder, indices, task="t"):
    with SampleStore(folder, IDENTITY) as store:
        for index in indices:
            store.append(task, sample(index))


def test_documents_are_found_again(tmp_path):
    fill(tmp_path / "run", [2, 0])
    with SampleStore(tmp_path / "run", IDENTITY) as store:
        assert store.finished("t") == {2: sample(2), 0: sample(0)}
        assert store.finished("other") == {}
        store.append("t", sample(1))
    lines = (tmp_path / "run" / "samples_t.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["index"] for line in lines] == [2, 0, 1]


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_torn_last_line_is_cut_off_and_its_document_computed_again(tmp_path, kept):
    fill(tmp_path, [0, 1])
    path = tmp_path / "samples_t.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    with SampleStore(tmp_path, IDENTITY) as store:
        assert store.finished("t") == {0: sample(0)}
        store.append("t", sample(1))
    assert path.read_bytes() == first + second


def test_a_whole_line_without_its_newline_is_torn_too(tmp_path):
    fill(tmp_path, [0, 1])
    path = tmp_path / "samples_t.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with SampleStore(tmp_path, IDENTITY) as store:
        assert list(store.finished("t")) == [0]
        store.append("t", sample(1))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("garbage", [b"{\n", b"[]\n", b'{"x": 1}\n', b'{"index": []}\n', b"\xff\n"])
def test_damage_elsewhere_is_an_error_that_says_where(tmp_path, garbage):
    fill(tmp_path, [0])
    path = tmp_path / "samples_t.jsonl"
    path.write_bytes(garbage + path.read_bytes())
    with SampleStore(tmp_path, IDENTITY) as store, pytest.raises(EvaluationError, match="line 1 is damaged"):
        store.finished("t")


def test_another_run_is_refused_and_the_difference_named(tmp_path):
    fill(tmp_path, [0])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = {**IDENTITY, "tasks": [{"name": "t", "num_fewshot": 5}]}
    with pytest.raises(UsageError, match=r"tasks\[t\]\.num_fewshot is 0 there and 5 here") as caught:
        SampleStore(tmp_path, other).__enter__()
    assert "--output" in caught.value.hint
    with pytest.raises(UsageError, match="different run"):
        SampleStore(tmp_path, other, resume=False).__enter__()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_resume_the_same_run_starts_afresh(tmp_path):
    fill(tmp_path, [0])
    (tmp_path / RECORD_FILE).write_text("{}")
    with SampleStore(tmp_path, IDENTITY, resume=False) as store:
        assert store.finished("t") == {}
    assert not (tmp_path / RECORD_FILE).exists()


def test_samples_of_an_unknown_run_are_left_alone(tmp_path):
    (tmp_path / "samples_t.jsonl").write_text('{"index": 0}\n')
    for resume in (True, False):
        with pytest.raises(UsageError, match="says of what run"):
            SampleStore(tmp_path, IDENTITY, resume=resume).__enter__()
    assert (tmp_path / "samples_t.jsonl").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"run_key": "x"}'])
def test_a_damaged_run_file_is_an_error(tmp_path, text):
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        SampleStore(tmp_path, IDENTITY).__enter__()


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    with SampleStore(tmp_path, IDENTITY), pytest.raises(UsageError, match="another run is writing"):
        SampleStore(tmp_path, IDENTITY).__enter__()
    fill(tmp_path, [0])  # free again


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"):
        SampleStore(tmp_path / "file" / "run", IDENTITY).__enter__()


@pytest.mark.parametrize("task", ["a/b", "a b", "a:b", "..", "ü"])
def test_file_names_are_safe_and_distinct(task):
    name = samples_name(task)
    assert name.startswith("samples_")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert name != samples_name("a_b")


def test_long_names_of_tasks_make_files_that_can_be_written(tmp_path):
    names = [
        samples_name("x" * 5000),
        samples_name("x" * 5001),
        samples_name("ü" * 5000),
        samples_name("x" * 180),
    ]
    assert len(set(names)) == 4
    for name in names:
        (tmp_path / name).with_suffix(".jsonl.index").write_text("")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_what_was_written_survives_kill_9(tmp_path):
    program = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from llmasos_evals.records.store import SampleStore\n"
        f"store = SampleStore(Path(sys.argv[1]), {IDENTITY!r}).__enter__()\n"
        "for index in range(50):\n"
        "    store.append('t', {'index': index, 'text': f'd{index} ünï'})\n"
        "    if index == 30:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    with SampleStore(tmp_path, IDENTITY) as store:  # the lock went with the process
        assert store.finished("t") == {index: sample(index) for index in range(31)}


def test_names_that_differ_in_capitals_only(tmp_path, monkeypatch):
    identity = {**IDENTITY, "tasks": [{"name": "Foo"}, {"name": "foo"}, {"name": "bar"}]}
    with SampleStore(tmp_path / "a", identity) as store:
        for task in ("Foo", "foo"):
            store.append(task, sample(0))
    # As on a file system where capitals do not count.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / LOCK_FILE.swapcase()).write_text("")
    with (
        pytest.raises(UsageError, match="tasks Foo and foo would be one file"),
        SampleStore(tmp_path / "b", identity),
    ):
        pass
    with SampleStore(tmp_path / "b", {**identity, "tasks": identity["tasks"][1:]}):
        pass
