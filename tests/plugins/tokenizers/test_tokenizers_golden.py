"""Every vocabulary that publishes golden ids: our tokenizer built from the GGUF file gives exactly those ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos_tokenizers.gguf import GgufFormat
from llmasos_transformer.weights.gguf import GgufFormat as GgufWeights

SDIST = "llama-cpp-python==0.3.36"
SEPARATOR = "\n__ggml_vocab_test__\n"
#: Vocabulary and the number of its strings; the last one is empty for those with 47 and 51.
GOLDEN = {
    "bert-bge": 47,
    "command-r": 47,
    "deepseek-coder": 47,
    "deepseek-llm": 47,
    "falcon": 47,
    "gemma-4": 46,
    "gpt-2": 47,
    "llama-bpe": 47,
    "llama-spm": 47,
    "mpt": 47,
    "phi-3": 47,
    "qwen2": 47,
    "qwen35": 51,
    "refact": 47,
    "starcoder": 47,
}
#: WordPiece folds case and drops spaces, so only these come back as they were.
LOSSY = {"bert-bge"}


def _cases(path: Path) -> list[tuple[str, list[int]]]:
    texts = path.with_name(path.name + ".inp").read_bytes().decode("utf-8").split(SEPARATOR)
    lines = path.with_name(path.name + ".out").read_text(encoding="ascii").split("\n")
    if len(lines) == len(texts) + 1 and not lines[-1]:
        lines.pop()
    return [(text, [int(part) for part in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.network
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_ids(
    name: str, sdist_member: Callable[[str, str], Path], record_property: Callable[[str, object], None]
) -> None:
    path = sdist_member(SDIST, "vendor/llama.cpp/models") / f"ggml-vocab-{name}.gguf"
    checkpoint = GgufWeights().open(path)
    try:
        tokenizer = GgufFormat().open(path, checkpoint)
    finally:
        checkpoint.close()
    cases = _cases(path)
    got = [tokenizer.encode(text) for text, _ in cases]
    wrong = [(text, want, ids) for (text, want), ids in zip(cases, got, strict=True) if ids != want]
    record_property("golden", f"{len(cases) - len(wrong)}/{len(cases)}")
    print(f"{name}: {len(cases) - len(wrong)}/{len(cases)}")
    assert not wrong, wrong[:3]
    assert len(cases) == GOLDEN[name]
    assert tokenizer.encode_batch([text for text, _ in cases]) == got
    if name not in LOSSY:
        assert [tokenizer.decode(ids) for ids in got] == [text for text, _ in cases]


@pytest.mark.network
@pytest.mark.parametrize("name", ["aquila", "baichuan", "gpt-neox"])
def test_vocabularies_without_golden_ids_round_trip(
    name: str, sdist_member: Callable[[str, str], Path]
) -> None:
    folder = sdist_member(SDIST, "vendor/llama.cpp/models")
    path = folder / f"ggml-vocab-{name}.gguf"
    checkpoint = GgufWeights().open(path)
    try:
        tokenizer = GgufFormat().open(path, checkpoint)
    finally:
        checkpoint.close()
    texts = [text for text, _ in _cases(folder / "ggml-vocab-gpt-2.gguf")]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts
