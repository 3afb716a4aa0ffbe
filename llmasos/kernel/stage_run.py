"""Running a stage over its shards: what is finished is taken over, the rest is done by an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmasos.contracts.evaluation import Progress
from llmasos.contracts.hub import HubAPI
from llmasos.contracts.stage import Stage, StageResult
from llmasos.errors import UsageError
from llmasos.kernel.executor import Executor, InlineExecutor, Job, ProcessExecutor
from llmasos.kernel.workshop import Workshop

#: Makes the executor of a run from its Hub.
ExecutorFactory = Callable[[HubAPI], Executor]


def executor_for(
    hub: HubAPI, *, workers: int = 1, cluster: str | None = None, threads: int | None = None
) -> Executor:
    """This process for one worker, processes for several, a Ray cluster where its address is given.

    ``threads`` are those of each worker process. Raises UsageError, and MissingDependency without Ray.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}", hint="workers must be at least 1")
    if cluster is not None:
        from llmasos.kernel.ray_executor import RayExecutor

        return RayExecutor(hub, cluster, workers, threads=threads)
    return InlineExecutor(hub) if workers == 1 else ProcessExecutor(hub, workers, threads=threads)


def run_stage(
    executor: Executor,
    stage: Stage,
    shards: Sequence[Any],
    *,
    folder: Path | None,
    progress: Progress | None = None,
) -> Iterator[StageResult]:
    """A result for each shard: finished ones first, then others as they are done. Shards with one key are done once.

    ``folder`` is the workshop, None keeps nothing. ``progress`` is advanced by what the workers report. Raises what a
    worker raises, RunError for a shard that no worker survives; whatever was finished by then is kept in ``folder``.
    """
    keys = [stage.key(shard) for shard in shards]
    workshop = Workshop(folder) if folder is not None else None
    twins: dict[str, list[int]] = {}
    jobs: list[Job] = []
    for index, (key, shard) in enumerate(zip(keys, shards, strict=True)):
        found = workshop.result(key) if workshop is not None and key not in twins else None
        if found is not None and workshop is not None:
            yield StageResult(index, key, found, workshop.path(key), reused=True)
        elif key in twins:
            twins[key].append(index)
        else:
            twins[key] = [index]
            jobs.append(Job(index, key, shard))

    def report(amount: int) -> None:
        if progress is not None and amount:
            progress.advance(amount)

    for number, facts in executor.run(stage, jobs, folder, report):
        key = keys[number]
        path = None if workshop is None else workshop.path(key)
        for index in twins[key]:
            yield StageResult(index, key, facts, path)


def run_alone(
    hub: HubAPI,
    stage: Stage,
    shards: Sequence[Any],
    *,
    folder: Path,
    workers: int = 1,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[StageResult]:
    """``run_stage`` with workers of its own, holding ``folder`` until the last result is taken.

    Raises UsageError when another run holds it.
    """
    workshop = Workshop(folder)
    with workshop.locked():
        workshop.sweep()
        executor = executor_for(hub, workers=workers, cluster=cluster, threads=threads)
        try:
            yield from run_stage(executor, stage, shards, folder=folder, progress=progress)
        finally:
            executor.close()
