"""docs/reference/weights.md: its code runs, and the limits it states are the limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_samples import STRING, Gguf, elements, pair, write

from llmasos_transformer.weights import directory, gguf, gguf_header, safetensors_header

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "weights.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)


def test_the_code_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "model", "unused", b"")
    save_file({"model.embed_tokens.weight": torch.zeros(4, 2)}, tmp_path / "model" / "model.safetensors")
    vocabulary = Gguf().with_keys(pair("tokenizer.ggml.tokens", elements(STRING, ["first", "second"])))
    (tmp_path / "model.gguf").write_bytes(bytes(vocabulary))
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS:
        exec(compile(block, "docs/reference/weights.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "llama safetensors",
        "model.embed_tokens.weight (4, 2) F32 32",
        "2 first 1",
    ]


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (r"2 bytes to (\d+) MiB", safetensors_header.MAX_HEADER_BYTES >> 20),
        (r"at most (\d+) dimensions, at most 1,000,000", safetensors_header.MAX_DIMS),
        (r"dimensions, at most ([\d,]+) tensors", safetensors_header.MAX_TENSORS),
        (r"at most ([\d,]+) keys", gguf_header.MAX_KEYS),
        (r"keys and ([\d,]+) tensors", gguf_header.MAX_TENSORS),
        (r"ASCII up to ([\d,]+) bytes", gguf_header.MAX_KEY_BYTES),
        (r"strings are at most (\d+) MiB", gguf_header.MAX_TEXT_BYTES >> 20),
        (r"arrays are at most ([\d,]+) in the whole file", gguf_header.MAX_STRINGS),
        (r"at most (\d+) bytes; at most 4", gguf_header.MAX_NAME_BYTES),
        (r"bytes; at most (\d+) dimensions", gguf_header.MAX_DIMS),
        (r"power of two up to ([\d,]+)", gguf_header.MAX_ALIGNMENT),
        (r"object of at most (\d+) MiB", directory.MAX_CONFIG_BYTES >> 20),
    ],
)
def test_stated_limits(words: str, number: int) -> None:
    found = re.search(words, PAGE)
    assert found, words
    assert int(found[1].replace(",", "")) == number


@pytest.mark.parametrize("name", [*gguf.QUANTISED, *gguf.PLAIN, *safetensors_header.READABLE])
def test_readable_types_are_listed(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE)
