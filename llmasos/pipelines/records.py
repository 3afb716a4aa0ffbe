"""Documents and dropped documents as JSON lines, and the counters of a step."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llmasos.contracts.data import Decision, Document
from llmasos.errors import InputError

KEPT = "kept.jsonl"
DROPPED = "dropped.jsonl"


@dataclass(slots=True)
class Counter:
    """What one step did to one shard."""

    seen: int = 0
    kept: int = 0
    changed: int = 0
    characters_in: int = 0
    characters_kept: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """For result.json."""
        return {
            "in": self.seen,
            "kept": self.kept,
            "dropped": self.seen - self.kept,
            "changed": self.changed,
            "characters_in": self.characters_in,
            "characters_kept": self.characters_kept,
            "reasons": dict(sorted(self.reasons.items())),
        }


class DroppedFile:
    """Writes dropped documents, at most ``cap`` of each step and reason; counts them all."""

    def __init__(self, file: IO[bytes], cap: int | None) -> None:
        self._file = file
        self._cap = cap

    def add(self, number: int, decision: Decision, counter: Counter) -> None:
        reason = decision.reason or "unnamed"
        count = counter.reasons[reason] = counter.reasons.get(reason, 0) + 1
        if self._cap is None or count <= self._cap:
            document = decision.document
            record = {
                "id": document.id,
                "step": number,
                "reason": reason,
                "detail": decision.detail,
                "text": document.text,
                "meta": document.meta,
            }
            self._file.write(encode_line(record))


class DocumentFile:
    """Writes documents as JSON lines while they pass, and takes the digest of the bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.digest = hashlib.sha256()
        self.count = 0
        self.characters = 0

    def __enter__(self) -> DocumentFile:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def passing(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents, each written before it is handed on."""
        for document in documents:
            line = encode_line({"id": document.id, "text": document.text, "meta": document.meta})
            self._file.write(line)
            self.digest.update(line)
            self.count += 1
            self.characters += len(document.text)
            yield document


def encode_line(record: Mapping[str, Any]) -> bytes:
    """One JSON line in UTF-8. Text that UTF-8 cannot hold (lone surrogates) is escaped, so that reading gives it back."""
    try:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"
    except TypeError as error:
        raise InputError(
            f"document {record['id']!r}: its meta cannot be written as JSON ({error})",
            hint="a source or processor must put only JSON values into meta",
        ) from None


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a finished shard."""
    with path.open("rb") as file:
        for line in file:
            record = json.loads(line)
            yield Document(record["id"], record["text"], record["meta"])


def compress(path: Path) -> None:
    """Replace a file by its gzip. No name and no time inside: the same bytes each time."""
    with (
        path.open("rb") as plain,
        path.with_name(path.name + ".gz").open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
    ):
        while chunk := plain.read(2**20):
            packed.write(chunk)
    path.unlink()
