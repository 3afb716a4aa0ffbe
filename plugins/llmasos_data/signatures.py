"""What duplicate removal sends from the map steps to the reduce step: a byte string with identities and arrays.

Layout: one line of JSON ``{"ids": [...], "arrays": {name: [dtype, shape]}}``, then the arrays' bytes in that order. The same
content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmasos.api import Decision, Document, RunError


class Signatures(NamedTuple):
    """``arrays`` have one row a document, except flat ones that an ``offsets`` array points into."""

    ids: list[str]
    arrays: Mapping[str, np.ndarray]


def dump(ids: Sequence[str], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Serialise. Arrays are written little-endian and row by row."""
    plain = {
        name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        for name, array in arrays.items()
    }
    head = {
        "ids": list(ids),
        "arrays": {name: [array.dtype.str, array.shape] for name, array in plain.items()},
    }
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    return line + b"".join(array.tobytes() for array in plain.values())


def load(data: bytes) -> Signatures:
    """The inverse of ``dump``; arrays are views of ``data``. Raises RunError when the bytes do not add up."""
    try:
        end = data.index(b"\n")
        head = json.loads(data[:end])
        arrays, at = {}, end + 1
        for name, (dtype, shape) in head["arrays"].items():
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(data, dtype=dtype, count=count, offset=at).reshape(shape)
            at += arrays[name].nbytes
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes too many")
        return Signatures(head["ids"], arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"signatures are damaged: {error}", hint="remove the .work folder and run again"
        ) from None


def text_digest(text: str) -> bytes:
    """128 bits of BLAKE2b over a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def rank_by_identity(ids: Sequence[str], digests: np.ndarray) -> np.ndarray:
    """Rows in the order that decides who is kept: smallest id first, equal ids by text, equal texts as they come.

    Depends on the documents alone, so the kept set is the same whatever shard each of them lies in.
    """
    keys = digests.tobytes()
    order = sorted(range(len(ids)), key=lambda row: (ids[row], keys[16 * row : 16 * row + 16]))
    return np.array(order, dtype=np.int64)


class Loser(NamedTuple):
    """A document to drop: its row in its shard, the id that is kept instead, and how similar they are."""

    row: int
    winner: str
    detail: str


def dump_losers(losers: Iterable[Loser], total: int) -> bytes:
    """The resolution for one shard of ``total`` documents."""
    return json.dumps({"total": total, "losers": sorted(losers)}, separators=(",", ":")).encode()


def apply_losers(documents: Iterable[Document], resolution: bytes, reason: str) -> Iterator[Decision]:
    """Drop the losers. Raises RunError when the documents are not those that the resolution is about."""
    table = json.loads(resolution)
    losers = {row: (winner, detail) for row, winner, detail in table["losers"]}
    row = -1
    for row, document in enumerate(documents):
        if row in losers:
            winner, detail = losers[row]
            yield Decision(document, kept=False, reason=reason, detail=f"{detail} {winner}")
        else:
            yield Decision(document)
    if row + 1 != table["total"]:
        raise RunError(
            f"{reason}: the shard has {row + 1} documents, its resolution is for {table['total']}",
            hint="remove the .work folder and run again",
        )
