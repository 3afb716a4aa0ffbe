"""Reading a run: one document of many without the others, and nothing believed that a stranger's file says."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest
from record_samples import a_sample, edit, write_run
from test_record import a_record

from llmasos.api import InputError, LlmasosError, UnknownName, canonical_json
from llmasos_evals.records.offsets import offsets_of
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.record import sealed
from llmasos_evals.records.store import write_json


def test_documents_come_in_their_order_whatever_order_they_finished_in(tmp_path):
    run = open_run(write_run(tmp_path, [a_sample(n, n / 2) for n in (5, 0, 3)]))
    assert run.tasks == ("t",)
    assert [sample["index"] for sample in run.samples("t")] == [0, 3, 5]
    assert [sample["index"] for sample in run.samples("t", 1, 9)] == [3, 5]
    assert run.count("t") == 3
    assert run.sample("t", 3) == a_sample(3, 1.5)
    assert [(item.index, item.value) for item in run.items("t", "acc")] == [(0, 0.0), (3, 1.5), (5, 2.5)]


def test_the_record_file_names_a_run_too(tmp_path):
    folder = write_run(tmp_path, [a_sample(0)])
    assert open_run(folder / "record.json").record == open_run(folder).record
    (folder / "record.json").rename(folder / "kept.json")
    assert open_run(folder / "kept.json").sample("t", 0)["index"] == 0


def test_the_index_is_kept_and_built_again_when_the_samples_change(tmp_path):
    folder = write_run(tmp_path, [a_sample(0)])
    samples, index = folder / "samples_t.jsonl", folder / "samples_t.jsonl.index"
    assert open_run(folder).count("t") == 1
    before = index.read_bytes()
    assert open_run(folder).count("t") == 1
    assert index.read_bytes() == before
    with open(samples, "ab") as file:
        file.write(canonical_json(a_sample(1)) + b"\n")
    assert open_run(folder).count("t") == 2
    assert index.read_bytes() != before


def test_an_index_that_lies_is_found_out(tmp_path):
    folder = write_run(tmp_path, [a_sample(0, 0.0), a_sample(1, 1.0)])
    samples, index = folder / "samples_t.jsonl", folder / "samples_t.jsonl.index"
    list(offsets_of(samples))
    data = bytearray(index.read_bytes())
    first, second = data[40:56], data[64:80]
    data[40:56], data[64:80] = second, first  # each document's place is the other's
    index.write_bytes(data)
    with pytest.raises(InputError, match="document 0 is damaged"):
        open_run(folder).sample("t", 0)
    assert open_run(folder, fresh=True).sample("t", 0) == a_sample(0, 0.0)


@pytest.mark.parametrize("garbage", [b"", b"x", b"\0" * 32, b"\0" * 33, b"\xff" * 80])
def test_a_damaged_index_is_built_again(tmp_path, garbage):
    folder = write_run(tmp_path, [a_sample(0)])
    (folder / "samples_t.jsonl.index").write_bytes(garbage)
    assert open_run(folder).sample("t", 0) == a_sample(0)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    folder = write_run(tmp_path, [a_sample(0)])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    assert open_run(folder).count("t") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["record.json", "samples_t.jsonl"]


@pytest.mark.parametrize("kept", [1, 30, 200])
def test_a_torn_last_line_is_a_document_that_was_not_finished(tmp_path, kept):
    folder = write_run(tmp_path, [a_sample(0), a_sample(1)])
    path = folder / "samples_t.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    assert [sample["index"] for sample in open_run(folder).samples("t")] == [0]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"index": true}',
        b'{"index": -1}',
        b'{"index": 1e9}',
        b"[" * 100_000,
        b'{"index": 99999999999999999999}',
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line):
    folder = write_run(tmp_path, [a_sample(0)])
    with open(folder / "samples_t.jsonl", "ab") as file:
        file.write(line + b"\n")
    with pytest.raises(InputError, match="line 2 is damaged"):
        open_run(folder).count("t")


@pytest.mark.parametrize(
    "change",
    [
        {"items": [["acc", "none"]]},
        {"items": {}},
        {"requests": [1]},
        {"observed": []},
        {"responses": "x"},
        {"doc_digest": 4},
    ],
)
def test_a_sample_of_another_shape_is_damaged(tmp_path, change):
    folder = write_run(tmp_path, [a_sample(0) | change])
    with pytest.raises(InputError, match="document 0 is damaged"):
        open_run(folder).sample("t", 0)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llmasos_evals.records.offsets.MAX_LINE", 1000)
    folder = write_run(tmp_path, [a_sample(0)])
    with open(folder / "samples_t.jsonl", "ab") as file:
        file.write(b"x" * 2000)
    with pytest.raises(InputError, match="line 2 has more than 1000 bytes"):
        open_run(folder).count("t")


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("schema",), "llmasos-record/99", "its schema is 'llmasos-record/99'"),
        (("schema",), None, "its schema is 'None'"),
        (("model", "parameters"), "many", "model.parameters"),
        (("surprise",), 1, "surprise"),
        (("tasks", 0), [], "tasks.0"),
    ],
)
def test_a_foreign_record_is_refused(tmp_path, keys, value, said):
    folder = write_run(tmp_path, [a_sample(0)])
    edit(folder / "record.json", *keys, value=value)
    with pytest.raises(InputError, match=said):
        open_run(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, '{"a":' * 99_999]
)
def test_a_damaged_record_is_refused(tmp_path, text):
    folder = write_run(tmp_path, [a_sample(0)])
    (folder / "record.json").write_text(text)
    with pytest.raises(InputError, match=r"record\.json"):
        open_run(folder)


def test_a_record_without_end_is_not_read(tmp_path):
    folder = write_run(tmp_path, [a_sample(0)])
    with open(folder / "record.json", "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(InputError, match="at most"):
        open_run(folder)


def test_tasks_of_the_same_name_are_refused(tmp_path):
    record = a_record()
    record["tasks"] = record["tasks"] * 2
    write_json(tmp_path / "record.json", sealed(record))
    with pytest.raises(InputError, match="same name"):
        open_run(tmp_path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "a/../../b", "x\0y", "."])
def test_a_task_name_leads_nowhere_else(tmp_path, name):
    record = a_record()
    record["tasks"][0]["name"] = name
    folder = write_run(tmp_path / "run", [a_sample(0)], record)
    run = open_run(folder)
    assert run.samples_path(name).parent == folder
    assert run.sample(name, 0) == a_sample(0)


def test_a_link_out_of_the_run_is_not_followed(tmp_path):
    folder = write_run(tmp_path / "run", [a_sample(0)])
    samples = folder / "samples_t.jsonl"
    samples.rename(tmp_path / "elsewhere")
    samples.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="not a regular file"):
        open_run(folder).count("t")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="there is no record"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="not finished"):
        open_run(tmp_path)
    folder = write_run(tmp_path / "run", [a_sample(0)])
    run = open_run(folder)
    with pytest.raises(UnknownName, match="no task u"):
        run.task("u")
    with pytest.raises(UnknownName, match="no document 7"):
        run.sample("t", 7)
    with pytest.raises(UnknownName, match="no score f1"):
        list(run.items("t", "f1"))
    (folder / "samples_t.jsonl").unlink()
    assert not open_run(folder).has_samples("t")
    with pytest.raises(LlmasosError, match="without its samples"):
        open_run(folder).count("t")


def test_large_runs_are_not_loaded(tmp_path):
    folder = write_run(tmp_path, [])
    with open(folder / "samples_t.jsonl", "wb") as file:
        for index in reversed(range(5_000)):
            file.write(canonical_json(a_sample(index)) + b"\n")
    size = (folder / "samples_t.jsonl").stat().st_size
    tracemalloc.start()
    run = open_run(folder)
    total = sum(sample["index"] for sample in run.samples("t"))
    value = run.sample("t", 4_321)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 4_999 * 5_000 // 2
    assert value == a_sample(4_321)
    assert peak < size / 2


def test_lines_that_another_program_wrote_are_understood(tmp_path):
    folder = write_run(tmp_path, [])
    (folder / "samples_t.jsonl").write_text(json.dumps(a_sample(4), indent=None) + "\n")
    assert open_run(folder).sample("t", 4) == a_sample(4)
