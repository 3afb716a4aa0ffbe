"""Xet's wire formats, read with bounds: xorbs (containers of compressed chunks) and shards (what files are made of).

Source: the Xet protocol specification (xorb, shard, hashing), version of 2026-08. Numbers are little-endian. A hash is
written as text with each 8-byte word reversed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import blake3
import lz4.frame

#: Limits of the protocol: bytes of a chunk, chunks of a xorb, bytes of a xorb (unpacked, and as it is sent).
MAX_CHUNK = 128 << 10
MAX_CHUNKS = 8 << 10
MAX_XORB = 64 << 20
MAX_XORB_BODY = MAX_XORB + (1 << 20)
#: Clients close a shard at 64 MiB.
MAX_SHARD = 80 << 20

_FOOTER = b"XETBLOB"
_MAX_FOOTER = 1 << 20
_HEADER = 8
#: What LZ4 adds to a chunk that does not get smaller: senders store such chunks plain.
_SLACK = 1024

_DATA_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_BRANCHES = 4

_SHARD_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_SHARD_VERSION = 2
_ENTRY = 48
_BOOKEND = b"\xff" * 32
_VERIFIED = 1 << 31
_WITH_SHA256 = 1 << 30


class XetRefused(ValueError):
    """Bytes that are not a xorb or shard, or beyond their bounds."""


def hash_text(raw: bytes) -> str:
    """The text of a hash of 32 bytes."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def chunk_hash(data: bytes) -> bytes:
    """The hash of a chunk's content."""
    return blake3.blake3(data, key=_DATA_KEY).digest()


def xorb_hash(hashes: Sequence[bytes], lengths: Sequence[int]) -> bytes:
    """The hash of a xorb: the root of a tree over its chunks, whose branches end where a hash is divisible by four."""
    level = list(zip(hashes, lengths, strict=True))
    while len(level) > 1:
        merged: list[tuple[bytes, int]] = []
        position = 0
        while position < len(level):
            stop = _cut(level, position)
            group = level[position:stop]
            text = "".join(f"{hash_text(digest)} : {length}\n" for digest, length in group)
            merged.append(
                (blake3.blake3(text.encode(), key=_NODE_KEY).digest(), sum(length for _, length in group))
            )
            position = stop
        level = merged
    return level[0][0] if level else bytes(32)


def _cut(level: Sequence[tuple[bytes, int]], start: int) -> int:
    left = len(level) - start
    if left <= 2:
        return len(level)
    end = min(2 * _BRANCHES + 1, left)
    for index in range(2, end):
        # The remainder by four of the last word: its lowest byte decides.
        if level[start + index][0][24] % _BRANCHES == 0:
            return start + index + 1
    return start + end


class XorbReader:
    """Reads a xorb in pieces of any size. Holds no more than one chunk beyond the piece."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._hashes: list[bytes] = []
        self._rest = bytearray()
        self._total = 0
        self._footer: int | None = None

    def feed(self, piece: bytes) -> list[bytes]:
        """The content of every chunk that is complete now, checked against its header. Raises XetRefused."""
        if self._footer is not None:
            self._skip_footer(len(piece))
            return []
        rest = self._rest
        rest += piece
        position = 0
        found: list[bytes] = []
        while len(rest) - position >= _HEADER:
            if rest.startswith(_FOOTER, position):
                self._footer = 0
                self._skip_footer(len(rest) - position)
                position = len(rest)
                break
            packed, scheme, length = _chunk_header(rest, position)
            if len(rest) - position < _HEADER + packed:
                break
            begin = position + _HEADER
            found.append(self._take(bytes(rest[begin : begin + packed]), scheme, length))
            position = begin + packed
        del rest[:position]
        return found

    def _take(self, packed: bytes, scheme: int, length: int) -> bytes:
        self._total += length
        if len(self.lengths) >= MAX_CHUNKS or self._total > MAX_XORB:
            raise XetRefused(f"a xorb holds at most {MAX_CHUNKS} chunks and {MAX_XORB} bytes")
        data = _unpack(packed, scheme, length)
        self.lengths.append(length)
        self._hashes.append(chunk_hash(data))
        return data

    def _skip_footer(self, count: int) -> None:
        # An index of the chunks, which were read anyway.
        self._footer = (self._footer or 0) + count
        if self._footer > _MAX_FOOTER:
            raise XetRefused("the footer of the xorb is too long")

    def finish(self) -> str:
        """The xorb's hash. Raises XetRefused when the last chunk is not complete, or there is none."""
        if self._rest:
            raise XetRefused("the xorb ends within a chunk")
        if not self.lengths:
            raise XetRefused("the xorb has no chunks")
        return hash_text(xorb_hash(self._hashes, self.lengths))


