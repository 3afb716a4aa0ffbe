"""Source ``jsonl``: one JSON object a line, plain or gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmasos.api import Decision, Document, FilePart, HubAPI, InputShard, read_options
from llmasos_data.files import (
    SHARD_BYTES,
    Line,
    find_files,
    line_boundary,
    plan_shards,
    position_id,
    read_lines,
    well_formed,
)


@dataclass(frozen=True, slots=True)
class JsonlOptions:
    """``id``: the field with the document's identity; without it, the identity is the position of the line.

    ``meta``: fields to keep beside the text, null for all. ``max_bytes``: a longer line is dropped unread.
    """

    paths: tuple[str, ...]
    text: str = "text"
    id: str | None = None
    meta: tuple[str, ...] | None = None
    max_bytes: int = 64 * 2**20
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.shard_bytes < 1:
            raise ValueError("`max_bytes` and `shard_bytes` must be positive")


class JsonlSource:
    """A document for each line that holds an object with a text. Blank lines are passed over; all else is a dropped record.

    Reasons: ``bad_encoding``, ``bad_json``, ``not_an_object``, ``no_text``, ``no_id``, ``too_large``, ``broken_gzip``.
    """

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(JsonlOptions, options, what="source jsonl")

    def shards(self, root: Path) -> Iterator[InputShard]:
        names = find_files(self.options.paths, root, what="source jsonl")
        plain = [name for name in names if not name.endswith(".gz")]
        packed = [name for name in names if name.endswith(".gz")]
        yield from plan_shards(plain, root, self.options.shard_bytes, line_boundary)
        yield from plan_shards(packed, root, self.options.shard_bytes, None)

    def read(self, shard: InputShard, root: Path) -> Iterator[Document | Decision]:
        for part in shard.parts:
            if part.name.endswith(".gz"):
                yield from self._compressed(part, root)
            else:
                with (root / part.name).open("rb") as file:
                    file.seek(part.start)
                    yield from self._lines(part, file)

    def _compressed(self, part: FilePart, root: Path) -> Iterator[Document | Decision]:
        try:
            with gzip.open(root / part.name, "rb") as file:
                yield from self._lines(part, cast(BinaryIO, file))
        except (OSError, EOFError, zlib.error) as error:
            empty = Document(part.name, "", {"file": part.name})
            yield Decision(empty, kept=False, reason="broken_gzip", detail=str(error))

    def _lines(self, part: FilePart, file: BinaryIO) -> Iterator[Document | Decision]:
        for line in read_lines(file, part.start, part.end, self.options.max_bytes):
            if line.data is None or line.data.strip():
                yield self._record(part.name, line)

    def _record(self, name: str, line: Line) -> Document | Decision:
        identity = position_id(name, line.offset)

        def drop(reason: str, detail: str) -> Decision:
            return Decision(Document(identity, "", {"file": name}), kept=False, reason=reason, detail=detail)

        if line.data is None:
            return drop("too_large", f"{line.length} bytes > {self.options.max_bytes}")
        try:
            record = json.loads(line.data.decode("utf-8-sig" if line.offset == 0 else "utf-8"))
        except UnicodeDecodeError as error:
            return drop("bad_encoding", str(error))
        except (ValueError, RecursionError) as error:
            return drop("bad_json", str(error))
        if not isinstance(record, dict):
            return drop("not_an_object", f"a JSON {type(record).__name__}")
        text = record.pop(self.options.text, None)
        if not isinstance(text, str):
            return drop(
                "no_text",
                f"field {self.options.text!r} is {'missing' if text is None else type(text).__name__}",
            )
        if self.options.id is not None:
            found = record.pop(self.options.id, None)
            if not isinstance(found, str | int) or isinstance(found, bool):
                return drop(
                    "no_id",
                    f"field {self.options.id!r} is {'missing' if found is None else type(found).__name__}",
                )
            identity = well_formed(str(found))
        if self.options.meta is not None:
            record = {key: record[key] for key in self.options.meta if key in record}
        return Document(identity, well_formed(text), record)
