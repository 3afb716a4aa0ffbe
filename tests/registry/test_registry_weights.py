"""Which files a model repository may hold, and the headers of safetensors files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from llmasos_registry.weights import MAX_HEADER, WeightsRefused, check_content, check_file, check_safetensors

A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
B = {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}
GOOD = {"__metadata__": {"format": "pt"}, "a": A, "b.weight": B}


def packed(header: Any, data: int, *, raw: bytes | None = None, length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if raw is None else raw
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


def check(content: bytes) -> Any:
    return check_safetensors(io.BytesIO(content), len(content), "model.safetensors")


def test_a_good_header_is_summed_up() -> None:
    assert check(packed(GOOD, 22)) == (2, 22, {"F32": 1, "BF16": 1})
    assert check(packed({}, 0)) == (0, 0, {})
    assert check(packed({"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, 2)).data == 2


def test_what_the_reference_library_writes_is_taken(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    save = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "model.safetensors"
    tensors = {
        f"layer.{i}.weight": numpy.zeros((3, i), dtype) for i, dtype in enumerate(["f4", "f2", "i8", "u1"])
    }
    save(tensors, path, metadata={"format": "np"})
    with path.open("rb") as file:
        assert check_safetensors(file, path.stat().st_size, "model.safetensors").tensors == 4


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**A, **changes}}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no safetensors file"),
    "short": (b"\x02\0\0\0\0\0\0", "is no safetensors file"),
    "no header": (packed(None, 0, raw=b"", length=0), "said to have 0 bytes"),
    "long header": (packed(GOOD, 22, length=MAX_HEADER + 1), "said to have"),
    "huge header": (packed(GOOD, 22, length=(1 << 64) - 1), "said to have 18446744073709551615"),
    "beyond the end": (packed(GOOD, 0, length=5000), "said to have 5000"),
    "leading space": (packed(None, 0, raw=b" {}"), "does not begin with"),
    "array": (packed([], 0), "does not begin with"),
    "not JSON": (packed(None, 0, raw=b"{,}"), "not valid JSON"),
    "not UTF-8": (packed(None, 0, raw=b'{"\xff": 1}'), "not valid JSON"),
    "deep": (packed(None, 0, raw=b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "not valid JSON"),
    "a tensor twice": (
        packed(None, 16, raw=b'{"a": %b, "a": %b}' % ((json.dumps(A).encode(),) * 2)),
        "a key appears twice",
    ),
    "metadata number": (packed({"__metadata__": {"a": 1}}, 0), "__metadata__"),
    "metadata list": (packed({"__metadata__": []}, 0), "__metadata__"),
    "path as name": (packed({"../../etc/passwd": A}, 16), "name that is no name"),
    "absolute name": (packed({"/etc/passwd": A}, 16), "name that is no name"),
    "NUL in name": (packed({"a\0b": A}, 16), "name that is no name"),
    "empty name": (packed({"": A}, 16), "name that is no name"),
    "unknown field": (packed(entry(extra=1), 16), "exactly dtype, shape and data_offsets"),
    "missing field": (packed({"a": {"dtype": "F32"}}, 16), "exactly dtype, shape and data_offsets"),
    "entry is a list": (packed({"a": []}, 0), "exactly dtype, shape and data_offsets"),
    "unknown type": (packed(entry(dtype="F31"), 16), "unknown type 'F31'"),
    "type is a list": (packed(entry(dtype=[]), 16), "unknown type"),
    "negative size": (packed(entry(shape=[-2, -2]), 16), "malformed shape"),
    "boolean size": (packed(entry(shape=[True, 4]), 16), "malformed shape"),
    "fractional size": (packed(entry(shape=[4.0]), 16), "malformed shape"),
    "many dimensions": (packed(entry(shape=[1] * 17), 16), "malformed shape"),
    "three offsets": (packed(entry(data_offsets=[0, 8, 16]), 16), "malformed"),
    "overflow": (packed(entry(shape=[1 << 62, 1 << 62]), 16), "expected"),
    "number too large": (packed(entry(shape=[1 << 64]), 16), "malformed shape"),
    "size does not fit": (packed(entry(shape=[2, 3]), 16), "has 16 bytes, expected 24"),
    "backwards": (packed(entry(data_offsets=[16, 0]), 16), "has -16 bytes"),
    "half a byte": (packed(entry(dtype="F4", shape=[3], data_offsets=[0, 1]), 1), "expected 1.5"),
    "overlap": (packed({"a": A, "b": {**B, "data_offsets": [10, 16]}}, 16), "overlaps"),
    "gap": (packed({"a": A, "b": {**B, "data_offsets": [20, 26]}}, 26), "leaves a gap"),
    "starts late": (packed(entry(data_offsets=[4, 20]), 20), "leaves a gap"),
    "cut off": (packed(GOOD, 20), "is it cut off"),
    "trailing bytes": (packed(GOOD, 23), "the tensors have 22 bytes, the file has 23"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_lies_is_refused(name: str) -> None:
    content, words = HOSTILE[name]
    with pytest.raises(WeightsRefused, match=words) as refusal:
        check(content)
    assert "model.safetensors" in refusal.value.message
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("pytorch_model.bin", b""),
        ("weights/model.PT", b""),
        ("optimizer.pth", b""),
        ("vocab.pkl", b""),
        ("model.safetensors", b"\x80\x02}q\x00"),
        ("config.json", b"\x80\x04\x95"),
        ("model.safetensors", b"PK\x03\x04"),
        ("modeling_evil.py", b"import os"),
        ("kernel.so", b""),
        ("tokenizer.json", b"\x7fELF\x02"),
        ("README.md", b"#!/bin/sh\n"),
        ("run.sh", b""),
        ("model.gguf", b"nope"),
    ],
)
def test_formats_that_can_run_code_are_refused_with_advice(path: str, head: bytes) -> None:
    with pytest.raises(WeightsRefused) as refusal:
        check_content(path, head)
    assert path in refusal.value.message
    assert refusal.value.hint or path.endswith(".gguf")


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("model.safetensors", b"\x40\0\0\0\0\0\0\0{"),
        ("config.json", b"{"),
        ("README.md", b"---\n"),
        ("model.gguf", b"GGUF\x03\0\0\0"),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>"),
        ("empty", b""),
        ("ngrams.llngram", b"\x80"),
    ],
)
def test_other_formats_are_taken(path: str, head: bytes) -> None:
    check_content(path, head)


def test_a_dataset_may_hold_archives_and_arrays_but_no_code() -> None:
    check_content("data.zip", b"PK\x03\x04", "dataset")
    check_content("train.npy", b"\x93NUMPY", "dataset")
    for path in ("load.py", "data.pkl"):
        with pytest.raises(WeightsRefused):
            check_content(path, b"", "dataset")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_cut_off_safetensors_file_is_found_in_any_repository(kind: str) -> None:
    whole = packed(GOOD, 22)
    check_file("a/X.SafeTensors", len(whole), lambda: io.BytesIO(whole), kind)
    with pytest.raises(WeightsRefused, match="is it cut off"):
        check_file("a/X.SafeTensors", len(whole) - 1, lambda: io.BytesIO(whole[:-1]), kind)


def test_only_what_must_be_read_is_opened() -> None:
    def refuse() -> io.BytesIO:
        raise AssertionError("it was opened")

    check_file("README.md", 10**12, refuse)
    check_file("train.jsonl", 10**12, refuse, "dataset")
    check_file("src/a.py", 10, refuse, "dataset")
    with pytest.raises(WeightsRefused, match="code"):
        check_file("src/a.py", 10, lambda: io.BytesIO(b""), "model")


def test_a_config_that_two_parsers_may_read_differently_is_refused() -> None:
    twice = b'{"auto_map": {"AutoModel": "modeling.C"}, "auto_map": null}'
    with pytest.raises(WeightsRefused, match="a key appears twice"):
        check_file("config.json", len(twice), lambda: io.BytesIO(twice))
    # State-space models write such limits; they stay welcome.
    limit = b'{"time_step_limit": [0.0, Infinity]}'
    check_file("config.json", len(limit), lambda: io.BytesIO(limit))