def _chunk_header(data: bytearray, position: int) -> tuple[int, int, int]:
    """(packed bytes, scheme, unpacked bytes)."""
    version, scheme = data[position], data[position + 4]
    packed = int.from_bytes(data[position + 1 : position + 4], "little")
    length = int.from_bytes(data[position + 5 : position + 8], "little")
    if version != 0 or scheme > 2:
        raise XetRefused(f"chunk of version {version} and compression {scheme}")
    if not 0 < length <= MAX_CHUNK or not 0 < packed <= length + _SLACK:
        raise XetRefused(f"chunk of {packed} bytes that unpacks to {length}; at most {MAX_CHUNK} are allowed")
    return packed, scheme, length


def _unpack(packed: bytes, scheme: int, length: int) -> bytes:
    if scheme == 0:
        data = packed
    else:
        unpacker = lz4.frame.LZ4FrameDecompressor()
        try:
            # One byte more than announced, so that a frame that goes on is seen and never unpacked.
            data = unpacker.decompress(packed, max_length=length + 1)
        except (RuntimeError, EOFError, ValueError) as error:
            raise XetRefused(f"damaged LZ4 frame: {error}") from None
        if not unpacker.eof or unpacker.unused_data:
            raise XetRefused("the LZ4 frame of a chunk does not end where the chunk does")
    if len(data) != length:
        raise XetRefused(f"a chunk unpacks to {len(data)} bytes, not to {length}")
    return _ungroup(data) if scheme == 2 else data


def _ungroup(data: bytes) -> bytes:
    """Undo byte grouping: every fourth byte stands together, the first three groups take what does not divide."""
    out = bytearray(len(data))
    position = 0
    for group in range(4):
        size = (len(data) - group + 3) // 4
        out[group::4] = data[position : position + size]
        position += size
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Term:
    """Chunks ``first`` to ``stop`` (exclusive) of a xorb; together ``length`` bytes."""

    xorb: str
    first: int
    stop: int
    length: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file as a shard describes it: the sha256 that its content is claimed to have, its size, its terms."""

    sha256: str
    size: int
    _shard: memoryview
    _position: int
    _count: int

    def terms(self) -> Iterator[Term]:
        """The terms in order, read out of the shard each time: a shard may hold more than a million."""
        return _terms(self._shard, self._position, self._count)


def shard_files(data: bytes | memoryview) -> Iterator[ShardFile]:
    """The files of a shard, one at a time. What follows them (the chunks of new xorbs, a footer) is not needed.

    Raises XetRefused. A count beyond the end of the shard is refused before anything of that size is made.
    """
    view = memoryview(data)
    if len(view) < _ENTRY or bytes(view[:32]) != _SHARD_TAG:
        raise XetRefused("it does not begin as one")
    (version,) = struct.unpack_from("<Q", view, 32)
    if version != _SHARD_VERSION:
        raise XetRefused(f"version {version}; {_SHARD_VERSION} is understood")
    position = _ENTRY
    while True:
        if len(view) - position < _ENTRY:
            raise XetRefused("the list of files has no end")
        if bytes(view[position : position + 32]) == _BOOKEND:
            return
        flags, count = struct.unpack_from("<II", view, position + 32)
        entries = count * (2 if flags & _VERIFIED else 1) + (1 if flags & _WITH_SHA256 else 0)
        begin = position + _ENTRY
        if entries * _ENTRY > len(view) - begin:
            raise XetRefused(f"a file of {count} terms goes beyond the end of the shard")
        if not flags & _WITH_SHA256:
            raise XetRefused("a file without its sha256; a repository needs it")
        position = begin + entries * _ENTRY
        sha256 = hash_text(bytes(view[position - _ENTRY : position - _ENTRY + 32]))
        size = sum(term.length for term in _terms(view, begin, count))
        yield ShardFile(sha256, size, view, begin, count)


def _terms(view: memoryview, position: int, count: int) -> Iterator[Term]:
    for at in range(position, position + count * _ENTRY, _ENTRY):
        _, length, first, stop = struct.unpack_from("<IIII", view, at + 32)
        if not first < stop <= MAX_CHUNKS or not 0 < length <= MAX_XORB:
            raise XetRefused(f"a term of chunks {first} to {stop} and {length} bytes")
        yield Term(hash_text(bytes(view[at : at + 32])), first, stop, length)
