"""The body of a commit, read as it arrives: a JSON object a line, of which file contents may be long.

Contents go into the store piece by piece. What is kept in memory is one line without its content, the operations, and
the few small files that the registry reads itself.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from llmasos_registry.server.failures import Failure, bad_request, too_large
from llmasos_registry.server.hub.card import MAX_READ, is_read
from llmasos_registry.server.hub.paths import safe_path
from llmasos_registry.server.store.blobs import PIECE, BlobStore, BlobWriter, Stored
from llmasos_registry.server.store.git import blob_id, lfs_pointer

#: A line without the content in it; shorter lines are parsed whole.
MAX_LINE = 1 << 20
#: Files and deletions of one commit. Clients send 1,000; a folder copied at once may be larger.
MAX_OPERATIONS = 50_000
#: Contents inside one commit, together. Clients send 100 MiB.
MAX_INLINE_TOTAL = 1 << 30
#: What the registry reads itself of one commit.
MAX_READ_TOTAL = 4 << 20
#: Small files on their way to the disk at the same time: a disk syncs several files in the time of one.
_WRITERS = 4
_IN_FLIGHT = 32

_CONTENT = re.compile(rb'"content"\s*:\s*"')
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,18})\n"
)
#: Longest text that can be a pointer.
_MAX_POINTER = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Stands for a content that went to the store while its line was read.
_ELSEWHERE = "\x00elsewhere"


@dataclass(frozen=True, slots=True)
class Header:
    """What the commit says of itself."""

    summary: str
    description: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Inline:
    """A file whose content came with the commit and is in the store; ``oid`` is git's id."""

    path: str
    oid: str
    stored: Stored


@dataclass(frozen=True, slots=True)
class Large:
    """A file that was uploaded before. ``size`` None: as the store has it."""

    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Removal:
    """A file, or a folder with everything below, that goes."""

    path: str
    folder: bool


