"""Data sources and processors: a stage is a pure function over an immutable shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from llmasos.contracts.base import Contribution


@dataclass(frozen=True, slots=True)
class Document:
    """One text. ``id`` is stable across runs: derived from the source and the position in it, never from time."""

    id: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputShard:
    """An immutable piece of input: a byte range of a file (``end`` None means to the end). ``digest`` is over its bytes."""

    path: Path
    start: int
    end: int | None
    digest: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a processor did with a document: kept it (perhaps changed) or dropped it, and why.

    ``reason`` is a short stable word for counters, ``detail`` the number or rule that decided.
    """

    document: Document
    kept: bool = True
    reason: str = ""
    detail: str = ""


class DataSource(Protocol):
    """Factory object of a DataSourceDef: built with the options of a pipeline file."""

    def shards(self) -> Iterator[InputShard]:
        """Split the input deterministically. Raises InputError for a missing or unreadable file."""

    def read(self, shard: InputShard) -> Iterator[Document | Decision]:
        """Documents of a shard in order; an unreadable record is a dropped Decision, never an exception."""


class Processor(Protocol):
    """Factory object of a ProcessorDef: built with the options of a pipeline file.

    ``process`` depends only on its options and the documents given: no clock, no randomness without a seed, no network.
    ``version`` changes whenever the output could change.
    """

    version: str

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        """One decision for each document, in order."""


class GlobalProcessor(Protocol):
    """A processor that must see every shard (duplicate removal), in three pure steps a cluster can run.

    ``signatures`` maps a shard; ``resolve`` reduces all signatures to the set of decisions; ``apply`` maps a shard again.
    The result does not depend on how many workers ran the maps or in which order.
    """

    version: str

    def signatures(self, documents: Iterable[Document]) -> bytes:
        """What ``resolve`` needs to know of this shard, serialised deterministically."""

    def resolve(self, shards: Iterable[bytes]) -> bytes:
        """The decisions for all shards, from their signatures in shard order."""

    def apply(self, documents: Iterable[Document], resolution: bytes) -> Iterator[Decision]:
        """One decision for each document, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSourceDef(Contribution):
    """A reader. Manifest ``matches``: ``files`` glob patterns."""

    kind: ClassVar[str] = "data_source"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorDef(Contribution):
    """A step of a pipeline file."""

    kind: ClassVar[str] = "processor"
