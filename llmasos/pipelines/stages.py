"""The work of a pipeline: pure functions over immutable shards, committed to the workshop under the digest of their inputs.

Consecutive map steps are fused: a stage reads a shard once, sends each document through all of them, and writes what is left. A
step that must see every shard ends a stage with its signatures; the next stage begins by applying its resolution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

from llmasos.contracts.data import (
    DataSource,
    Document,
    Exporter,
    FilePart,
    GlobalProcessor,
    InputShard,
    Processor,
)
from llmasos.contracts.hub import HubAPI
from llmasos.contracts.stage import Report
from llmasos.errors import LlmasosError, PluginCallError, RunError
from llmasos.kernel.workshop import Workshop, digest_of, digest_range
from llmasos.pipelines.recipe import Part, Recipe
from llmasos.pipelines.records import (
    DROPPED,
    KEPT,
    Counter,
    DocumentFile,
    DroppedFile,
    compress,
    read_documents,
)

#: Changes whenever the files this module writes change shape.
FORMAT = 1

SIGNATURES = "signatures"
#: Files of a result that are not an exporter's.
RESULT_FILES = (KEPT, f"{KEPT}.gz", DROPPED, SIGNATURES)

#: Number of the source in lists of steps; steps of the file count from 1.
SOURCE = 0

Step = Processor | GlobalProcessor | Exporter


@dataclass(frozen=True, slots=True)
class Stage:
    """What happens to a shard between two points where all shards must be seen.

    Steps are numbered as in the pipeline file, from 1. ``head`` is the global step whose resolution is applied first (0: the
    stage reads the source), ``maps`` the fused steps, ``tail`` the global step whose signatures are taken or the exporter.
    """

    head: int
    maps: tuple[int, ...]
    tail: int | None
    last: bool


@dataclass(frozen=True, slots=True)
class ShardDigest:
    """The digest of an input shard. ``stamps``: size and modification time (ns) of each file when it was read."""

    digest: str
    stamps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From the facts of ``InputDigests``."""
        return cls(facts["digest"], tuple((size, modified) for size, modified in facts["stamps"]))


@dataclass(frozen=True, slots=True)
class MapTask:
    """Send one shard through one stage. Either ``input`` (a shard of source ``source``) or ``previous`` (a finished key)."""

    stage: int
    shard: int
    key: str
    source: int = 0
    input: InputShard | None = None
    stamps: tuple[tuple[int, int], ...] = ()
    limit: int | None = None
    previous: str = ""
    resolution: str = ""


@dataclass(frozen=True, slots=True)
class ResolveTask:
    """Reduce the signatures of all shards (finished ``keys``, in shard order) of a global step."""

    step: int
    key: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's result, as the workshop holds it."""

    shard: int
    key: str
    result: Mapping[str, Any]


def plan_stages(steps: tuple[Step, ...]) -> list[Stage]:
    """Cut the steps where all shards must be seen. An Exporter may only be the last step; the caller has checked that."""
    stages: list[Stage] = []
    head, maps = SOURCE, list[int]()
    for number, step in enumerate(steps, 1):
        if isinstance(step, Processor):
            maps.append(number)
        elif isinstance(step, GlobalProcessor):
            stages.append(Stage(head, tuple(maps), number, last=False))
            head, maps = number, []
        else:
            stages.append(Stage(head, tuple(maps), number, last=True))
            return stages
    stages.append(Stage(head, tuple(maps), None, last=True))
    return stages


def build_source(hub: HubAPI, part: Part) -> DataSource:
    """The source a pipeline file names. Raises InputError with the place, UnknownName, AmbiguousName, PluginLoadError."""
    return cast(DataSource, _build(hub, "data_source", part, (DataSource,)))


def build_step(hub: HubAPI, part: Part) -> Step:
    """The processor a pipeline file names. Raises as ``build_source`` does."""
    return cast(Step, _build(hub, "processor", part, (Processor, GlobalProcessor, Exporter)))


def _build(hub: HubAPI, kind: str, part: Part, contracts: tuple[type, ...]) -> Any:
    try:
        made = hub.get(kind, part.kind)(part.options, hub)
    except LlmasosError as error:
        error.message = f"{part.place}: {error.message}"
        raise
    except Exception as error:
        raise PluginCallError(
            f"{part.place}: `{part.kind}` could not be made: {type(error).__name__}: {error}",
            hint="this is a fault of the plugin; LLMASOS_STRICT=1 shows the traceback for a report",
        ) from error
    if not isinstance(made, contracts):
        names = " nor ".join(contract.__name__ for contract in contracts)
        raise PluginCallError(
            f"{part.place}: what `{part.kind}` makes is no {names}", hint="see docs/reference/pipelines.md"
        )
    return made