class CommitReader:
    """Feed it the body, then ``finish``. Raises Failure 400 naming the line, 413 for what is too large.

    ``close`` it in any case.
    """

    def __init__(self, store: BlobStore, max_inline: int, room: int) -> None:
        self.header: Header | None = None
        #: Contents of the files that the registry reads itself.
        self.contents: dict[str, bytes] = {}
        self._store = store
        self._max_inline = max_inline
        self._room = min(room, MAX_INLINE_TOTAL)
        self._operations: list[Inline | Large | Removal | Future[Inline]] = []
        self._paths: set[str] = set()
        self._line = bytearray()
        self._number = 1
        self._content: _Content | None = None
        self._streamed: _Content | None = None
        self._total = 0
        self._read_bytes = 0
        self._stack = ExitStack()
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="commit")

    def close(self) -> None:
        """Give up what is half written."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body."""
        position = 0
        while position < len(piece):
            if self._content is not None:
                position = self._feed_content(piece, position)
                continue
            most = position + MAX_LINE + 1 - len(self._line)
            newline = piece.find(b"\n", position, most)
            stop = min(len(piece), most) if newline < 0 else newline
            self._line += piece[position:stop]
            position = stop
            if newline >= 0:
                position += 1
                self._end_line()
            elif len(self._line) > MAX_LINE:
                self._begin_content()

    def _begin_content(self) -> None:
        """The line is long: everything from the opening quote of its content on goes to the store."""
        # A quote inside a string has a backslash before it, so this finds a key and never text that looks like one.
        found = None if self._streamed is not None else _CONTENT.search(self._line)
        if found is None:
            raise bad_request(f"line {self._number} of the commit is longer than {MAX_LINE} bytes")
        begun = bytes(self._line[found.end() :])
        del self._line[found.end() :]
        self._line += json.dumps(_ELSEWHERE)[1:-1].encode()
        writer = self._stack.enter_context(self._store.writer())
        self._content = self._streamed = _Content(writer, min(self._max_inline, self._room - self._total))
        self.feed(begun)

    def _feed_content(self, piece: bytes, position: int) -> int:
        assert self._content is not None
        quote = piece.find(b'"', position)
        stop = len(piece) if quote < 0 else quote
        self._content.write(piece[position:stop], self._number)
        if quote >= 0:
            self._content.end(self._number)
            self._content = None
        return stop

    def _end_line(self) -> None:
        line, self._line = bytes(self._line).strip(), bytearray()
        streamed, self._streamed = self._streamed, None
        if line:
            self._take(line, streamed)
        self._number += 1

    def _take(self, line: bytes, streamed: _Content | None) -> None:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise self._refused("is not JSON") from None
        body = value.get("value") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(body, dict):
            raise self._refused("is not an object with `key` and `value`")
        key = value.get("key")
        if streamed is not None and (key != "file" or body.get("content") != _ELSEWHERE):
            raise self._refused(f"is longer than {MAX_LINE} bytes")
        if key == "header":
            self._take_header(body)
            return
        if len(self._operations) >= MAX_OPERATIONS:
            raise Failure(413, f"A commit has at most {MAX_OPERATIONS} files and deletions")
        if key == "file":
            self._take_file(body, streamed)
        elif key == "lfsFile":
            self._operations.append(self._large(body))
        elif key in ("deletedFile", "deletedFolder"):
            self._operations.append(Removal(self._text(body, "path"), key == "deletedFolder"))
        else:
            raise self._refused(f"has the key {key!r}, which this registry does not know")

    def _take_header(self, body: dict[str, Any]) -> None:
        if self.header is not None:
            raise self._refused("is a second header")
        parent = body.get("parentCommit")
        if parent is not None and not isinstance(parent, str):
            raise self._refused("has a parentCommit that is not text")
        summary, description = body.get("summary", ""), body.get("description") or ""
        if not isinstance(summary, str) or not isinstance(description, str):
            raise self._refused("has a summary or description that is not text")
        if any("\ud800" <= c <= "\udfff" for c in summary + description):
            raise self._refused("has halves of surrogate pairs, which are no characters")
        self.header = Header(summary, description, parent or None)

    def _take_file(self, body: dict[str, Any], streamed: _Content | None) -> None:
        path = self._path(body)
        if streamed is not None and streamed.writer.size <= _MAX_POINTER:
            # It was not the content that made the line long, and what may be a pointer is read as one below.
            raise self._refused(f"is longer than {MAX_LINE} bytes")
        if streamed is not None:
            if body.get("encoding") != "base64":
                raise self._refused("has a content that is not in base64")
            self._count(streamed.writer.size)
            self._operations.append(self._streamed_file(path, streamed))
            return
        data = self._decoded(body)
        if len(data) > self._max_inline:
            raise too_large(f"{path} (send it as LFS: ask `preupload`); a file in a commit", self._max_inline)
        self._count(len(data))
        if is_read(path) and len(data) <= MAX_READ:
            self._read(path, data)
        pointer = self._pointer(path, data)
        if pointer is not None:
            self._operations.append(pointer)
            return
        waiting = len(self._operations) - _IN_FLIGHT
        if waiting >= 0 and isinstance(before := self._operations[waiting], Future):
            before.result()
        self._operations.append(self._pool.submit(self._put, path, data))

    def _read(self, path: str, data: bytes) -> None:
        """Keep a file that the registry reads itself; their number is the sender's, so their sum has a limit."""
        self.contents[path] = data
        self._read_bytes += len(data)
        if self._read_bytes > MAX_READ_TOTAL:
            raise too_large("cards, manifests and results of one commit, together,", MAX_READ_TOTAL)

    def _put(self, path: str, data: bytes) -> Inline:
        return Inline(path, blob_id(data), self._store.put(data))

    def _streamed_file(self, path: str, content: _Content) -> Inline:
        writer = content.writer
        digest = hashlib.sha1(f"blob {writer.size}\0".encode(), usedforsecurity=False)
        kept = bytearray()
        keep = is_read(path) and writer.size <= MAX_READ
        with open(writer.file(), "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                if keep:
                    kept += piece
        if keep:
            self._read(path, bytes(kept))
        stored = writer.commit()
        self._stack.close()
        return Inline(path, digest.hexdigest(), stored)

    def _pointer(self, path: str, data: bytes) -> Large | None:
        """A file that is the pointer of an LFS object is that object: git gives both the same id, so a tree cannot say
        which of them is meant. It takes the same right to the object."""
        found = _POINTER.fullmatch(data) if len(data) <= _MAX_POINTER else None
        if found is None or data != lfs_pointer(found[1].decode(), int(found[2])):
            return None
        return Large(path, found[1].decode(), int(found[2]))

    def _large(self, body: dict[str, Any]) -> Large:
        path, oid, size = self._path(body), body.get("oid"), body.get("size")
        if body.get("algo", "sha256") != "sha256" or not isinstance(oid, str) or not _SHA256.fullmatch(oid):
            raise self._refused("has an oid that is not a sha256 in lower case")
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise self._refused("has a size that is not a number of bytes")
        return Large(path, oid, size)

    def _decoded(self, body: dict[str, Any]) -> bytes:
        content = body.get("content")
        if not isinstance(content, str):
            raise self._refused("has no content")
        try:
            if body.get("encoding", "utf-8") == "utf-8":
                return content.encode()
            if body["encoding"] == "base64":
                return binascii.a2b_base64(content.encode("ascii"), strict_mode=True)
        except (binascii.Error, UnicodeEncodeError):
            raise self._refused("has a content that is damaged") from None
        raise self._refused("has an encoding that is neither base64 nor utf-8")

    def _path(self, body: dict[str, Any]) -> str:
        path = safe_path(self._text(body, "path"))
        if path in self._paths:
            raise self._refused(f"writes {path} a second time")
        self._paths.add(path)
        return path

    def _text(self, body: dict[str, Any], key: str) -> str:
        value = body.get(key)
        if not isinstance(value, str):
            raise self._refused(f"has no {key}")
        return value

    def _count(self, size: int) -> None:
        self._total += size
        if self._total > self._room:
            raise Failure(
                413, f"The files inside this commit are more than the {max(self._room, 0)} bytes left"
            )

    def _refused(self, why: str) -> Failure:
        return bad_request(f"line {self._number} of the commit {why}")

    def finish(self) -> list[Inline | Large | Removal]:
        """Every operation, once the body has ended and all contents are durable. Raises Failure 400 when it is cut off."""
        if self._content is not None:
            raise self._refused("ends within a content")
        if self._line:
            self._end_line()
        if self.header is None:
            raise bad_request("the commit has no header")
        return list(self._results())

    def _results(self) -> Iterator[Inline | Large | Removal]:
        for operation in self._operations:
            yield operation.result() if isinstance(operation, Future) else operation


class _Content:
    """Base64 on its way into the store."""

    def __init__(self, writer: BlobWriter, limit: int) -> None:
        self.writer = writer
        self._limit = limit
        self._rest = b""
        self._ended = False

    def write(self, text: bytes, line: int) -> None:
        text = self._rest + text
        # Some encoders write a slash as `\\/`; any other escape is not base64. Half of one waits for the next piece.
        held = b"\\" if text.endswith(b"\\") else b""
        text = text[: len(text) - len(held)].replace(b"\\/", b"/")
        whole = len(text) - len(text) % 4
        self._rest = text[whole:] + held
        if not whole:
            return
        if self._ended:
            raise bad_request(f"line {line} of the commit has a content that is damaged")
        group = text[:whole]
        try:
            data = binascii.a2b_base64(group, strict_mode=True)
        except binascii.Error:
            raise bad_request(f"line {line} of the commit has a content that is damaged") from None
        self._ended = group.endswith(b"=")
        if self.writer.size + len(data) > self._limit:
            raise Failure(
                413,
                f"line {line} of the commit has a file larger than {self._limit} bytes",
                hint="send it as LFS: `preupload` says which",
            )
        self.writer.write(data)

    def end(self, line: int) -> None:
        if self._rest:
            raise bad_request(f"line {line} of the commit has a content that is damaged")
