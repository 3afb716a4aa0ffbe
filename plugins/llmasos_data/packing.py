"""Processor ``tokenize_pack``: documents to token ids, packed end to end into shards that can be memory-mapped."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from llmasos.api import Document, HubAPI, InputError, read_options
from llmasos_data.files import well_formed
from llmasos_data.packed import FORMAT

#: Documents and characters given to the tokenizer at once.
_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**20


@dataclass(frozen=True, slots=True)
class PackOptions:
    """``tokenizer``: a model reference. ``separator``: the token after each document (default: the tokenizer's EOS).

    With ``sequence_length`` a shard holds a whole number of sequences of so many tokens; ``tail`` says what becomes of the
    rest: dropped (and counted) or filled up with the separator. Without it the tokens of a shard are one stream.
    """

    tokenizer: str
    separator: str | None = None
    begin: bool = False
    sequence_length: int | None = None
    tail: Literal["drop", "fill"] = "drop"
    dtype: Literal["auto", "uint16", "uint32"] = "auto"

    def __post_init__(self) -> None:
        if self.sequence_length is not None and self.sequence_length < 1:
            raise ValueError("`sequence_length` must be positive")


class TokenizePack:
    """An Exporter. Text that looks like a special token stays text. See ``packed.PackedShard`` for the files.

    Counts: tokens (as written), text_tokens (without separators), sequences, dropped_tokens.
    """

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(PackOptions, options, what="processor tokenize_pack")
        self._tokenizer = hub.load_tokenizer(self.options.tokenizer)
        self.version = f"1;tokenizer={self._tokenizer.digest()}"
        special = self._tokenizer.special
        self._separator = special.eos
        if self.options.separator is not None:
            self._separator = self._tokenizer.token_id(self.options.separator)
            if self._separator is None:
                raise InputError(
                    f"processor tokenize_pack: the tokenizer has no token {self.options.separator!r}",
                    hint=f"name a token of {self.options.tokenizer}",
                )
        if self._separator is None:
            raise InputError(
                f"processor tokenize_pack: the tokenizer of {self.options.tokenizer} has no end-of-sequence token",
                hint="name one with `separator`",
            )
        if self.options.begin and special.bos is None:
            raise InputError(
                f"processor tokenize_pack: the tokenizer of {self.options.tokenizer} has no begin-of-sequence token",
                hint="leave out `begin`",
            )
        self._begin = [special.bos] if self.options.begin and special.bos is not None else []
        narrow = self._tokenizer.vocab_size <= 2**16
        if self.options.dtype == "uint16" and not narrow:
            raise InputError(
                f"processor tokenize_pack: {self._tokenizer.vocab_size} tokens do not fit uint16",
                hint="use dtype: auto",
            )
        wide = self.options.dtype == "uint32" or not narrow
        self._dtype = np.dtype("<u4" if wide else "<u2")

    def export(self, documents: Iterable[Document], folder: Path) -> Mapping[str, int]:
        offsets = array("Q", [0])
        written = text_tokens = 0
        with (folder / "shard.bin").open("wb") as file:
            for ids in self._encoded(documents):
                text_tokens += len(ids)
                row = np.array([*self._begin, *ids, self._separator], dtype=self._dtype)
                file.write(row.tobytes())
                written += len(row)
                offsets.append(written)
            kept, dropped = self._finish(file, written)
        bounds = np.minimum(np.frombuffer(offsets, dtype=np.uint64), kept).astype("<u8")
        (folder / "shard.idx").write_bytes(bounds.tobytes())
        length = self.options.sequence_length
        counts = {
            "documents": len(offsets) - 1,
            "tokens": kept,
            "text_tokens": text_tokens,
            "dropped_tokens": dropped,
            "sequences": kept // length if length else 0,
        }
        head = {
            "format": FORMAT,
            "dtype": self._dtype.name,
            "sequence_length": length,
            "separator": self._separator,
            "vocab_size": self._tokenizer.vocab_size,
            "tokenizer": {"ref": self.options.tokenizer, "digest": self._tokenizer.digest()},
            **counts,
        }
        (folder / "shard.json").write_text(
            json.dumps(head, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        return counts

    def _finish(self, file: BinaryIO, written: int) -> tuple[int, int]:
        """(tokens in the file, tokens left out) after the tail is dealt with."""
        length = self.options.sequence_length
        rest = written % length if length else 0
        if not length or not rest:
            return written, 0
        if self.options.tail == "fill":
            fill = length - rest
            file.write(np.full(fill, self._separator, dtype=self._dtype).tobytes())
            return written + fill, 0
        file.truncate((written - rest) * self._dtype.itemsize)
        return written - rest, rest

    def _encoded(self, documents: Iterable[Document]) -> Iterator[list[int]]:
        batch: list[str] = []
        held = 0
        for document in documents:
            batch.append(well_formed(document.text))
            held += len(document.text)
            if len(batch) >= _BATCH_DOCUMENTS or held >= _BATCH_CHARACTERS:
                yield from self._tokenizer.encode_batch(batch, parse_special=False)
                batch, held = [], 0
        if batch:
            yield from self._tokenizer.encode_batch(batch, parse_special=False)
