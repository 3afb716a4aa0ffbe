"""Source ``text``."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_samples import read_all, reasons
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos.api import Document, InputError
from llmasos_data.text import TextSource


def test_a_document_a_file_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\r\nline")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst")
    documents, dropped = read_all(TextSource({"paths": ["*.txt"]}, None), tmp_path)
    assert documents == [
        Document("a.txt", "first", {"file": "a.txt"}),
        Document("b.txt", "second\nline", {"file": "b.txt"}),
    ]
    assert dropped == []


def test_paragraphs_carry_their_byte_offset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n \nthrée\n\n\nfour")
    documents, _ = read_all(TextSource({"paths": "a.txt", "unit": "paragraph"}, None), tmp_path)
    assert [(d.id, d.text) for d in documents] == [
        ("a.txt@000000000000", "one\ntwo"),
        ("a.txt@000000000011", "thrée"),
        ("a.txt@000000000020", "four"),
    ]
    unwrapped, _ = read_all(
        TextSource({"paths": "a.txt", "unit": "paragraph", "unwrap": True}, None), tmp_path
    )
    assert unwrapped[0].text == "one two"


@pytest.mark.parametrize(("unit", "separator"), [("line", "\n"), ("paragraph", "\n\n")])
@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.text("ab é", min_size=0, max_size=12), max_size=20),
    shard_bytes=st.integers(1, 40),
)
def test_cutting_a_file_neither_loses_nor_repeats(
    tmp_path_factory: pytest.TempPathFactory, unit: str, separator: str, pieces: list[str], shard_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "a.txt").write_text(separator.join(pieces))
    whole = TextSource({"paths": "a.txt", "unit": unit}, None)
    cut = TextSource({"paths": "a.txt", "unit": unit, "shard_bytes": shard_bytes}, None)
    assert read_all(cut, folder) == read_all(whole, folder)
    if (
        shard_bytes < len(separator.join(pieces)) // 3
        and unit == "line"
        and len([p for p in pieces if p]) > 3
    ):
        assert len(list(cut.shards(folder))) > 1


def test_a_bad_byte_or_a_giant_drops_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\xff\xfe bad\n" + b"x" * 5000 + b"\nlast\n")
    options = {"paths": "a.txt", "unit": "line", "max_bytes": 100}
    documents, dropped = read_all(TextSource(options, None), tmp_path)
    assert [d.text for d in documents] == ["good", "last"]
    assert reasons(dropped) == ["bad_encoding", "too_large"]
    assert dropped[1].detail == "5000 bytes > 100"
    documents, dropped = read_all(TextSource({**options, "unit": "file"}, None), tmp_path)
    assert documents == []
    assert reasons(dropped) == ["too_large"]
    documents, dropped = read_all(TextSource({**options, "unit": "paragraph"}, None), tmp_path)
    assert documents == []
    assert reasons(dropped) == ["too_large"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": "none.txt"}, "there is no file 'none.txt'"),
        ({"paths": "*.md"}, "no file matches"),
        ({"paths": "."}, "is a folder"),
        ({"path": "a.txt"}, "unknown option `path`, did you mean `paths`?"),
        ({"paths": "a.txt", "unit": "paragraf"}, "did you mean `paragraph`?"),
        ({"paths": "a.txt", "encoding": "klingon"}, "'klingon' is unknown"),
        ({"paths": "a.txt", "encoding": "utf-16", "unit": "line"}, "unit: file"),
        ({"paths": "a.txt", "max_bytes": "many"}, "not a whole number"),
        ({}, "option `paths` is missing"),
    ],
)
def test_what_makes_no_sense_is_an_input_error(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match="source text") as caught:
        read_all(TextSource(options, None), tmp_path)
    assert message in caught.value.message
    assert caught.value.hint
