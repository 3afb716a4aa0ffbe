"""Source ``jsonl``."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from data_samples import read_all, reasons

from llmasos.api import Document
from llmasos_data.jsonl import JsonlSource

LINES = [
    b'{"text": "first", "id": "a", "lang": "en", "score": 0.5}\n',
    b"\n",
    b"{not json}\n",
    b"[1, 2]\n",
    b'{"body": "no text"}\n',
    b'{"text": 7}\n',
    b'{"text": "bad \xff byte"}\n',
    b'{"text": "lone \\ud800 surrogate", "id": 12}\n',
    b'{"text": "' + b"x" * 400 + b'"}\n',
    b"[" * 3000 + b"\n",
    b'{"text": "last"}',
]
REASONS = ["bad_json", "not_an_object", "no_text", "no_text", "bad_encoding", "too_large", "too_large"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_bad_records_are_dropped_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    data = b"".join(LINES)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    documents, dropped = read_all(JsonlSource({"paths": name, "max_bytes": 300}, None), tmp_path)
    assert [d.text for d in documents] == ["first", "lone � surrogate", "last"]
    assert documents[0] == Document(f"{name}@000000000000", "first", {"id": "a", "lang": "en", "score": 0.5})
    assert reasons(dropped) == REASONS
    assert dropped[0].document.id == f"{name}@{len(LINES[0]) + 1:012d}"


def test_deep_nesting_is_a_bad_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"[" * 200_000 + b'\n{"text": "next"}\n')
    documents, dropped = read_all(JsonlSource({"paths": "a.jsonl"}, None), tmp_path)
    assert reasons(dropped) == ["bad_json"]
    assert [d.text for d in documents] == ["next"]


def test_id_and_meta_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES))
    source = JsonlSource({"paths": "a.jsonl", "id": "id", "meta": "lang"}, None)
    documents, dropped = read_all(source, tmp_path)
    assert [(d.id, dict(d.meta)) for d in documents] == [("a", {"lang": "en"}), ("12", {})]
    assert reasons(dropped)[-3:] == ["no_id", "bad_json", "no_id"]


def test_a_big_file_is_cut_at_lines(tmp_path: Path) -> None:
    rows = [{"text": f"document {n} " + "x" * (n % 37)} for n in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = JsonlSource({"paths": "a.jsonl", "shard_bytes": 1000}, None)
    shards = list(source.shards(tmp_path))
    assert len(shards) > 8
    bounds = [(part.start, part.end) for shard in shards for part in shard.parts]
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert bounds[-1][1] is None
    assert [d.text for d in read_all(source, tmp_path)[0]] == [row["text"] for row in rows]


def test_small_files_share_a_shard(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"text": f"t{number}"}) + "\n")
    source = JsonlSource({"paths": "*.jsonl", "shard_bytes": 60}, None)
    assert [len(shard.parts) for shard in source.shards(tmp_path)] == [4, 4, 2]
    assert [d.text for d in read_all(source, tmp_path)[0]] == [f"t{number}" for number in range(10)]


def test_a_gzip_file_that_ends_early_keeps_what_was_readable(tmp_path: Path) -> None:
    data = gzip.compress("".join(f'{{"text": "document {n}"}}\n' for n in range(20_000)).encode(), mtime=0)
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip at all")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "whole"}\n'))
    documents, dropped = read_all(JsonlSource({"paths": "*.jsonl.gz"}, None), tmp_path)
    assert len(documents) > 5000
    assert documents[-1].text == "whole"
    assert reasons(dropped) == ["broken_gzip", "broken_gzip"]


def test_a_line_of_two_hundred_megabytes_is_not_held(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "before"}\n')
        file.truncate(200_000_000)  # a hole, which reads as zeros
        file.seek(0, 2)
        file.write(b'\n{"text": "after"}\n')
    source = JsonlSource({"paths": "a.jsonl", "max_bytes": 1_000_000}, None)
    tracemalloc.start()
    try:
        documents, dropped = read_all(source, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [d.text for d in documents] == ["before", "after"]
    assert reasons(dropped) == ["too_large"]
    assert peak < 10_000_000
