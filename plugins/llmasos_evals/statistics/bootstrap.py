"""Resampling documents: lm-evaluation-harness's random stream, and a faster one of our own.

The native stream is counter-based (Philox): every ``STREAM`` replicates have a generator of their own, made from seed and
number. So replicates do not depend on how many are computed at a time or where, and the first thousand of ten thousand
are those of one thousand. Statistics that are functions of sums (see ``sums``) never touch a document twice: a replicate
is a sum of rows, and where few rows differ (right or wrong, a confusion) it is one multinomial draw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: lm-evaluation-harness draws in chunks, each with its own generator seeded with the chunk's number.
CHUNK = 1000
#: Upper limit on resampled positions held at once (8 bytes each).
BLOCK = 4_000_000
#: Replicates of one native generator.
STREAM = 256
#: Native replicates: this many, fewer for so many documents that they would take more than WORK draws, never below LEAST.
MOST, LEAST, WORK = 10_000, 1_000, 200_000_000
#: Evaluations of a document by a function that knows no sums; bounds the time of a task's own aggregation.
FUNCTION_WORK, FUNCTION_LEAST = 2_000_000, 100


def resamples(size: int, replicates: int) -> Iterator[NDArray[np.int64]]:
    """Blocks ``[replicates_in_block, size]`` of positions drawn with replacement, ``replicates`` rows in all.

    The stream is that of ``random.Random(chunk).choices`` a chunk: Python's and numpy's Mersenne Twister give the same
    doubles from the same state. (``RandomState(seed)`` would not do: the two seed differently.)
    """
    chunk_size = min(CHUNK, replicates)
    for chunk in range(replicates // chunk_size):
        state = random.Random(chunk).getstate()[1]
        stream = np.random.RandomState()
        stream.set_state(("MT19937", np.array(state[:-1], dtype=np.uint32), int(state[-1]), 0, 0.0))
        left = chunk_size
        while left:
            rows = max(1, min(left, BLOCK // size))
            yield np.floor(stream.random_sample((rows, size)) * size).astype(np.int64)
            left -= rows


def native_replicates(size: int, bootstrap: int) -> int:
    """How many replicates of ``size`` documents the native bootstrap draws when ``bootstrap`` are allowed."""
    return min(bootstrap, MOST, max(LEAST, WORK // size))


def function_replicates(size: int, bootstrap: int) -> int:
    """The same for an aggregation that must see every document of every replicate."""
    return min(bootstrap, LEAST, max(FUNCTION_LEAST, FUNCTION_WORK // size))


def streams(replicates: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Generators and how many replicates each is for."""
    for number, start in enumerate(range(0, replicates, STREAM)):
        key = np.array([seed % 2**64, number], dtype=np.uint64)
        yield np.random.Generator(np.random.Philox(key=key)), min(STREAM, replicates - start)


def picks(size: int, replicates: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Blocks of positions drawn with replacement from the native streams."""
    for generator, count in streams(replicates, seed):
        left = count
        while left:
            rows = max(1, min(left, BLOCK // size))
            yield generator.integers(0, size, size=(rows, size))
            left -= rows


def masks(size: int, replicates: int, seed: int = 0) -> Iterator[NDArray[np.bool_]]:
    """Blocks ``[rows, size]`` of fair coins from the native streams: which documents change places."""
    width = (size + 7) // 8
    for generator, count in streams(replicates, seed):
        left = count
        while left:
            rows = max(1, min(left, BLOCK // size))
            # Whole 64-bit words a row, so that the stream does not depend on the rows of a block.
            words = generator.integers(0, 2**64, size=(rows, (width + 7) // 8), dtype=np.uint64)
            bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, count=size)
            yield bits.astype(np.bool_)
            left -= rows


def ordered(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct rows in lexicographic order and how often each occurs: the same for every order of the documents."""
    order = np.lexsort(rows.T[::-1])
    arranged = rows[order]
    first = np.ones(len(rows), dtype=np.bool_)
    first[1:] = (arranged[1:] != arranged[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    return arranged[starts], np.diff(np.append(starts, len(rows)))


def bootstrap_sums(rows: NDArray[np.float64], replicates: int, seed: int = 0) -> NDArray[np.float64]:
    """``rows [documents, k]`` summed over native replicates -> ``[replicates, k]``.

    Bit for bit the same for every order of the documents.
    """
    size = len(rows)
    distinct, counts = ordered(rows)
    if len(distinct) == 1:
        return np.repeat(distinct * size, replicates, axis=0)
    if len(distinct) * 32 <= size:
        shares = counts / size
        parts = [
            np.einsum(
                "ru,uk->rk", generator.multinomial(size, shares, size=count).astype(np.float64), distinct
            )
            for generator, count in streams(replicates, seed)
        ]
        return np.concatenate(parts)
    arranged = np.repeat(distinct, counts, axis=0)
    if arranged.shape[1] > 4 and _whole(arranged):
        return np.concatenate([_weights(block, size) @ arranged for block in picks(size, replicates, seed)])
    columns = [np.ascontiguousarray(column) for column in arranged.T]
    parts = [
        np.stack([column[block].sum(axis=1) for column in columns], axis=1)
        for block in picks(size, replicates, seed)
    ]
    return np.concatenate(parts)


def _whole(rows: NDArray[np.float64]) -> bool:
    """Whether all entries are whole and sums of them exact, so that the order of additions does not matter."""
    return bool((rows == np.floor(rows)).all() and np.abs(rows).sum() < 2**53)


def _weights(block: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """How often each document was drawn: ``[rows, size]``."""
    places = block + (np.arange(len(block)) * size)[:, None]
    return (
        np.bincount(places.ravel(), minlength=len(block) * size).reshape(len(block), size).astype(np.float64)
    )


def bootstrap_values(
    items: Sequence[Any], value: Callable[[Sequence[Any]], float], replicates: int, seed: int = 0
) -> list[float]:
    """``value`` over native replicates of documents, for functions that know no sums."""
    return [
        float(value([items[place] for place in row.tolist()]))
        for block in picks(len(items), replicates, seed)
        for row in block
    ]


def percentile_interval(
    values: Iterable[float] | NDArray[np.float64], level: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of replicates (Efron 1979)."""
    array = np.sort(
        np.asarray(list(values) if not isinstance(values, np.ndarray) else values, dtype=np.float64)
    )
    tail = (1 - level) / 2
    low, high = np.quantile(array, [tail, 1 - tail])
    return float(low), float(high)
