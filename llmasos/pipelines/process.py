"""``llmasos data process``: run a pipeline file and leave documents, dropped samples and a manifest.

The driver plans shards, asks the workshop what is finished, has the executor do the rest stage by stage, and publishes. Nothing
it decides depends on how many workers there are, or on where an earlier run was killed. Layout of the output folder:

    manifest.json   what went in, what was done, what came out, with digests; the same bytes for the same work
    run.json        about this run: time, workers, how much was already there
    kept/           documents, one file a shard
    dropped/        samples of what each step dropped, and why
    NN-name/        what the last step exported, if it exports
    .work/          finished results by digest; may be removed, then nothing can be reused
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.contracts.data import DataSource, Exporter, InputShard
from llmasos.contracts.evaluation import Progress
from llmasos.contracts.hub import HubAPI
from llmasos.errors import InputError, LlmasosError, PluginCallError, RunError, UsageError
from llmasos.kernel.atomic import write_atomic
from llmasos.kernel.executor import Executor
from llmasos.kernel.stage_run import ExecutorFactory, executor_for, run_stage
from llmasos.kernel.workshop import Workshop, digest_of
from llmasos.pipelines.publication import MANIFEST, Description, Publication, pretty
from llmasos.pipelines.recipe import Part, Recipe, read_recipe
from llmasos.pipelines.stages import (
    FORMAT,
    SIGNATURES,
    SOURCE,
    Finished,
    InputDigests,
    MapTask,
    PipelineStage,
    ResolveTask,
    ShardDigest,
    Stage,
    Step,
)

#: Files changed less than this before they were read may change again within the clock's grain; they are read again (ns).
_FRESH = 2_000_000_000


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """``manifest`` as written. ``reused`` of ``tasks`` results were there already."""

    output: Path
    manifest: Mapping[str, Any]
    seconds: float
    tasks: int
    reused: int


@dataclass(frozen=True, slots=True)
class _Shard:
    source: int
    input: InputShard
    digest: ShardDigest
    limit: int | None

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        parts = [[part.name, part.start, part.end] for part in self.input.parts]
        return {"source": self.source, "sha256": self.digest.digest, "parts": parts}


def process(
    pipeline: Path,
    hub: HubAPI,
    progress: Progress,
    *,
    output: Path | None = None,
    workers: int = 1,
    sample: int | None = None,
    executor: ExecutorFactory | None = None,
) -> ProcessResult:
    """Run the pipeline file ``pipeline``; finished work in ``output`` is reused.

    ``sample`` reads only so many records, spread over the shards. ``executor`` makes another executor. Raises InputError for
    the pipeline file, its options and missing inputs, UsageError for a folder that cannot be used, RunError when the disk or a worker fails, PluginCallError for a step's fault.
    """
    begun = time.monotonic()
    for name, value in (("workers", workers), ("sample", sample)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}", hint=f"{name} must be at least 1")
    progress.phase("reading the pipeline")
    recipe = read_recipe(pipeline)
    folder = output or Path(recipe.output.path or f"runs/{recipe.name}")
    if output is None and recipe.output.path is not None:
        folder = recipe.root / recipe.output.path
    _check_folder(folder)
    workshop = Workshop(folder / ".work")
    work = PipelineStage(recipe, workshop.folder)
    sources, steps, stages = work.build(hub)
    _check_order(recipe, steps)
    try:
        workshop.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}: {error.strerror}", hint="give another --output"
        ) from None
    try:
        with workshop.locked():
            workshop.sweep()
            planned = plan_shards(recipe, sources)
            description = describe(hub, recipe, sources, steps)
            pool = executor(hub) if executor is not None else executor_for(hub, workers=workers)
            try:
                run = _Run(recipe, description, workshop, pool, work, progress, stages)
                shards = run.take_digests(planned, sample)
                results = run.stages(shards)
            finally:
                pool.close()
            progress.phase("publishing", 1)
            publication = Publication(folder, workshop, recipe, description, stages)
            manifest = publication.publish(results, [shard.record() for shard in shards], hub, sample)
            seconds = time.monotonic() - begun
            about = {
                "seconds": round(seconds, 3),
                "workers": workers,
                "tasks": run.tasks,
                "reused": run.reused,
            }
            write_atomic(folder / "run.json", pretty(about))
            progress.advance()
    except (
        OSError
    ) as error:  # what a worker or step could not do is already an error of ours; this is the disk
        raise RunError(
            f"{folder}: {error}", hint="see to the disk and run again: finished shards are kept"
        ) from error
    return ProcessResult(folder, manifest, seconds, run.tasks, run.reused)


def plan_shards(recipe: Recipe, sources: Sequence[DataSource]) -> list[tuple[int, InputShard]]:
    """(number of the source, shard) in order. Raises InputError, PluginCallError for a source's fault."""
    planned: list[tuple[int, InputShard]] = []
    for number, (part, source) in enumerate(zip(recipe.sources, sources, strict=True)):
        try:
            planned += [(number, shard) for shard in source.shards(recipe.root)]
        except LlmasosError as error:
            error.message = f"{part.place}: {error.message}"
            raise
        except Exception as error:
            raise PluginCallError(
                f"{part.place}: `{part.kind}` failed: {type(error).__name__}: {error}",
                hint="this is a fault of the plugin; LLMASOS_STRICT=1 shows the traceback for a report",
            ) from error
    return planned


