"""Processor ``exact_dedup``: one document of each normalised text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmasos.api import Decision, Document, HubAPI, read_options
from llmasos_data.signatures import (
    Loser,
    apply_losers,
    dump,
    dump_losers,
    load,
    rank_by_identity,
    text_digest,
)


@dataclass(frozen=True, slots=True)
class ExactOptions:
    """What makes two texts the same: compatibility forms, letter case and white space are ignored unless set to false."""

    compatibility: bool = True
    case: bool = True
    whitespace: bool = True


class ExactDedup:
    """A GlobalProcessor. Of equal texts the one with the smallest id is kept; 128-bit hashes stand for the texts."""

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(ExactOptions, options, what="processor exact_dedup")
        self.version = f"1;unicode={unicodedata.unidata_version}"

    def normalise(self, text: str) -> str:
        """The form in which texts are compared."""
        if self.options.compatibility and not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        if self.options.case:
            text = text.casefold()
        return " ".join(text.split()) if self.options.whitespace else text

    def signatures(self, documents: Iterable[Document]) -> bytes:
        ids: list[str] = []
        raw, normal = bytearray(), bytearray()
        for document in documents:
            ids.append(document.id)
            raw += text_digest(document.text)
            normal += text_digest(self.normalise(document.text))
        shape = (len(ids), 16)
        return dump(
            ids,
            {
                "text": np.frombuffer(bytes(raw), np.uint8).reshape(shape),
                "normal": np.frombuffer(bytes(normal), np.uint8).reshape(shape),
            },
        )

    def resolve(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        parts = [load(data) for data in shards]
        ids = [identity for part in parts for identity in part.ids]
        losers: list[list[Loser]] = [[] for _ in parts]
        if ids:
            where = [(shard, row) for shard, part in enumerate(parts) for row in range(len(part.ids))]
            order = rank_by_identity(ids, np.concatenate([part.arrays["text"] for part in parts]))
            normal = np.concatenate([part.arrays["normal"] for part in parts]).tobytes()
            winners: dict[bytes, int] = {}
            for row in order.tolist():
                winner = winners.setdefault(normal[16 * row : 16 * row + 16], row)
                if winner != row:
                    shard, position = where[row]
                    losers[shard].append(Loser(position, ids[winner], "same as"))
        for part, dropped in zip(parts, losers, strict=True):
            yield dump_losers(dropped, len(part.ids))

    def apply(self, documents: Iterable[Document], resolution: bytes) -> Iterator[Decision]:
        return apply_losers(documents, resolution, "exact_duplicate")
