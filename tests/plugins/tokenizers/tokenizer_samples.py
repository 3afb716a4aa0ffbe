"""Small tokenizers made on the spot, and the texts they are compared on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want of a wife.",
    "However little known the feelings or views of such a man may be on his first entering a neighbourhood,",
    "this truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property",
    "def main(argv: list[str]) -> int:\n    for i in range(10):\n        print(i ** 2, 3.14159, 0xFF)\n    return 0\n",
    "naïve café, Straße, Ελλάδα, Россия, 日本語, 👍🏽, ½ of 1,000,000 is 500000; don't, we'll, I'VE",
)
TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  two  spaces and a tab\t and\r\n newlines \n\n",
    "a truth <|im_end|> universally </s> acknowledged<s>",
    "2024 3.14159 1,000,000 ²³½ ٣٤",
    "x = [i**2 for i in range(10)]  # ok",
    "é e\u0301 ü 日本語 👩‍👩‍👧‍👦 \u200b\ufeff",
    "don't WE'LL i'Ve",
    "\x00\x01\x7f\u0085\u2028",
    "word" * 50,
)
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<unk>", "<pad>")


def _write(folder: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def byte_level(folder: Path, **config: Any) -> Path:
    """GPT-2's kind, with truncation and padding switched on in the file."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens([AddedToken("universally", normalized=False)])
    made.enable_truncation(4)
    made.enable_padding(length=9, pad_token="<pad>", pad_id=made.token_to_id("<pad>"))
    return _write(
        folder,
        made,
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config},
    )


def metaspace_unigram(folder: Path) -> Path:
    """T5's kind: Unigram pieces, NFKC, an end-of-sequence template."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
            normalizers.Replace("``", '"'),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=list(SPECIAL), unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens([AddedToken("universally", normalized=False)])
    made.add_special_tokens(["<extra_0>"])
    made.add_tokens([AddedToken("acknowledged", normalized=False)])
    end = made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return _write(
        folder,
        made,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        },
    )


def wordpiece(folder: Path) -> Path:
    """BERT's kind, as tokenizer.json and as vocab.txt."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    )
    around = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    path = _write(
        folder,
        made,
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            **{f"{n[1:-1].lower()}_token": n for n in names},
        },
    )
    vocabulary = sorted(made.get_vocab().items(), key=lambda item: item[1])
    (path / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in vocabulary), encoding="utf-8")
    return path


def sentencepiece_header(**changes: Any) -> dict[str, Any]:
    """The header of a small SentencePiece vocabulary: bytes, letters and some joined pieces with scores."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    types = [2, 3, 3, *([6] * 256)]
    scores = [0.0] * len(names)
    joined = [
        "▁",
        "▁▁",
        "▁▁▁▁",
        "th",
        "he",
        "▁t",
        "the",
        "▁the",
        "in",
        "ing",
        "▁a",
        "an",
        "and",
        "▁and",
        "er",
        "es",
        "aa",
        "aaa",
    ]
    letters = list("abcdefghijklmnopqrstuvwxyz,.é")
    for rank, piece in enumerate([*joined, *letters]):
        names.append(piece)
        types.append(1)
        # Equal scores for some pieces, so that the leftmost rule is exercised.
        scores.append(-float(rank // 2))
    names.append("<|user|>")
    types.append(4)
    scores.append(0.0)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **{key: value for key, value in changes.items() if value is not None},
    }


def merge_by_score(text: str, header: Mapping[str, Any]) -> list[int]:
    """SentencePiece BPE as its definition reads: look at all pairs, join the best, begin again. Slow and obvious."""
    pieces = {
        token: (index, header["tokenizer.ggml.scores"][index])
        for index, token in enumerate(header["tokenizer.ggml.tokens"])
        if header["tokenizer.ggml.token_type"][index] in (1, 4, 5)
    }
    symbols = list(("▁" + text.replace(" ", "▁")) if text else "")
    while True:
        pairs = [
            (pieces[a + b][1], -at)
            for at, (a, b) in enumerate(itertools.pairwise(symbols))
            if a + b in pieces
        ]
        if not pairs:
            break
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    ids: list[int] = []
    for symbol in symbols:
        ids.extend([pieces[symbol][0]] if symbol in pieces else [3 + byte for byte in symbol.encode("utf-8")])
    return ids


def byte_level_header(**changes: Any) -> dict[str, Any]:
    """The header of a small byte-level BPE vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["Ġ t", "h e", "Ġt he", "1 2", "Ġ Ġ"]
    tokens = ["<|endoftext|>", *alphabet, *(merge.replace(" ", "") for merge in merges), "[PAD]"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, *([1] * (len(tokens) - 2)), 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        **{key: value for key, value in changes.items() if value is not None},
    }


def without(header: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A header that lacks some keys."""
    return {key: value for key, value in header.items() if key not in keys}


def spoiled(values: Sequence[Any], at: int, value: Any) -> list[Any]:
    """A list with one entry changed."""
    changed = list(values)
    changed[at] = value
    return changed


def named(cases: Mapping[str, Any]) -> list[Any]:
    """pytest parameters with their names as ids."""
    return [pytest.param(value, id=name) for name, value in cases.items()]