class InputDigests:
    """The digest of input shards, each the parts of one. Nothing is kept: files may change."""

    name = "reading inputs"
    gpus = 0

    def __init__(self, root: Path) -> None:
        self._root = root

    def key(self, shard: tuple[FilePart, ...]) -> str:
        """By place; what lies there is what is asked for."""
        return digest_of([[part.name, part.start, part.end] for part in shard])

    def open(self, hub: HubAPI, report: Report) -> Self:
        """Nothing to make ready."""
        return self

    def run(self, shard: tuple[FilePart, ...], folder: Path) -> dict[str, Any]:
        """sha256 over the names, ranges and bytes of the parts, in order."""
        whole = hashlib.sha256()
        stamps = []
        for part in shard:
            path = self._root / part.name
            stamps.append(_stamp(path))
            whole.update(f"{part.name}\0{part.start}\0{digest_range(path, part.start, part.end)}\n".encode())
        return {"digest": whole.hexdigest(), "stamps": stamps}


class PipelineStage:
    """The work on shards. Pickled once into each worker process, which builds its own sources and steps."""

    name = "pipeline"
    gpus = 0

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe = recipe
        self._folder = folder
        self._built: tuple[list[DataSource], tuple[Step, ...], list[Stage]] | None = None

    def __reduce__(self) -> tuple[type[Self], tuple[Recipe, Path]]:
        return type(self), (self._recipe, self._folder)

    def build(self, hub: HubAPI) -> tuple[list[DataSource], tuple[Step, ...], list[Stage]]:
        """Sources, steps and stages of the recipe, built once a process."""
        if self._built is None:
            sources = [build_source(hub, part) for part in self._recipe.sources]
            steps = tuple(build_step(hub, part) for part in self._recipe.steps)
            self._built = sources, steps, plan_stages(steps)
        return self._built

    def key(self, shard: MapTask | ResolveTask) -> str:
        """The digest of everything that decides the result."""
        return shard.key

    def open(self, hub: HubAPI, report: Report) -> _Worker:
        """The worker of this process."""
        return _Worker(self._recipe, self._folder, *self.build(hub))