def _check_folder(folder: Path) -> None:
    """A folder that something else filled is left alone. Raises UsageError."""
    if folder.is_dir():
        ours = (folder / ".work").is_dir() or (folder / MANIFEST).is_file()
        if not ours and any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty and not from an earlier run", hint="give another --output"
            )
    elif folder.exists():
        raise UsageError(f"{folder} is a file", hint="give another --output")


def _check_order(recipe: Recipe, steps: Sequence[Step]) -> None:
    for part, step in zip(recipe.steps[:-1], steps[:-1], strict=True):
        if isinstance(step, Exporter):
            raise InputError(f"{part.place}: `{part.kind}` ends a pipeline", hint="make it the last step")


def describe(
    hub: HubAPI, recipe: Recipe, sources: Sequence[DataSource], steps: Sequence[Step]
) -> Description:
    """Full name, version and options of every source and step, for keys and manifest."""

    def table(kind: str, part: Part, version: str) -> dict[str, Any]:
        full = next((p.full_name for p in hub.names(kind) if part.kind in (p.name, p.full_name)), part.kind)
        return {"kind": full, "version": version, "options": part.options}

    return Description(
        [
            table("data_source", part, made.version)
            for part, made in zip(recipe.sources, sources, strict=True)
        ],
        [table("processor", part, made.version) for part, made in zip(recipe.steps, steps, strict=True)],
    )


