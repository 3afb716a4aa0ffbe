"""Xorbs and shards: what is read, and what is refused before it takes memory."""

from __future__ import annotations

import os
import struct
import tracemalloc

import lz4.frame
import pytest
from hub_uploads import BOOKEND, SHARD_TAG, chunk, raw_chunk, raw_hash, shard, xorb_name

from llmasos_registry.server.hub.xet_format import (
    MAX_CHUNK,
    MAX_CHUNKS,
    XetRefused,
    XorbReader,
    chunk_hash,
    hash_text,
    shard_files,
)

CHUNKS = [b"first" * 100, bytes(1000), os.urandom(777), b"x"]


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("scheme", [0, 1, 2])
def test_a_xorb_in_pieces_of_any_size(scheme: int, step: int) -> None:
    body = b"".join(chunk(data, scheme) for data in CHUNKS) + b"XETBLOB" + bytes(300)
    reader = XorbReader()
    found = [c for start in range(0, len(body), step) for c in reader.feed(body[start : start + step])]
    assert found == CHUNKS
    assert reader.finish() == xorb_name(CHUNKS)
    assert reader.lengths == [len(c) for c in CHUNKS]


def test_hashes_of_the_specification() -> None:
    # Written as text, each word of eight bytes is reversed.
    assert hash_text(bytes(range(32))) == "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"
    assert raw_hash(hash_text(bytes(range(32)))) == bytes(range(32))
    assert chunk_hash(b"a") != chunk_hash(b"b")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no chunks"),
        (chunk(b"abc")[:-1], "within a chunk"),
        (chunk(b"abc") + b"\0", "within a chunk"),
        (raw_chunk(b"abc", 0, 3, version=1), "version 1"),
        (raw_chunk(b"abc", 3, 3), "compression 3"),
        (raw_chunk(b"abc", 0, 4), "unpacks to 3 bytes, not to 4"),
        (raw_chunk(b"", 0, 0), "at most"),
        (raw_chunk(bytes(MAX_CHUNK + 1), 0, MAX_CHUNK + 1), "at most"),
        (raw_chunk(bytes(70_000), 1, 10), "at most"),
        (raw_chunk(b"not lz4 at all", 1, 100), "LZ4"),
        (raw_chunk(lz4.frame.compress(b"abc")[:-2], 1, 3), "LZ4 frame"),
        (raw_chunk(lz4.frame.compress(b"abc") + b"more", 1, 3), "LZ4 frame"),
        (raw_chunk(lz4.frame.compress(b"abcd"), 1, 3), "unpacks to 4 bytes, not to 3"),
        (raw_chunk(lz4.frame.compress(b"abcdefgh"), 1, 3), "LZ4 frame"),
        (raw_chunk(lz4.frame.compress(b"abc"), 1, 30), "unpacks to 3 bytes"),
        (b"".join([chunk(b"a")] * (MAX_CHUNKS + 1)), "at most 8192 chunks"),
        (chunk(b"a") + b"XETBLOB" + bytes(2 << 20), "footer"),
    ],
)
def test_refused_xorbs(body: bytes, says: str) -> None:
    def read() -> None:
        reader = XorbReader()
        for start in range(0, len(body), 1 << 20):
            reader.feed(body[start : start + (1 << 20)])
        reader.finish()

    with pytest.raises(XetRefused, match=says):
        read()


def test_a_chunk_that_explodes_is_stopped_at_its_announced_size() -> None:
    bomb = raw_chunk(lz4.frame.compress(bytes(20 << 20)), 1, MAX_CHUNK)
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(XetRefused, match="LZ4 frame"):
        XorbReader().feed(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_a_xorb_of_many_bombs_is_stopped_at_its_own_size() -> None:
    piece = chunk(bytes(MAX_CHUNK), 1) * 100
    reader = XorbReader()
    for _ in range(5):
        reader.feed(piece)
    with pytest.raises(XetRefused, match="67108864 bytes"):
        reader.feed(piece)


def test_a_shard() -> None:
    name = "ab" * 32
    files = list(shard_files(shard(("cd" * 32, [(name, 0, 3, 100), (name, 7, 8, 5)]), ("ef" * 32, []))))
    assert [(f.sha256, f.size) for f in files] == [("cd" * 32, 105), ("ef" * 32, 0)]
    assert [(t.xorb, t.first, t.stop, t.length) for t in files[0].terms()] == [
        (name, 0, 3, 100),
        (name, 7, 8, 5),
    ]
    assert list(files[1].terms()) == []


def counted(flags: int, count: int) -> bytes:
    return SHARD_TAG + struct.pack("<QQ", 2, 0) + bytes(32) + struct.pack("<II8x", flags, count)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not begin"),
        (b"x" * 1000, "does not begin"),
        (SHARD_TAG + struct.pack("<QQ", 3, 0) + BOOKEND, "version 3"),
        (SHARD_TAG + struct.pack("<QQ", 2, 0), "no end"),
        (shard(("ab" * 32, []), end=b""), "no end"),
        (counted(1 << 30, 0xFFFFFFFF) + BOOKEND, "4294967295 terms goes beyond the end"),
        (counted(1 << 31 | 1 << 30, 1) + bytes(48) + BOOKEND, "beyond the end"),
        (counted(1 << 31, 0) + BOOKEND, "without its sha256"),
        (shard(("ab" * 32, [("cd" * 32, 3, 3, 10)])), "a term of chunks 3 to 3"),
        (shard(("ab" * 32, [("cd" * 32, 0, 9000, 10)])), "a term of chunks 0 to 9000"),
        (shard(("ab" * 32, [("cd" * 32, 0, 1, 0)])), "0 bytes"),
        (shard(("ab" * 32, [("cd" * 32, 0, 1, 65 << 20)])), "a term"),
    ],
)
def test_refused_shards(data: bytes, says: str) -> None:
    with pytest.raises(XetRefused, match=says):
        list(shard_files(data))


def test_the_terms_of_a_shard_take_no_memory() -> None:
    body = shard(("ab" * 32, [("cd" * 32, 0, 1, 1)] * 20_000))
    tracemalloc.start()
    (found,) = shard_files(body)
    assert found.size == sum(1 for _ in found.terms()) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
