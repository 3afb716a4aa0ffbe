"""Processor ``tokenize_pack`` and the reader of its shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import ByteHub
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos.api import Document, InputError
from llmasos.testing.doubles import ByteTokenizer
from llmasos_data.packed import PackedDataset, PackedShard
from llmasos_data.packing import TokenizePack

EOS, BOS = 257, 256


class OneTokenizer:
    """The part of a Hub that packing uses."""

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer or ByteTokenizer()

    def load_tokenizer(self, ref: str) -> Any:
        return self.tokenizer


def pack(folder: Path, texts: list[str], **options: Any) -> tuple[PackedShard, dict[str, int]]:
    """Pack texts into a folder and open the result."""
    step = TokenizePack({"tokenizer": "bytes", **options}, OneTokenizer())
    counts = step.export([Document(f"{n}", text) for n, text in enumerate(texts)], folder)
    return PackedShard(folder / "shard.bin"), dict(counts)


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=12),
    begin=st.booleans(),
)
def test_a_stream_gives_back_every_document(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], begin: bool
) -> None:
    shard, counts = pack(tmp_path_factory.mktemp("pack"), texts, begin=begin)
    assert len(shard) == len(texts) == counts["documents"]
    tokenizer = ByteTokenizer()
    for index, text in enumerate(texts):
        ids = shard.document(index).tolist()
        assert ids[-1] == EOS
        assert (ids[0] == BOS) or not begin
        assert tokenizer.decode(ids[int(begin) : -1]) == text
    assert counts["tokens"] == len(shard.tokens)
    assert counts["text_tokens"] == sum(len(text.encode()) for text in texts)


def test_text_that_looks_like_a_special_token_stays_text(tmp_path: Path) -> None:
    shard, _ = pack(tmp_path, ["a<eos>b"])
    assert shard.document(0).tolist() == [*b"a<eos>b", EOS]


@pytest.mark.parametrize(("tail", "tokens", "dropped"), [("drop", 8, 3), ("fill", 12, 0)])
def test_sequences_of_a_fixed_length(tmp_path: Path, tail: str, tokens: int, dropped: int) -> None:
    # "abc" "defg" "h" with separators: 4 + 5 + 2 = 11 tokens
    shard, counts = pack(tmp_path, ["abc", "defg", "h"], sequence_length=4, tail=tail)
    assert (counts["tokens"], counts["dropped_tokens"], counts["sequences"]) == (tokens, dropped, tokens // 4)
    rows = shard.sequences()
    assert rows.shape == (tokens // 4, 4)
    assert rows[0].tolist() == [*b"abc", EOS]
    assert shard.document(0).tolist() == [*b"abc", EOS]
    whole = shard.document(2).tolist()
    assert whole == ([] if tail == "drop" else [*b"h", EOS])
    assert (shard.tokens[11:].tolist() if tail == "fill" else [EOS]) == [EOS]


def test_the_files_are_memory_maps_of_the_narrowest_type(tmp_path: Path) -> None:
    shard, _ = pack(tmp_path, ["abc"])
    assert isinstance(shard.tokens, np.memmap)
    assert shard.tokens.dtype == np.uint16
    assert shard.info["tokenizer"]["digest"] == ByteTokenizer().digest()
    assert (tmp_path / "shard.bin").stat().st_size == 8
    (tmp_path / "wide").mkdir()
    wide, _ = pack(tmp_path / "wide", ["abc"], dtype="uint32")
    assert wide.tokens.dtype == np.uint32
    assert wide.tokens.tolist() == shard.tokens.tolist()


def test_a_vocabulary_over_65536_takes_four_bytes(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.vocab_size = 2**16 + 1
    step = TokenizePack({"tokenizer": "big"}, OneTokenizer(tokenizer))
    step.export([Document("0", "abc")], tmp_path)
    assert PackedShard(tmp_path / "shard").tokens.dtype == np.uint32
    with pytest.raises(InputError, match="do not fit uint16"):
        TokenizePack({"tokenizer": "big", "dtype": "uint16"}, OneTokenizer(tokenizer))


def test_a_dataset_is_its_shards_in_order(tmp_path: Path) -> None:
    step = TokenizePack({"tokenizer": "bytes"}, OneTokenizer())
    for number, text in enumerate(["abcdefg", "", "hijklmnopqr"]):
        step.export([Document("0", text)] if text else [], tmp_path)
        for path in tmp_path.glob("shard.*"):
            path.rename(tmp_path / f"{number:05d}{path.suffix}")
    data = PackedDataset(tmp_path, length=4)
    assert len(data) == 5
    assert [bytes(data[n].tolist()) for n in (0, 2, 3)] == [b"abcd", b"hijk", b"lmno"]
    assert data[1].tolist() == [*b"efg", EOS]
    with pytest.raises(IndexError):
        data[5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "<nope>"}, "no token '<nope>'"),
        ({"sequence_length": 0}, "must be positive"),
        ({"sequence_lenght": 4}, "did you mean `sequence_length`"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenizePack({"tokenizer": "bytes", **options}, OneTokenizer())


def test_a_tokenizer_without_an_end_needs_a_separator() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special = type(tokenizer.special)()
    with pytest.raises(InputError, match="no end-of-sequence token"):
        TokenizePack({"tokenizer": "bytes"}, OneTokenizer(tokenizer))
    TokenizePack({"tokenizer": "bytes", "separator": "<eos>"}, OneTokenizer(tokenizer))


@pytest.mark.parametrize("damage", ["shorter", "no head", "other format", "not json"])
def test_damaged_shards_are_input_errors(tmp_path: Path, damage: str) -> None:
    pack(tmp_path, ["abc"])
    if damage == "shorter":
        (tmp_path / "shard.bin").write_bytes(b"xx")
    elif damage == "no head":
        (tmp_path / "shard.json").unlink()
    elif damage == "other format":
        (tmp_path / "shard.json").write_text('{"format": "other"}')
    else:
        (tmp_path / "shard.json").write_text("{")
    with pytest.raises(InputError):
        PackedShard(tmp_path / "shard.bin")


def test_packing_at_the_end_of_a_pipeline_is_the_same_with_two_workers(tmp_path: Path) -> None:
    texts = [f"document {n} " * (n % 7 + 1) for n in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    steps = [{"kind": "exact_dedup"}, {"kind": "tokenize_pack", "tokenizer": "bytes"}]
    source = {"kind": "text", "paths": "a.txt", "unit": "line", "shard_bytes": 500}
    (tmp_path / "p.yaml").write_text(json.dumps({"version": 1, "source": source, "steps": steps}))
    for workers in (1, 2):
        hub = ByteHub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "config", only=["llmasos-data"])
        result = hub.process(tmp_path / "p.yaml", output=tmp_path / f"{workers}", workers=workers)
        assert result.manifest["counts"]["documents"] == 60
        assert result.manifest["counts"]["tokens"] == sum(len(text.strip("\n")) + 1 for text in texts)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / w / "02-tokenize_pack").iterdir()} for w in "12")
    assert one == two
    shard = PackedShard(tmp_path / "2" / "02-tokenize_pack" / "00001.bin")
    kept = [json.loads(line)["text"] for line in (tmp_path / "2/kept/00001.jsonl").open()]
    assert [ByteTokenizer().decode(shard.document(n)[:-1].tolist()) for n in range(len(shard))] == kept
