"""Malformed safetensors: every one is refused with a reason, in bounded time and memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_samples import entry, limited, outcome, safetensors_bytes, write

from llmasos_transformer.weights.safetensors import SafetensorsFormat

GOOD = {"__metadata__": {"format": "pt"}, "a": entry("F32", (2,), (0, 8)), "b": entry("F16", (2, 2), (8, 16))}
DATA = bytes(range(16))
VALID = safetensors_bytes(GOOD, DATA)
MIB = 1024 * 1024


def with_a(**fields: Any) -> bytes:
    """The good file with fields of tensor ``a`` replaced."""
    return safetensors_bytes({**GOOD, "a": {**entry(), **fields}}, DATA)


def named(name: str) -> bytes:
    return safetensors_bytes({name: entry("F32", (4,), (0, 16))}, DATA)


def raw(header: str | bytes, data: bytes = DATA) -> bytes:
    return safetensors_bytes(header.encode() if isinstance(header, str) else header, data)


def _text(value: object) -> str:
    return json.dumps(value)


# name -> (file, part of the message)
HOSTILE: dict[str, tuple[bytes, str]] = {
    # the first eight bytes
    "empty": (b"", "empty"),
    "seven_bytes": (bytes(7), "too short"),
    "only_a_length": (struct.pack("<Q", 0), "too short"),
    "length_zero": (struct.pack("<Q", 0) + b"{}" + DATA, "outside 2"),
    "length_one": (struct.pack("<Q", 1) + b"{}" + DATA, "outside 2"),
    "length_beyond_the_file": (safetensors_bytes(GOOD, DATA, length=10_000), "10000 bytes but only"),
    "length_by_one_too_many": (safetensors_bytes(GOOD, b"", length=len(_text(GOOD)) + 1), "but only"),
    "length_2_63": (safetensors_bytes(GOOD, DATA, length=2**63), "but only"),
    "length_max": (safetensors_bytes(GOOD, DATA, length=2**64 - 1), "but only"),
    "length_over_the_limit": (struct.pack("<Q", 17 * MIB) + b"{" + b" " * (17 * MIB), "outside 2"),
    "length_too_short": (safetensors_bytes(GOOD, DATA, length=20), "not valid JSON"),
    "length_too_long": (safetensors_bytes(GOOD, DATA, length=len(_text(GOOD)) + 4), "not valid JSON"),
    # JSON
    "leading_space": (raw(" " + _text(GOOD)), "starts with"),
    "leading_bom": (raw(b"\xef\xbb\xbf" + _text(GOOD).encode()), "starts with"),
    "a_list": (raw("[]"), "starts with"),
    "not_utf8": (raw(b'{"\xff": 1}'), "not valid JSON"),
    "unclosed": (raw('{"a": '), "not valid JSON"),
    "trailing_comma": (raw('{"a": 1,}'), "not valid JSON"),
    "trailing_text": (raw(_text(GOOD) + "x"), "not valid JSON"),
    "trailing_nul": (raw(_text(GOOD) + "\0"), "not valid JSON"),
    "comment": (raw("{/* */}"), "not valid JSON"),
    "infinity": (raw('{"a": Infinity}'), "not JSON"),
    "nested_100000": (raw('{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
    "brackets_5_mb": (raw(b'{"a":' + b"[" * 5_000_000), "nested too deeply"),
    "empty_lists_4_mb": (raw(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"), "exactly dtype, shape"),
    "number_of_10000_digits": (raw('{"a": ' + "9" * 10_000 + "}"), "not valid JSON"),
    # keys
    "tensor_twice": (raw('{"a": %s, "a": %s}' % ((_text(entry("F32", (4,), (0, 16))),) * 2)), "appears twice"),
    "metadata_twice": (raw('{"__metadata__": {}, "__metadata__": {}}', b""), "appears twice"),
    "field_twice": (raw('{"a": {"dtype": "F32", "dtype": "F16", "shape": [4], "data_offsets": [0, 16]}}'), "appears twice"),
    "metadata_key_twice": (raw('{"__metadata__": {"k": "1", "k": "2"}}', b""), "appears twice"),
    "name_climbs": (named("../../etc/passwd"), "letters, digits"),
    "name_climbs_inside": (named("a/../b"), "letters, digits"),
    "name_absolute": (named("/etc/passwd"), "letters, digits"),
    "name_empty": (named(""), "letters, digits"),
    "name_nul": (named("a\0b"), "letters, digits"),
    "name_newline": (named("a\n"), "letters, digits"),
    "name_space": (named("a b"), "letters, digits"),
    "name_not_ascii": (named("gewicht.ä"), "letters, digits"),
    "name_backslash": (named("..\\a"), "letters, digits"),
    "name_surrogate": (raw('{"\\ud800": ' + _text(entry("F32", (4,), (0, 16))) + "}"), "stands for no character"),
    "name_very_long": (named("a" * 513), "letters, digits"),
    # entries
    "entry_is_a_list": (safetensors_bytes({"a": []}), "exactly dtype, shape"),
    "entry_is_null": (safetensors_bytes({"a": None}), "exactly dtype, shape"),
    "entry_empty": (safetensors_bytes({"a": {}}), "exactly dtype, shape"),
    "field_missing": (safetensors_bytes({"a": {"dtype": "F32", "shape": [2]}}), "exactly dtype, shape"),
    "field_unknown": (with_a(extra=1), "exactly dtype, shape"),
    "dtype_unknown": (with_a(dtype="F31"), "unknown dtype 'F31'"),
    "dtype_lower_case": (with_a(dtype="f32"), "unknown dtype 'f32'"),
    "dtype_number": (with_a(dtype=4), "unknown dtype"),
    "dtype_list": (with_a(dtype=["F32"]), "unknown dtype"),
    "dtype_f8": (with_a(dtype="F8_E4M3", shape=[8]), "F8_E4M3 cannot be read"),
    "dtype_f4": (with_a(dtype="F4", shape=[16]), "F4 cannot be read"),
    "dtype_c64": (with_a(dtype="C64", shape=[1]), "C64 cannot be read"),
    "shape_negative": (with_a(shape=[-2]), "whole numbers"),
    "shape_two_negatives": (with_a(shape=[-1, -2]), "whole numbers"),
    "shape_float": (with_a(shape=[2.0]), "whole numbers"),
    "shape_boolean": (with_a(shape=[True, 2]), "whole numbers"),
    "shape_text": (with_a(shape=["2"]), "whole numbers"),
    "shape_number": (with_a(shape=2), "whole numbers"),
    "shape_null": (with_a(shape=None), "whole numbers"),
    "shape_2_64": (with_a(shape=[2**64]), "whole numbers"),
    "shape_17_dims": (with_a(shape=[1] * 16 + [2]), "at most 16"),
    "shape_wraps_to_right": (with_a(shape=[2**32, 2**32 + 1]), "takes"),
    "shape_wraps_to_zero": (with_a(shape=[2**62, 4]), "takes"),
    "shape_too_big": (with_a(shape=[3]), "takes 12 bytes"),
    "shape_too_small": (with_a(shape=[1]), "takes 4 bytes"),
    "shape_not_the_dtype": (with_a(dtype="F64"), "takes 16 bytes"),
    "offsets_three": (with_a(data_offsets=[0, 8, 8]), "two whole numbers"),
    "offsets_one": (with_a(data_offsets=[0]), "two whole numbers"),
    "offsets_negative": (with_a(data_offsets=[-8, 0]), "two whole numbers"),
    "offsets_float": (with_a(data_offsets=[0.0, 8.0]), "two whole numbers"),
    "offsets_boolean": (with_a(data_offsets=[False, 8]), "two whole numbers"),
    "offsets_reversed": (with_a(data_offsets=[8, 0]), "do not lie inside"),
    "offsets_beyond": (with_a(data_offsets=[16, 24]), "do not lie inside"),
    "offsets_huge": (with_a(data_offsets=[2**62, 2**62 + 8]), "do not lie inside"),
    "offsets_into_the_header": (with_a(data_offsets=[-100, -92]), "two whole numbers"),
    # the whole
    "overlap": (safetensors_bytes({"a": entry(), "b": entry("F32", (2,), (4, 12))}, DATA[:12]), "overlaps"),
    "same_place": (safetensors_bytes({"a": entry(), "b": entry()}, DATA[:8]), "overlaps"),
    "hole_between": (safetensors_bytes({"a": entry(), "b": entry("F32", (1,), (12, 16))}, DATA), "hole"),
    "hole_before": (safetensors_bytes({"a": entry("F32", (2,), (8, 16))}, DATA), "hole"),
    "trailing_data": (safetensors_bytes(GOOD, DATA + b"!"), "the tensors end at byte"),
    "no_tensors_but_data": (safetensors_bytes({}, DATA), "the tensors end at byte"),
    "data_missing": (safetensors_bytes(GOOD, DATA[:-1]), "do not lie inside"),
    "zero_size_outside": (safetensors_bytes({"a": entry("F32", (0,), (9, 9))}, b""), "do not lie inside"),
    "zero_size_inside_another": (safetensors_bytes({"a": entry(), "b": entry("F32", (0,), (4, 4))}, DATA[:8]), "overlaps"),
    # metadata
    "metadata_list": (safetensors_bytes({"__metadata__": []}), "__metadata__"),
    "metadata_null": (safetensors_bytes({"__metadata__": None}), "__metadata__"),
    "metadata_number": (safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata_nested": (safetensors_bytes({"__metadata__": {"a": {"b": "c"}}}), "__metadata__"),
    "metadata_surrogate": (raw('{"__metadata__": {"a": "\\udfff"}}', b""), "stands for no character"),
    # other formats under this name
    "is_gguf": (b"GGUF" + bytes(60), "but only|outside 2"),
    "is_zip": (b"PK\x03\x04" + bytes(60), "but only|outside 2"),
    "is_pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0" + bytes(60), "but only"),
    "is_7z": (b"7z\xbc\xaf\x27\x1c" + bytes(60), "but only"),
    "is_html": (b"<!DOCTYPE html><html>404</html>", "but only"),
    "is_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
}  # fmt: skip

BENIGN = {
    "valid": VALID,
    "no_tensors": safetensors_bytes({}),
    "padded_with_spaces": raw(_text(GOOD) + " " * 100),
    "metadata_only": safetensors_bytes({"__metadata__": {"format": "pt", "note": "naïve [[{{"}}),
    "scalar": safetensors_bytes({"a": entry("F32", (), (0, 4))}, DATA[:4]),
    "zero_size": safetensors_bytes(
        {"a": entry("F32", (0, 7), (0, 0)), "b": entry("F32", (2,), (0, 8))}, DATA[:8]
    ),
    "many_zero_size": safetensors_bytes({f"t{i}": entry("F32", (0,), (0, 0)) for i in range(100_000)}),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = {name: content for name, (content, _) in HOSTILE.items()} | BENIGN
    folder = tmp_path_factory.mktemp("safetensors")
    return limited(
        "llmasos_transformer.weights.safetensors:SafetensorsFormat",
        {f"{name}.safetensors": content for name, content in files.items()},
        folder,
        megabytes=512,
        seconds=60,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_files_are_refused_with_a_reason(outcomes: dict[str, Any], name: str) -> None:
    result = outcomes[f"{name}.safetensors"]
    assert not result["opens"]
    assert result["error"] == "WeightsError"
    assert result["hint"]
    assert any(part in result["message"] for part in HOSTILE[name][1].split("|")), result["message"]
    assert f"{name}.safetensors" in result["message"]
    assert len(result["message"]) < 1200
    assert result["seconds"] < 5


@pytest.mark.parametrize("name", BENIGN)
def test_unusual_files_that_keep_the_rules_open(outcomes: dict[str, Any], name: str) -> None:
    result = outcomes[f"{name}.safetensors"]
    assert result["opens"], result
    assert result["tensors"] == len(safetensors.deserialize(BENIGN[name]))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for length in range(len(VALID)):
        file = write(tmp_path, "model.safetensors", VALID[:length])
        assert outcome(lambda file=file: SafetensorsFormat().open(file)) != "opens", length


def _reference_accepts(content: bytes) -> bool:
    try:
        safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return False
    return True


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 8),
)
def test_flipped_bytes_are_refused_or_harmless(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(VALID)
    for position, mask in flips:
        content[position] ^= mask
    mutated = bytes(content[: len(content) - cut])
    file = write(tmp_path, "model.safetensors", mutated)
    if outcome(lambda: SafetensorsFormat().open(file)) == "opens":
        # Stricter than the reference parser, never laxer.
        assert _reference_accepts(mutated)


@FUZZ
@given(
    shape=st.lists(
        st.one_of(st.integers(0, 4), st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64 - 1, -1])), max_size=4
    ),
    begin=st.sampled_from([0, 1, 4, 8, 15, 16, 17, 2**32, 2**63 - 1, 2**64 - 1]),
    end=st.sampled_from([0, 1, 4, 8, 15, 16, 17, 2**32, 2**63 - 1, 2**64 - 1]),
    dtype=st.sampled_from(["F64", "F32", "F16", "BOOL", "U8", "I64", "F8_E5M2", ""]),
)
def test_boundary_numbers_in_any_field(
    tmp_path: Path, shape: list[int], begin: int, end: int, dtype: str
) -> None:
    content = safetensors_bytes({"a": entry(dtype, shape, (begin, end))}, DATA)
    file = write(tmp_path, "model.safetensors", content)
    if outcome(lambda: SafetensorsFormat().open(file)) == "opens":
        assert _reference_accepts(content)