class _Worker:
    """Runs tasks."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        sources: list[DataSource],
        steps: tuple[Step, ...],
        stages: list[Stage],
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._sources = sources
        self._steps = steps
        self._stages = stages

    def run(self, shard: MapTask | ResolveTask, folder: Path) -> dict[str, Any]:
        """A shard through a stage, or the reduction between two stages."""
        return self._resolve(shard, folder) if isinstance(shard, ResolveTask) else self._map(shard, folder)

    def _map(self, task: MapTask, folder: Path) -> dict[str, Any]:
        stage = self._stages[task.stage]
        counters: dict[int, Counter] = {}
        with DocumentFile(folder / KEPT) as kept, (folder / DROPPED).open("wb") as dropped:
            drops = DroppedFile(dropped, self._recipe.output.dropped)
            documents = self._head(stage, task, counters, drops)
            for number in stage.maps:
                step = cast(Processor, self._steps[number - 1])
                counters[number] = Counter()
                documents = self._through(number, step, documents, counters[number], drops)
            documents = kept.passing(documents)
            facts: dict[str, Any] = {}
            tail = self._steps[stage.tail - 1] if stage.tail is not None else None
            with self._blame(stage.tail, task):
                if isinstance(tail, GlobalProcessor):
                    (folder / SIGNATURES).write_bytes(tail.signatures(documents))
                elif isinstance(tail, Exporter):
                    facts = dict(tail.export(documents, folder))
                for _ in documents:  # without a tail all of them, else what it left unread
                    pass
        if task.input is not None:
            for part, stamp in zip(task.input.parts, task.stamps, strict=True):
                if _stamp(self._recipe.root / part.name) != stamp:
                    raise RunError(
                        f"{part.name} changed while it was being read", hint="run again when it is at rest"
                    )
        if stage.last and not self._recipe.output.documents:
            (folder / KEPT).unlink()
        elif stage.last and self._recipe.output.compression == "gzip":
            compress(folder / KEPT)
        return {
            "format": FORMAT,
            "content": kept.digest.hexdigest(),
            "documents": kept.count,
            "characters": kept.characters,
            "steps": {str(number): counter.table() for number, counter in counters.items()},
            "counts": facts,
        }

    def _head(
        self, stage: Stage, task: MapTask, counters: dict[int, Counter], drops: DroppedFile
    ) -> Iterator[Document]:
        counter = counters[stage.head] = Counter()
        if stage.head == SOURCE:
            assert task.input is not None
            return self._read(task, counter, drops)
        step = cast(GlobalProcessor, self._steps[stage.head - 1])
        resolution = (Workshop(self._folder).path(task.resolution) / f"{task.shard:05d}").read_bytes()
        before = read_documents(Workshop(self._folder).path(task.previous) / KEPT)
        return self._decide(stage.head, lambda given: step.apply(given, resolution), before, counter, drops)

    def _read(self, task: MapTask, counter: Counter, drops: DroppedFile) -> Iterator[Document]:
        source = self._sources[task.source]
        assert task.input is not None
        with self._blame(SOURCE, task):
            for found in islice(source.read(task.input, self._recipe.root), task.limit):
                counter.seen += 1
                if isinstance(found, Document):
                    counter.kept += 1
                    counter.characters_in += len(found.text)
                    counter.characters_kept += len(found.text)
                    yield found
                else:
                    drops.add(SOURCE, found, counter)

    def _through(
        self,
        number: int,
        step: Processor,
        documents: Iterator[Document],
        counter: Counter,
        drops: DroppedFile,
    ) -> Iterator[Document]:
        return self._decide(number, step.process, documents, counter, drops)

    def _decide(
        self, number: int, decide: Any, documents: Iterator[Document], counter: Counter, drops: DroppedFile
    ) -> Iterator[Document]:
        """Documents that a step kept. Raises PluginCallError when it fails or loses count."""
        texts: dict[int, str] = {}

        def given() -> Iterator[Document]:
            for document in documents:
                counter.seen += 1
                counter.characters_in += len(document.text)
                texts[counter.seen] = document.text
                yield document

        decided = 0
        with self._blame(number, None):
            for decision in decide(given()):
                decided += 1
                before = texts.pop(decided, None)
                if before is None:
                    raise PluginCallError(
                        f"step {number} ({self._recipe.steps[number - 1].kind}) decided on more documents than it was given",
                        hint="a processor gives one decision for each document",
                    )
                if decision.kept:
                    counter.kept += 1
                    counter.changed += decision.document.text != before
                    counter.characters_kept += len(decision.document.text)
                    yield decision.document
                else:
                    drops.add(number, decision, counter)
        if decided != counter.seen:
            raise PluginCallError(
                f"step {number} ({self._recipe.steps[number - 1].kind}) gave {decided} decisions for {counter.seen} documents",
                hint="a processor gives one decision for each document",
            )

    def _resolve(self, task: ResolveTask, folder: Path) -> dict[str, Any]:
        step = cast(GlobalProcessor, self._steps[task.step - 1])
        workshop = Workshop(self._folder)
        signatures = ((workshop.path(key) / SIGNATURES).read_bytes() for key in task.keys)
        shard = -1
        with self._blame(task.step, None):
            for shard, resolution in enumerate(step.resolve(signatures)):
                (folder / f"{shard:05d}").write_bytes(resolution)
        if shard + 1 != len(task.keys):
            raise PluginCallError(
                f"step {task.step} ({self._recipe.steps[task.step - 1].kind}) resolved {shard + 1} of {len(task.keys)} shards",
                hint="resolve gives one resolution for each shard",
            )
        return {"format": FORMAT}

    def _blame(self, number: int | None, task: MapTask | None) -> _Blame:
        parts = self._recipe.sources if number == SOURCE else self._recipe.steps
        at = (task.source if task is not None else 0) if number == SOURCE else (number or 0) - 1
        return _Blame("" if number is None else f"{parts[at].place}: `{parts[at].kind}`")


class _Blame:
    """Turns an exception of a plugin into an error that names the step; errors meant for the user pass."""

    def __init__(self, who: str) -> None:
        self._who = who

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            raise RunError(
                f"{self._who}: {error}" if self._who else str(error),
                hint="check the disk and the input files",
            ) from error
        if isinstance(error, Exception) and not isinstance(error, LlmasosError):
            raise PluginCallError(
                f"{self._who} failed: {type(error).__name__}: {error}",
                hint="this is a fault of the plugin; LLMASOS_STRICT=1 shows the traceback for a report",
            ) from error


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
