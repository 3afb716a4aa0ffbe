"""Data sources and processors: a stage is a pure function over an immutable shard.

The factory of a DataSourceDef or ProcessorDef is called as ``factory(options, hub)``: the options of a pipeline file as
a mapping, and a HubAPI for processors that need a tokenizer. It raises InputError for options that make no sense
(``llmasos.api.read_options`` checks names and types).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from llmasos.contracts.base import Contribution


@dataclass(frozen=True, slots=True)
class Document:
    """One text. ``id`` is stable across runs: derived from the source and the position in it, never from time.

    ``meta`` holds only what JSON can hold.
    """

    id: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes ``start`` to ``end`` (None: to the end) of one file. ``name`` is the path as the pipeline file names it."""

    name: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class InputShard:
    """An immutable piece of input, in reading order. The engine takes its digest over the bytes of the parts."""

    parts: tuple[FilePart, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a processor did with a document: kept it (perhaps changed) or dropped it, and why.

    ``reason`` is a short stable word for counters, ``detail`` the number or rule that decided.
    """

    document: Document
    kept: bool = True
    reason: str = ""
    detail: str = ""


@runtime_checkable
class DataSource(Protocol):
    """Factory object of a DataSourceDef: ``factory(options, hub)``.

    ``root`` is the folder of the pipeline file; relative names start there. ``version`` changes whenever the documents
    could change.
    """

    version: str

    def shards(self, root: Path) -> Iterator[InputShard]:
        """Split the input, the same way each time. Raises InputError for a missing or unreadable file."""

    def read(self, shard: InputShard, root: Path) -> Iterator[Document | Decision]:
        """Documents of a shard in order; an unreadable record is a dropped Decision, never an exception."""


@runtime_checkable
class Processor(Protocol):
    """Factory object of a ProcessorDef: ``factory(options, hub)``.

    ``process`` depends only on its options and the documents given: no clock, no randomness without a seed, no network.
    ``version`` changes whenever the output could change; it names the versions of libraries that decide the output.
    """

    version: str

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        """One decision for each document, in order, without reading far ahead."""


@runtime_checkable
class GlobalProcessor(Protocol):
    """A processor that must see every shard (duplicate removal), in three pure steps a cluster can run.

    ``signatures`` maps a shard; ``resolve`` reduces all signatures to one resolution for each shard; ``apply`` maps a
    shard again. The result does not depend on how many workers ran the maps or in which order.
    """

    version: str

    def signatures(self, documents: Iterable[Document]) -> bytes:
        """What ``resolve`` needs to know of this shard, serialised deterministically."""

    def resolve(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        """What ``apply`` needs to know of each shard, in shard order, from all signatures in shard order."""

    def apply(self, documents: Iterable[Document], resolution: bytes) -> Iterator[Decision]:
        """One decision for each document, in order. The documents are those ``signatures`` saw."""


@runtime_checkable
class Exporter(Protocol):
    """A processor that ends a pipeline by writing the documents in another form (packed tokens)."""

    version: str

    def export(self, documents: Iterable[Document], folder: Path) -> Mapping[str, int]:
        """Write files named ``shard.*`` into ``folder``, the same bytes for the same documents.

        They are published as ``00000.*`` and so on, by shard. Returns counts for the manifest, which are summed over
        shards (tokens, sequences).
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSourceDef(Contribution):
    """A reader. Manifest ``matches``: ``files`` glob patterns."""

    kind: ClassVar[str] = "data_source"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorDef(Contribution):
    """A step of a pipeline file: a Processor, a GlobalProcessor or, as the last step, an Exporter."""

    kind: ClassVar[str] = "processor"