class _Run:
    """One run: plans tasks and has them done."""

    def __init__(
        self,
        recipe: Recipe,
        description: Description,
        workshop: Workshop,
        pool: Executor,
        work: PipelineStage,
        progress: Progress,
        stages: Sequence[Stage],
    ) -> None:
        self._recipe = recipe
        self._description = description
        self._workshop = workshop
        self._pool = pool
        self._work = work
        self._progress = progress
        self._stages = stages
        self.tasks = 0
        self.reused = 0

    # ---- input --------------------------------------------------------------------------------------------------------

    def take_digests(self, planned: Sequence[tuple[int, InputShard]], sample: int | None) -> list[_Shard]:
        """Digest of every input shard; files that have not changed since an earlier run are not read again."""
        self._progress.phase("reading inputs", len(planned))
        memory = self._workshop.folder / "inputs.json"
        known = _remembered(memory)
        found: dict[int, ShardDigest] = {}
        todo: list[int] = []
        for number, (_, shard) in enumerate(planned):
            stamps = tuple(_stamp(self._recipe.root / part.name) for part in shard.parts)
            digest = known.get(_input_key(shard, stamps))
            if digest is not None:
                found[number] = ShardDigest(digest, stamps)
                self._progress.advance()
            else:
                todo.append(number)
        now = time.time_ns()
        parts = [planned[number][1].parts for number in todo]
        for done in run_stage(self._pool, InputDigests(self._recipe.root), parts, folder=None):
            found[todo[done.index]] = ShardDigest.of(done.facts)
            self._progress.advance()
        settled = {
            _input_key(planned[number][1], one.stamps): one.digest
            for number, one in found.items()
            if all(now - modified > _FRESH for _, modified in one.stamps)
        }
        write_atomic(memory, json.dumps(settled, sort_keys=True).encode())
        count = len(planned)
        limits = [None if sample is None else sample // count + (n < sample % count) for n in range(count)]
        return [
            _Shard(source, shard, found[n], limits[n])
            for n, (source, shard) in enumerate(planned)
            if limits[n] is None or limits[n]
        ]

    # ---- stages -------------------------------------------------------------------------------------------------------

    def stages(self, shards: Sequence[_Shard]) -> list[list[Finished]]:
        """The results of each stage, in shard order."""
        done: list[list[Finished]] = []
        for number, stage in enumerate(self._stages):
            name = f"stage {number + 1}/{len(self._stages)}: {self._title(stage)}"
            self._progress.phase(name, len(shards))
            if stage.head == SOURCE:
                tasks = [self._first_task(n, shard) for n, shard in enumerate(shards)]
            else:
                resolution = self._resolve(stage.head, done[-1])
                tasks = [self._next_task(number, stage, before, resolution) for before in done[-1]]
            done.append(self._do(tasks))
        return done

    def _title(self, stage: Stage) -> str:
        head = (
            self._recipe.sources[0].kind if stage.head == SOURCE else self._recipe.steps[stage.head - 1].kind
        )
        if stage.head == SOURCE and len(self._recipe.sources) > 1:
            head = "+".join(dict.fromkeys(part.kind for part in self._recipe.sources))
        tail = [self._recipe.steps[stage.tail - 1].kind] if stage.tail is not None else []
        if tail and not stage.last:
            tail = [f"{tail[0]} signatures"]
        return ", ".join([head, *(self._recipe.steps[number - 1].kind for number in stage.maps), *tail])

    def _decides(self, stage: Stage) -> dict[str, Any]:
        """Everything but the input that decides the result of a stage."""
        numbers = [*([stage.head] if stage.head else []), *stage.maps, *([stage.tail] if stage.tail else [])]
        output = self._recipe.output
        return {
            "format": FORMAT,
            # The numbers are in the records of dropped documents.
            "steps": [[number, self._description.steps[number - 1]] for number in numbers],
            "cap": output.dropped,
            "files": [output.compression, output.documents] if stage.last else None,
        }

    def _first_task(self, number: int, shard: _Shard) -> MapTask:
        key = digest_of(
            {
                "stage": self._decides(self._stages[0]),
                "source": self._description.sources[shard.source],
                "input": shard.digest.digest,
                "limit": shard.limit,
            }
        )
        return MapTask(
            0,
            number,
            key,
            source=shard.source,
            input=shard.input,
            stamps=shard.digest.stamps,
            limit=shard.limit,
        )

    def _next_task(self, number: int, stage: Stage, before: Finished, resolution: Finished) -> MapTask:
        own = f"{before.shard:05d}"
        key = digest_of(
            {
                "stage": self._decides(stage),
                "input": before.result["content"],
                "resolution": resolution.result["files"][own]["sha256"],
            }
        )
        return MapTask(number, before.shard, key, previous=before.key, resolution=resolution.key)

    def _resolve(self, step: int, before: Sequence[Finished]) -> Finished:
        signatures = [one.result["files"][SIGNATURES]["sha256"] for one in before]
        key = digest_of(
            {"format": FORMAT, "resolve": self._description.steps[step - 1], "signatures": signatures}
        )
        return self._do([ResolveTask(step, key, tuple(one.key for one in before))], quiet=True)[0]

    def _do(self, tasks: Sequence[MapTask | ResolveTask], *, quiet: bool = False) -> list[Finished]:
        """Results in the order of the tasks; tasks with the same key are done once."""
        results: dict[str, Mapping[str, Any]] = {}
        for done in run_stage(self._pool, self._work, tasks, folder=self._workshop.folder):
            results[done.key] = done.facts
            self.reused += done.reused
            if not quiet:
                self._progress.advance()
        self.tasks += len(tasks)
        return [Finished(getattr(task, "shard", 0), task.key, results[task.key]) for task in tasks]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="it was there a moment ago") from None
    return found.st_size, found.st_mtime_ns


def _input_key(shard: InputShard, stamps: tuple[tuple[int, int], ...]) -> str:
    parts = [[part.name, part.start, part.end] for part in shard.parts]
    return digest_of([parts, stamps])


def _remembered(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
