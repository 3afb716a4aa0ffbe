"""Malformed GGUF: every one is refused with a reason, in bounded time and memory."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_samples import (
    ARRAY,
    BOOL,
    F32,
    GGML_F16,
    GGML_F32,
    GGML_Q4_0,
    I8,
    I32,
    LLAMA_KEYS,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Gguf,
    Stored,
    elements,
    limited,
    outcome,
    pair,
    scalar,
    text,
    write,
)

from llmasos_transformer.weights.gguf import GgufFormat

GOOD = Gguf().with_keys(
    pair("tokenizer.ggml.tokens", elements(STRING, ["a", "b", "ç"])),
    pair("tokenizer.ggml.token_type", elements(I32, [1, 1, 1])),
    pair("tokenizer.ggml.add_bos_token", scalar(BOOL, 1)),
)
VALID = bytes(GOOD)
OTHER = Stored("output.weight", (8,), GGML_F32, 32)
BOUNDARIES = [
    0,
    1,
    2,
    7,
    8,
    127,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**62,
    2**63,
    2**64 - 1,
]


def keys(*pairs: bytes) -> bytes:
    return bytes(Gguf().with_keys(*pairs))


def tensors(*stored: Stored, data: int = 64) -> bytes:
    return bytes(Gguf(tensors=stored, data=bytes(data)))


def without(key: str) -> tuple[bytes, ...]:
    return tuple(known for known in LLAMA_KEYS if not known.startswith(text(key)))


def replaced(key: str, value: bytes) -> bytes:
    return bytes(Gguf(keys=(*without(key), pair(key, value))))


# name -> (file, part of the message)
HOSTILE: dict[str, tuple[bytes, str]] = {
    # the fixed part
    "empty": (b"", "empty"),
    "magic_only": (b"GGUF", "truncated or lies"),
    "no_counts": (b"GGUF" + struct.pack("<I", 3), "truncated or lies"),
    "magic_wrong": (bytes(Gguf(magic=b"GGML")), "does not start with GGUF"),
    "magic_reversed": (bytes(Gguf(magic=b"FUGG")), "does not start with GGUF"),
    "version_0": (bytes(Gguf(version=0)), "GGUF version 0"),
    "version_1": (bytes(Gguf(version=1)), "GGUF version 1"),
    "version_4": (bytes(Gguf(version=4)), "GGUF version 4"),
    "version_max": (bytes(Gguf(version=2**32 - 1)), "GGUF version 4294967295"),
    "big_endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian"),
    "tensors_2_64": (bytes(Gguf(tensor_count=2**64 - 1)), "tensors announced, the limit"),
    "tensors_2_31": (bytes(Gguf(tensor_count=2**31)), "tensors announced, the limit"),
    "tensors_million": (bytes(Gguf(tensor_count=1_000_000)), "1000000 tensors announced but only"),
    "tensors_one_more": (bytes(Gguf(tensor_count=2)), "byte"),
    "keys_2_64": (bytes(Gguf(key_count=2**64 - 1)), "keys announced, the limit"),
    "keys_70000": (bytes(Gguf(key_count=70_000)), "keys announced, the limit"),
    "keys_60000": (bytes(Gguf(key_count=60_000)), "60000 keys announced but only"),
    "keys_one_more": (bytes(Gguf(key_count=len(LLAMA_KEYS) + 1)), "byte"),
    "keys_one_less": (bytes(Gguf(key_count=len(LLAMA_KEYS) - 1)), "byte"),
    # keys and values
    "key_length_2_64": (keys(text("x", 2**64 - 1) + scalar(U8, 1)), "the limit is 65535"),
    "key_length_70000": (keys(text("x" * 70_000) + scalar(U8, 1)), "the limit is 65535"),
    "key_beyond_the_file": (keys(text("x", 60_000) + scalar(U8, 1)), "truncated or lies"),
    "key_empty": (keys(pair("", scalar(U8, 1))), "not printable ASCII"),
    "key_nul": (keys(pair("a\0b", scalar(U8, 1))), "not printable ASCII"),
    "key_not_ascii": (keys(pair("clé", scalar(U8, 1))), "not printable ASCII"),
    "key_not_utf8": (keys(pair(b"\xff\xfe", scalar(U8, 1))), "not printable ASCII"),
    "key_newline": (keys(pair("a\n", scalar(U8, 1))), "not printable ASCII"),
    "key_twice": (keys(pair("x.y", scalar(U8, 1)), pair("x.y", scalar(U8, 2))), "the key x.y appears twice"),
    "type_13": (keys(text("x") + struct.pack("<I", 13) + bytes(8)), "unknown value type 13"),
    "type_max": (keys(text("x") + struct.pack("<I", 2**32 - 1) + bytes(8)), "unknown value type 4294967295"),
    "boolean_2": (keys(pair("x", scalar(BOOL, 2))), "a boolean with the value 2"),
    "string_length_2_64": (keys(text("x") + struct.pack("<I", STRING) + text("", 2**64 - 1)), "the limit is 16777216"),
    "string_length_2_63": (keys(text("x") + struct.pack("<I", STRING) + text("", 2**63)), "the limit is 16777216"),
    "string_beyond": (keys(text("x") + struct.pack("<I", STRING) + text("abc", 16_000_000)), "truncated or lies"),
    "string_not_utf8": (keys(pair("x", scalar(STRING, b"\xff"))), "x is not UTF-8"),
    "string_surrogate": (keys(pair("x", scalar(STRING, b"\xed\xa0\x80"))), "x is not UTF-8"),
    # arrays
    "array_type_13": (keys(text("x") + struct.pack("<IIQ", ARRAY, 13, 1) + bytes(8)), "unknown element type 13"),
    "array_of_arrays": (keys(text("x") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(64)), "array of arrays"),
    "arrays_nested_10000": (
        keys(text("x") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 10_000), "array of arrays"
    ),
    "array_2_64": (keys(pair("x", elements(U8, [], 2**64 - 1))), "truncated or lies"),
    "array_2_61_of_u64": (keys(pair("x", elements(U64, [1], 2**61))), "truncated or lies"),
    "array_2_31": (keys(pair("x", elements(I32, [1], 2**31))), "truncated or lies"),
    "array_boolean_255": (keys(pair("x", elements(BOOL, [0, 1, 255]))), "values other than 0 and 1"),
    "strings_2_64": (keys(pair("x", elements(STRING, ["a"], 2**64 - 1))), "strings but only"),
    "strings_2_61": (keys(pair("x", elements(STRING, ["a"], 2**61))), "strings but only"),
    "strings_10_million": (keys(pair("x", elements(STRING, ["a"], 10_000_000))), "strings but only"),
    "strings_one_more": (bytes(Gguf(keys=(*LLAMA_KEYS, pair("x", elements(STRING, ["a"], 2))), tensors=(), data=b"")),
                         "strings but only|starts at the end"),
    "strings_length_lies": (keys(text("x") + struct.pack("<IIQ", ARRAY, STRING, 2) + text("a", 2**64 - 8) + text("b")),
                            "x[0] of 2 is said to be"),
    "strings_second_lies": (keys(text("x") + struct.pack("<IIQ", ARRAY, STRING, 2) + text("a") + text("b", 2**63)),
                            "x[1] of 2 is said to be"),
    # alignment
    "alignment_0": (keys(pair("general.alignment", scalar(U32, 0))), "not a power of two"),
    "alignment_33": (keys(pair("general.alignment", scalar(U32, 33))), "not a power of two"),
    "alignment_max": (keys(pair("general.alignment", scalar(U32, 2**32 - 1))), "not a power of two"),
    "alignment_2_31": (keys(pair("general.alignment", scalar(U32, 2**31))), "not a power of two"),
    "alignment_text": (keys(pair("general.alignment", scalar(STRING, "32"))), "not a power of two"),
    "alignment_float": (keys(pair("general.alignment", scalar(F32, 32.0))), "not a power of two"),
    "alignment_array": (keys(pair("general.alignment", elements(U32, [32]))), "not a power of two"),
    "alignment_negative": (keys(pair("general.alignment", scalar(I8, -32))), "not a power of two"),
    # tensor infos
    "name_length_2_64": (bytes(Gguf(tensors=(), data=text("x", 2**64 - 1) + bytes(64), tensor_count=1)), "the limit is 256"),
    "name_300": (tensors(Stored("a" * 300)), "the limit is 256"),
    "name_empty": (tensors(Stored("")), "letters, digits"),
    "name_climbs": (tensors(Stored("../../etc/passwd")), "letters, digits"),
    "name_absolute": (tensors(Stored("/etc/passwd")), "letters, digits"),
    "name_nul": (tensors(Stored("a\0")), "letters, digits"),
    "name_not_utf8": (tensors(Stored(b"\xff\xff")), "letters, digits"),
    "name_twice": (tensors(Stored(), replace(OTHER, name="output_norm.weight")), "appears twice"),
    "dims_5": (tensors(Stored(sizes=(1, 1, 1, 1, 8))), "has 5 dimensions, the limit is 4"),
    "dims_max": (tensors(Stored(dims=2**32 - 1)), "dimensions, the limit is 4"),
    "dims_more_than_sizes": (tensors(Stored(dims=4)), "byte"),
    "size_0": (tensors(Stored(sizes=(8, 0))), "0 elements"),
    "size_max": (tensors(Stored(sizes=(2**64 - 1,))), "elements"),
    "size_2_62": (tensors(Stored(sizes=(2**62,))), "end beyond"),
    "sizes_wrap_to_8": (tensors(Stored(sizes=(2**32, 2**32, 1, 8))), "elements"),
    "sizes_wrap_to_0": (tensors(Stored(sizes=(2**32, 2**32))), "elements"),
    "size_one_row_more": (tensors(Stored(sizes=(8, 3)), data=64), "end beyond"),
    "kind_unknown": (tensors(Stored(kind=999)), "unknown element type 999"),
    "kind_removed": (tensors(Stored(kind=4)), "unknown element type 4"),
    "kind_max": (tensors(Stored(kind=2**32 - 1)), "unknown element type 4294967295"),
    "rows_not_whole_blocks": (tensors(Stored(sizes=(33, 32), kind=GGML_Q4_0)), "blocks of 32"),
    "rows_shorter_than_a_block": (tensors(Stored(sizes=(8, 32), kind=GGML_Q4_0)), "blocks of 32"),
    "offset_not_aligned": (tensors(Stored(offset=4)), "not a multiple of 32"),
    "offset_beyond": (tensors(Stored(offset=64)), "end beyond"),
    "offset_2_63": (tensors(Stored(offset=2**63)), "end beyond"),
    "offset_wraps": (tensors(Stored(offset=2**64 - 32)), "end beyond"),
    "overlap": (tensors(Stored(sizes=(16,)), OTHER), "overlaps output_norm.weight"),
    "same_place": (tensors(Stored(), replace(OTHER, offset=0)), "overlaps"),
    "data_missing": (tensors(Stored(), data=0), "end beyond"),
    "data_one_byte_short": (tensors(Stored(), data=31), "end beyond"),
    # what the keys say about the model
    "architecture_missing": (bytes(Gguf(keys=without("general.architecture"))), "general.architecture is missing"),
    "architecture_number": (replaced("general.architecture", scalar(U8, 1)), "general.architecture is 1"),
    "architecture_array": (replaced("general.architecture", elements(STRING, ["llama"])), "general.architecture is"),
    "architecture_empty": (replaced("general.architecture", scalar(STRING, "")), "general.architecture is ''"),
    "layers_missing": (bytes(Gguf(keys=without("llama.block_count"))), "llama.block_count is missing"),
    "layers_text": (replaced("llama.block_count", scalar(STRING, "1")), "llama.block_count is '1', not a whole number"),
    "layers_zero": (replaced("llama.block_count", scalar(U32, 0)), "llama.block_count is 0"),
    "layers_negative": (replaced("llama.block_count", scalar(I32, -1)), "llama.block_count is -1"),
    "layers_boolean": (replaced("llama.block_count", scalar(BOOL, 1)), "llama.block_count is True"),
    "layers_float": (replaced("llama.block_count", scalar(F32, 1.0)), "llama.block_count is 1.0"),
    "width_2_64": (replaced("llama.embedding_length", scalar(U64, 2**64 - 1)), "llama.embedding_length is 184"),
    "heads_array": (replaced("llama.attention.head_count", elements(U32, [2])), "llama.attention.head_count is"),
    "heads_do_not_divide": (replaced("llama.attention.head_count", scalar(U32, 3)), "a divisor of the embedding length 8"),
    "more_heads_than_width": (replaced("llama.attention.head_count", scalar(U32, 2**20)), "a divisor of"),
    "head_2_31_and_factors": (
        bytes(Gguf(tensors=(Stored("rope_freqs.weight", (8,)),)).with_keys(pair("llama.attention.key_length", scalar(U32, 2**31)))),
        "follow no known rule",
    ),
    "factors_many": (tensors(Stored("rope_freqs.weight", (5000,)), data=20_000), "not a short list"),
    "factors_half": (tensors(Stored("rope_freqs.weight", (8,), GGML_F16)), "not a short list"),
    "segments_text": (
        bytes(Gguf(keys=(pair("general.architecture", scalar(STRING, "bert")),
                         *(pair(f"bert.{k}", scalar(U32, 4)) for k in ("embedding_length", "feed_forward_length", "block_count",
                           "attention.head_count", "context_length")),
                         pair("tokenizer.ggml.token_type_count", scalar(STRING, "2"))))),
        "token_type_count is '2'",
    ),
    "value_with_escapes": (replaced("llama.block_count", scalar(STRING, "\x1b[2J")), "is '\\x1b[2J'"),
    "is_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "epsilon_nan": (keys(pair("llama.attention.layer_norm_rms_epsilon", scalar(F32, float("nan")))), "is nan"),
    "epsilon_negative": (keys(pair("llama.attention.layer_norm_rms_epsilon", scalar(F32, -1.0))), "is -1.0"),
    "theta_infinite": (keys(pair("llama.rope.freq_base", scalar(F32, float("inf")))), "is inf"),
    "theta_zero": (keys(pair("llama.rope.freq_base", scalar(F32, 0.0))), "is 0.0"),
    "scaling_number": (keys(pair("llama.rope.scaling.type", scalar(U8, 1))), "llama.rope.scaling.type is 1"),
    "rows_do_not_fit_heads": (tensors(Stored("blk.0.attn_q.weight", (8, 2)), data=64), "not 2 heads of an even size"),
    "two_names_for_one": (tensors(Stored("blk.0.attn_norm.weight"), replace(OTHER, name="blk.00.attn_norm.weight")), "both model"),
    "part_of_a_split": (keys(pair("split.count", scalar(U16, 3))), "part of a split"),
    # other formats under this name
    "is_safetensors": (struct.pack("<Q", 2) + b"{}", "does not start with GGUF"),
    "is_pickle": (b"\x80\x04\x95" + bytes(60), "does not start with GGUF"),
    "is_zip": (b"PK\x03\x04" + bytes(60), "does not start with GGUF"),
    "is_html": (b"<!DOCTYPE html><html>404</html>", "does not start with GGUF"),
}  # fmt: skip

BENIGN: dict[str, tuple[bytes, int]] = {
    "valid": (VALID, 1),
    "version_2": (bytes(Gguf(version=2)), 1),
    "no_tensors": (bytes(Gguf(tensors=(), data=b"")), 0),
    "other_order": (tensors(replace(OTHER, offset=0), Stored(offset=32)), 2),
    "aligned_to_64": (bytes(Gguf(alignment=64).with_keys(pair("general.alignment", scalar(U32, 64)))), 1),
    "empty_arrays": (keys(pair("x", elements(STRING, [])), pair("y", elements(U8, []))), 1),
    "unknown_architecture": (replaced("general.architecture", scalar(STRING, "mamba")), 1),
    "heads_per_layer": (
        bytes(Gguf(keys=(pair("general.architecture", scalar(STRING, "gemma9")),
                         pair("gemma9.attention.head_count", elements(I32, [1, 2]))))), 1
    ),
    "tail": (bytes(Gguf(extra=bytes(100))), 1),
    "half": (tensors(Stored(kind=GGML_F16)), 1),
    "vocabulary_of_100000": (keys(pair("tokenizer.ggml.tokens", elements(STRING, [f"t{i}" for i in range(100_000)]))), 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = {name: content for name, (content, _) in (HOSTILE | BENIGN).items()}
    return limited(
        "llmasos_transformer.weights.gguf:GgufFormat",
        {f"{name}.gguf": content for name, content in files.items()},
        tmp_path_factory.mktemp("gguf"),
        megabytes=512,
        seconds=60,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_files_are_refused_with_a_reason(outcomes: dict[str, Any], name: str) -> None:
    result = outcomes[f"{name}.gguf"]
    assert not result["opens"]
    assert result["error"] == "WeightsError"
    assert result["hint"]
    assert any(part in result["message"] for part in HOSTILE[name][1].split("|")), result["message"]
    assert f"{name}.gguf" in result["message"]
    assert len(result["message"]) < 1200
    assert result["seconds"] < 5


@pytest.mark.parametrize("name", BENIGN)
def test_unusual_files_that_keep_the_rules_open(outcomes: dict[str, Any], name: str) -> None:
    result = outcomes[f"{name}.gguf"]
    assert result["opens"], result
    assert result["tensors"] == BENIGN[name][1]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for length in range(len(VALID)):
        file = write(tmp_path, "model.gguf", VALID[:length])
        assert outcome(lambda file=file: GgufFormat().open(file)) != "opens", length


def test_strings_are_counted_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        tmp_path, "model.gguf", keys(pair("x", elements(STRING, "ab")), pair("y", elements(STRING, "cde")))
    )
    monkeypatch.setattr("llmasos_transformer.weights.gguf_header.MAX_STRINGS", 4)
    assert "y has 3 strings, the file may have 2 more" in outcome(lambda: GgufFormat().open(file))


def test_a_token_that_is_not_utf8_is_named_when_it_is_read(tmp_path: Path) -> None:
    content = keys(pair("tokenizer.ggml.tokens", elements(STRING, ["a", b"\xff", "c"])))
    header = GgufFormat().open(write(tmp_path, "model.gguf", content)).header
    tokens = header["tokenizer.ggml.tokens"]
    assert (len(tokens), tokens[0], tokens[2]) == (3, "a", "c")
    assert "tokenizer.ggml.tokens[1]" in outcome(lambda: list(tokens))


def _reference_reads(file: Path) -> set[str]:
    return {tensor.name for tensor in gguf.GGUFReader(file).tensors}


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(4, len(VALID) - 33), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
def test_flipped_bytes_are_refused_or_harmless(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(VALID)
    for position, mask in flips:
        content[position] ^= mask
    file = write(tmp_path, "model.gguf", bytes(content[: len(content) - cut]))
    if outcome(lambda: GgufFormat().open(file)) == "opens":
        # What passes our check is also consistent for the gguf package, which reads the same tensors from it.
        assert len(_reference_reads(file)) == len(GgufFormat().open(file).tensors)


@FUZZ
@given(
    sizes=st.lists(st.one_of(st.integers(1, 64), st.sampled_from(BOUNDARIES)), max_size=5),
    kind=st.one_of(
        st.sampled_from([0, 1, 2, 3, 6, 7, 8, 12, 14, 24, 28, 30]), st.sampled_from(BOUNDARIES[:11])
    ),
    offset=st.sampled_from([0, 4, 32, 64, *BOUNDARIES]),
    tensor_count=st.one_of(st.just(1), st.sampled_from(BOUNDARIES)),
    key_count=st.one_of(st.just(len(LLAMA_KEYS)), st.sampled_from(BOUNDARIES)),
    alignment=st.one_of(st.none(), st.sampled_from(BOUNDARIES[:11])),
)
def test_boundary_numbers_in_any_field(
    tmp_path: Path,
    sizes: list[int],
    kind: int,
    offset: int,
    tensor_count: int,
    key_count: int,
    alignment: int | None,
) -> None:
    extra = () if alignment is None else (pair("general.alignment", scalar(U32, alignment)),)
    lie = Gguf(
        keys=(*LLAMA_KEYS, *extra),
        tensors=(Stored("x", tuple(sizes), kind % 2**32, offset),),
        data=bytes(256),
        tensor_count=tensor_count,
        key_count=key_count + len(extra) if key_count == len(LLAMA_KEYS) else key_count,
    )
    file = write(tmp_path, "model.gguf", bytes(lie))
    # "opens", or a LlmasosError with a message; any other exception, hang or allocation fails here.
    outcome(lambda: GgufFormat().open(file))
