"""Processor ``near_dedup``: MinHash signatures (Broder 1997), banded locality-sensitive hashing, verified candidates,
connected components. Of each component the document with the smallest id is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from rensa import RMinHash

from llmasos.api import Decision, Document, HubAPI, read_options
from llmasos_data.shingles import Shingler
from llmasos_data.signatures import (
    Loser,
    apply_losers,
    dump,
    dump_losers,
    load,
    rank_by_identity,
    text_digest,
)

#: Documents and characters hashed together: enough to amortise the calls, little enough to hold.
_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 4 * 2**20

#: Neighbours in a bucket that a document is compared with, besides the bucket's first. A bucket of boilerplate costs
#: linear, not quadratic, time; a missed pair meets again in other bands.
_NEIGHBOURS = 8

#: How likely a pair just at the threshold must be to become a candidate.
_CANDIDATE_PROBABILITY = 0.99

#: Candidate pairs compared at a time (rows of signatures gathered in memory).
_PAIRS = 2**16


@dataclass(frozen=True, slots=True)
class NearOptions:
    """``threshold``: Jaccard similarity of word n-gram sets from which two documents are duplicates.

    A candidate pair shares one band of ``rows`` out of ``permutations`` values; null takes the longest bands with which a pair
    at the threshold is still a candidate with probability 0.99. ``verify: estimate`` compares signatures
    (standard error sqrt(J(1-J)/permutations)); ``exact`` compares the sets, for signatures eight bytes a word.
    """

    threshold: float = 0.7
    ngram: int = 3
    permutations: int = 256
    rows: int | None = None
    verify: Literal["estimate", "exact"] = "estimate"
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError("`threshold` must be above 0 and at most 1")
        if not 1 <= self.ngram <= 100:
            raise ValueError("`ngram` must be from 1 to 100")
        if not 1 <= self.permutations <= 4096:
            raise ValueError("`permutations` must be from 1 to 4096")
        if self.rows is not None and not 1 <= self.rows <= self.permutations:
            raise ValueError("`rows` must be from 1 to `permutations`")
        if self.seed < 0:
            raise ValueError("`seed` must not be negative")

    def band_rows(self) -> int:
        """Values in a band."""
        if self.rows is not None:
            return self.rows
        likely = [
            rows
            for rows in range(1, self.permutations + 1)
            if 1 - (1 - self.threshold**rows) ** (self.permutations // rows) >= _CANDIDATE_PROBABILITY
        ]
        return max(likely, default=1)


class NearDedup:
    """A GlobalProcessor. Documents without a word are left alone."""

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(NearOptions, options, what="processor near_dedup")
        self.version = f"1;rensa-minhash={RMinHash.ALGORITHM_VERSION}"
        self._shingler = Shingler(self.options.ngram)

    # ---- map ----------------------------------------------------------------------------------------------------------

    def signatures(self, documents: Iterable[Document]) -> bytes:
        ids: list[str] = []
        digests: list[bytes] = []
        minhashes: list[np.ndarray] = []
        sizes: list[np.ndarray] = []
        sets: list[np.ndarray] = []
        for batch in _batches(documents):
            ids += [document.id for document in batch]
            digests += [text_digest(document.text) for document in batch]
            hashes, offsets = self._shingler.shingles([document.text for document in batch])
            minhashes.append(self._minhash(hashes, offsets))
            if self.options.verify == "exact":
                unique = [np.unique(hashes[a:b]) for a, b in pairwise(offsets.tolist())]
                sizes.append(np.array([len(one) for one in unique], dtype=np.int64))
                sets += unique
            else:
                sizes.append(np.diff(offsets))
        count = len(ids)
        arrays = {
            "text": np.frombuffer(b"".join(digests), np.uint8).reshape(count, 16),
            "minhash": _stack(minhashes, (0, self.options.permutations), np.uint32),
            "size": _stack(sizes, (0,), np.int64),
        }
        if self.options.verify == "exact":
            arrays["set"] = _stack(sets, (0,), np.uint64)
        return dump(ids, arrays)

    def _minhash(self, hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """uint32 [documents, permutations]."""
        count = len(offsets) - 1
        if not len(hashes):
            return np.zeros((count, self.options.permutations), dtype=np.uint32)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets.astype(np.uint64), self.options.permutations, self.options.seed
        )
        return np.array(matrix.to_rows(), dtype=np.uint32).reshape(count, self.options.permutations)

    # ---- reduce -------------------------------------------------------------------------------------------------------

    def resolve(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        parts = [load(data) for data in shards]
        ids = [identity for part in parts for identity in part.ids]
        losers: list[list[Loser]] = [[] for _ in parts]
        if ids:
            order = rank_by_identity(ids, np.concatenate([part.arrays["text"] for part in parts]))
            size = np.concatenate([part.arrays["size"] for part in parts])
            order = order[size[order] > 0]
            minhash = np.concatenate([part.arrays["minhash"] for part in parts])[order]
            similarity = _Similarity(minhash)
            if self.options.verify == "exact":
                flat = np.concatenate([part.arrays["set"] for part in parts])
                similarity = _ExactSimilarity(minhash, flat, np.concatenate([[0], np.cumsum(size)]), order)
            roots = self._components(minhash, similarity)
            lost = np.flatnonzero(roots != np.arange(len(roots)))
            values = similarity(lost, roots[lost])
            shard_of = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])
            row_of = np.concatenate([np.arange(len(part.ids)) for part in parts])
            for one, value in zip(lost.tolist(), values.tolist(), strict=True):
                row = order[one]
                winner = ids[order[roots[one]]]
                losers[shard_of[row]].append(Loser(int(row_of[row]), winner, f"{value:.3f} similar to"))
        for part, dropped in zip(parts, losers, strict=True):
            yield dump_losers(dropped, len(part.ids))

    def _components(self, minhash: np.ndarray, similarity: _Similarity) -> np.ndarray:
        """For each document (in rank order) the first document of its component."""
        rows = self.options.band_rows()
        roots = np.arange(len(minhash))
        for start in range(0, self.options.permutations - rows + 1, rows):
            left, right = _candidates(np.ascontiguousarray(minhash[:, start : start + rows]))
            apart = roots[left] != roots[right]
            left, right = left[apart], right[apart]
            for at in range(0, len(left), _PAIRS):
                a, b = left[at : at + _PAIRS], right[at : at + _PAIRS]
                alike = similarity(a, b) >= self.options.threshold
                _unite(roots, a[alike].tolist(), b[alike].tolist())
            while True:  # point every document at the top of its tree
                above = roots[roots]
                if np.array_equal(above, roots):
                    break
                roots[:] = above
        return roots

    def apply(self, documents: Iterable[Document], resolution: bytes) -> Iterator[Decision]:
        return apply_losers(documents, resolution, "near_duplicate")


class _Similarity:
    """Jaccard similarity of pairs of documents, estimated from their signatures."""

    def __init__(self, minhash: np.ndarray) -> None:
        self.minhash = minhash

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """float64 [pairs]."""
        values = [
            (self.minhash[left[at : at + _PAIRS]] == self.minhash[right[at : at + _PAIRS]]).mean(axis=1)
            for at in range(0, len(left), _PAIRS)
        ]
        return np.concatenate(values) if values else np.zeros(0)


class _ExactSimilarity(_Similarity):
    """The same from the sets themselves."""

    def __init__(self, minhash: np.ndarray, flat: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> None:
        super().__init__(minhash)
        self._flat = flat
        self._starts, self._ends = offsets[:-1][order], offsets[1:][order]

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        values = np.zeros(len(left))
        for n, (a, b) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
            one = self._flat[self._starts[a] : self._ends[a]]
            two = self._flat[self._starts[b] : self._ends[b]]
            common = len(np.intersect1d(one, two, assume_unique=True))
            values[n] = common / (len(one) + len(two) - common)
        return values


def _candidates(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows [pairs], [pairs] of ``band`` [documents, rows] that are equal, each with its next neighbours in the
    bucket and with the bucket's first. Within a bucket rows keep their order, so the pairs depend on the ranks alone.
    """
    keys = band.view(np.dtype((np.void, band.itemsize * band.shape[1]))).ravel()
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    same = sorted_keys[1:] == sorted_keys[:-1]
    if not same.any():
        return order[:0], order[:0]
    bucket = np.concatenate([[0], np.cumsum(~same)])
    first = np.searchsorted(bucket, bucket, side="left")
    far = np.flatnonzero(np.arange(len(order)) - first > _NEIGHBOURS)
    left, right = [order[first[far]]], [order[far]]
    for step in range(1, _NEIGHBOURS + 1):
        near = np.flatnonzero(bucket[step:] == bucket[:-step])
        if not len(near):
            break
        left.append(order[near])
        right.append(order[near + step])
    return np.concatenate(left), np.concatenate(right)


def _unite(roots: np.ndarray, left: list[int], right: list[int]) -> None:
    """Join the trees of each pair; the smaller root stays (union-find with path halving)."""

    def top(node: int) -> int:
        while roots[node] != node:
            roots[node] = roots[roots[node]]
            node = int(roots[node])
        return node

    for a, b in zip(left, right, strict=True):
        one, two = top(a), top(b)
        if one != two:
            roots[max(one, two)] = min(one, two)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document.text)
        if len(batch) >= _BATCH_DOCUMENTS or held >= _BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _stack(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(shape, dtype=dtype)
