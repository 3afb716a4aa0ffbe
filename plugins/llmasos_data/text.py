"""Source ``text``: plain text files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmasos.api import Decision, Document, FilePart, HubAPI, InputShard, read_options
from llmasos_data.files import (
    SHARD_BYTES,
    find_files,
    line_boundary,
    paragraph_boundary,
    plan_shards,
    position_id,
    read_lines,
)

_BOM = codecs.BOM_UTF8


@dataclass(frozen=True, slots=True)
class TextOptions:
    """``max_bytes``: a longer document is dropped unread. ``unwrap`` joins the lines of a paragraph with spaces."""

    paths: tuple[str, ...]
    unit: Literal["file", "paragraph", "line"] = "file"
    encoding: str = "utf-8"
    unwrap: bool = False
    max_bytes: int = 64 * 2**20
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.shard_bytes < 1:
            raise ValueError("`max_bytes` and `shard_bytes` must be positive")
        try:
            newline = "\n".encode(self.encoding)
        except LookupError:
            raise ValueError(f"`encoding` {self.encoding!r} is unknown") from None
        if self.unit != "file" and newline != b"\n":
            raise ValueError(f"files in {self.encoding} can only be read with unit: file")
        if self.unwrap and self.unit != "paragraph":
            raise ValueError("`unwrap` needs unit: paragraph")


class TextSource:
    """A document for each file, paragraph (separated by blank lines) or non-blank line. Line ends become ``\\n``."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(TextOptions, options, what="source text")

    def shards(self, root: Path) -> Iterator[InputShard]:
        names = find_files(self.options.paths, root, what="source text")
        boundary = {"file": None, "paragraph": paragraph_boundary, "line": line_boundary}[self.options.unit]
        return plan_shards(names, root, self.options.shard_bytes, boundary)

    def read(self, shard: InputShard, root: Path) -> Iterator[Document | Decision]:
        unit = {"file": self._file, "paragraph": self._paragraphs, "line": self._lines}[self.options.unit]
        for part in shard.parts:
            yield from unit(part, root)

    def _file(self, part: FilePart, root: Path) -> Iterator[Document | Decision]:
        path = root / part.name
        size = path.stat().st_size
        if size > self.options.max_bytes:
            yield self._too_large(part.name, part.name, size)
            return
        yield self._document(part.name, part.name, path.read_bytes(), at_start=True)

    def _lines(self, part: FilePart, root: Path) -> Iterator[Document | Decision]:
        with (root / part.name).open("rb") as file:
            file.seek(part.start)
            for line in read_lines(file, part.start, part.end, self.options.max_bytes):
                name = position_id(part.name, line.offset)
                if line.data is None:
                    yield self._too_large(name, part.name, line.length)
                elif line.data.strip():
                    yield self._document(name, part.name, line.data, at_start=line.offset == 0)

    def _paragraphs(self, part: FilePart, root: Path) -> Iterator[Document | Decision]:
        limit = self.options.max_bytes
        with (root / part.name).open("rb") as file:
            file.seek(part.start)
            held: list[bytes] = []
            first, size = 0, 0
            for line in read_lines(file, part.start, part.end, limit):
                if line.data is not None and not line.data.strip():
                    if size:
                        yield self._paragraph(part.name, first, size, held)
                    held, size = [], 0
                    continue
                if not size:
                    first = line.offset
                size += line.length + 1
                if line.data is not None and size <= limit + 1:
                    held.append(line.data)
                else:
                    held = []
            if size:
                yield self._paragraph(part.name, first, size, held)

    def _paragraph(self, name: str, offset: int, size: int, lines: list[bytes]) -> Document | Decision:
        if size > self.options.max_bytes + 1:
            return self._too_large(position_id(name, offset), name, size - 1)
        separator = b" " if self.options.unwrap else b"\n"
        data = separator.join(line.strip() if self.options.unwrap else line for line in lines)
        return self._document(position_id(name, offset), name, data, at_start=offset == 0)

    def _document(self, identity: str, name: str, data: bytes, *, at_start: bool) -> Document | Decision:
        meta = {"file": name}
        if at_start:
            data = data.removeprefix(_BOM)
        try:
            text = data.decode(self.options.encoding)
        except UnicodeDecodeError as error:
            return Decision(
                Document(identity, "", meta), kept=False, reason="bad_encoding", detail=str(error)
            )
        return Document(identity, text.replace("\r\n", "\n").rstrip("\r"), meta)

    def _too_large(self, identity: str, name: str, size: int) -> Decision:
        detail = f"{size} bytes > {self.options.max_bytes}"
        return Decision(Document(identity, "", {"file": name}), kept=False, reason="too_large", detail=detail)
