"""tokenizer.json files that would hang, crash or exhaust the process, and files that are merely broken."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizer_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from llmasos.api import TokenizerError
from llmasos_tokenizers.hf_json import HfJsonFormat
from llmasos_tokenizers.library import library_errors
from llmasos_tokenizers.pretokenizers import pretokenizer, pretokenizer_names
from llmasos_tokenizers.safety import check, check_regex


def small(**changes: Any) -> dict[str, Any]:
    """A harmless word-level tokenizer with parts exchanged."""
    spec: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
    }
    return {**spec, **changes}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def added(token_id: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": token_id, "content": content, **flags}


def vocab(entries: Any, **model: Any) -> dict[str, Any]:
    return {"model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": entries, **model}}


def charsmap(text: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(4) + text + b"\0").decode()}


HOSTILE = {
    "nested expansion": small(
        normalizer={"type": "Sequence", "normalizers": [replace("a", "a" * 10) for _ in range(9)]}
    ),
    "one large expansion": small(normalizer=replace("a", "a" * 100_000)),
    "expansion by a regular expression": small(
        normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": "abcdefgh"}
    ),
    "expansion in the decoder": small(decoder={"type": "Sequence", "decoders": [replace("a", "a" * 9)]}),
    "expansion by a character map": small(normalizer=charsmap(b"x" * 5000)),
    "character map cut short": small(normalizer={"type": "Precompiled", "precompiled_charsmap": "//8="}),
    "character map is not base64": small(normalizer={"type": "Precompiled", "precompiled_charsmap": "*"}),
    "fixed padding": small(
        padding={
            "strategy": {"Fixed": 2**31},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "a",
        }
    ),
    "a thousand normalizers": small(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000}
    ),
    "sequences in sequences": small(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}] * 9}] * 9,
        }
    ),
    "exponential regular expression": small(pre_tokenizer=split(r"(a+)+$")),
    "exponential alternatives": small(pre_tokenizer=split(r"(?:a|a)*$")),
    "exponential, overlapping": small(pre_tokenizer=split(r"(?:a|aa)+$")),
    "exponential, letters": small(pre_tokenizer=split(r"^(\p{L}+\s?)*$")),
    "back reference": small(pre_tokenizer=split(r"(a)\1")),
    "huge repeat": small(pre_tokenizer=split(r"a{100000}")),
    "invalid regular expression": small(pre_tokenizer=split(r"(")),
    "id near 2^32": small(**vocab({"a": 0, "[UNK]": 2**32 - 1})),
    "negative id": small(**vocab({"a": -1, "[UNK]": 0})),
    "id is a text": small(**vocab({"a": "0", "[UNK]": 1})),
    "two tokens, one id": small(**vocab({"a": 0, "b": 0, "[UNK]": 1})),
    "added token far away": small(added_tokens=[added(2**31, "<x>")]),
    "added token twice": small(added_tokens=[added(3, "<x>"), added(4, "<x>")]),
    "added token over another": small(added_tokens=[added(0, "<x>")]),
    "dropout": small(model={"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}),
    "merge of unknown tokens": small(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}),
    "unknown model": small(model={"type": "Neural", "vocab": {"a": 0}}),
    "empty vocabulary": small(**vocab({})),
    "no vocabulary": small(model={"type": "WordLevel", "unk_token": "a"}),
    "unigram without scores": small(model={"type": "Unigram", "unk_id": 0, "vocab": ["a"]}),
    "unigram with an unknown outside": small(model={"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}),
    "unknown component": small(normalizer={"type": "Compress"}),
    "not a tokenizer": {"a": 1},
    "a list": [1, 2],
    "a number": 7,
}


@pytest.mark.parametrize("spec", samples.named(HOSTILE))
def test_hostile_files_are_refused(spec: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    began = time.process_time()
    with pytest.raises(TokenizerError) as caught:
        HfJsonFormat().open(tmp_path)
    assert time.process_time() - began < 10
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000 + b"]" * 100_000, b'{"model": NaN', b"null"],
    ids=["empty", "cut", "bytes", "deep", "nan", "null"],
)
def test_broken_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        HfJsonFormat().open(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"bos_token": "<nowhere>"}'),
        ("tokenizer_config.json", '{"chat_template": 7}'),
        ("generation_config.json", '{"eos_token_id": "x"}'),
        ("config.json", "{"),
        ("chat_template.jinja", "x" * (1 << 21)),
    ],
)
def test_broken_companions_are_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(small()), encoding="utf-8")
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError) as caught:
        HfJsonFormat().open(tmp_path)
    assert caught.value.hint


def test_a_harmless_file_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(small()), encoding="utf-8")
    assert HfJsonFormat().open(tmp_path).encode("a b c") == [0, 1, 2]


def test_patterns_of_published_tokenizers_are_not_refused() -> None:
    published = [pattern for name in pretokenizer_names() for pattern in pretokenizer(name).split]
    published += [
        r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
        r"(?=(\d{3})+(?!\d))",
        r"\s{512}(?!\S)",
        r"[^]]+|\]",
    ]
    for pattern in published:
        check_regex(pattern, "test")


def test_a_panic_inside_the_library_is_an_error_like_any_other() -> None:
    with pytest.raises(TokenizerError, match="trying failed"), library_errors("trying"):
        pre_tokenizers.Split(Regex(r"(a+)+$"), behavior="isolated").pre_tokenize_str("a" * 40 + "\0")
    with pytest.raises(KeyboardInterrupt), library_errors("trying"):
        raise KeyboardInterrupt


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(
    [
        "model",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "added_tokens",
        "padding",
        "truncation",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(keys, values, max_size=3),
    inner=st.dictionaries(st.sampled_from(["vocab", "merges", "type"]), values),
)
def test_any_json_is_opened_or_refused(
    changes: dict[str, Any], inner: dict[str, Any], hostile_folder: Path
) -> None:
    spec = {**small(), **changes}
    if isinstance(spec["model"], dict):
        spec["model"] = {**spec["model"], **inner}
    (hostile_folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    try:
        tokenizer = HfJsonFormat().open(hostile_folder)
        tokenizer.encode("a b c", add_special_tokens=True)
        tokenizer.encode("a b c", parse_special=False)
        tokenizer.digest()
    except TokenizerError:
        return


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def test_the_checked_file_is_returned_as_it_is() -> None:
    spec = small()
    assert check(spec, "test") == spec
