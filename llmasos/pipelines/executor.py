"""Where the tasks of a pipeline run. The seam: anything that maps a pure worker over tasks will do, in any order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from llmasos.errors import RunError

Task = TypeVar("Task", contravariant=True)
Result = TypeVar("Result", covariant=True)

#: Tasks handed out ahead of each worker, so that none waits and little is queued.
_AHEAD = 2


class Executor(Protocol[Task, Result]):
    """Runs the worker it was made with. A task may run more than once (a lost machine): workers commit atomically."""

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Results as they come, one for each task. Raises what the worker raises, RunError when a worker is lost."""

    def close(self) -> None:
        """Stop the workers."""


#: Makes an executor for a picklable worker, which every process receives once.
ExecutorFactory = Callable[[Callable[[Any], Any]], Executor[Any, Any]]


class InlineExecutor:
    """One worker: this process."""

    def __init__(self, worker: Callable[[Any], Any]) -> None:
        self._worker = worker

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """In the order of the tasks."""
        return map(self._worker, tasks)

    def close(self) -> None:
        """Nothing to stop."""


class ProcessExecutor:
    """Processes on this machine, started afresh (spawn), so that no thread or lock of this one is copied into them."""

    def __init__(self, worker: Callable[[Any], Any], processes: int) -> None:
        import multiprocessing

        self._processes = processes
        self._pool = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(worker,)
        )

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """As they finish."""
        waiting: set[Future[Any]] = set()
        todo = iter(tasks)
        try:
            while True:
                while len(waiting) < self._processes * _AHEAD:
                    try:
                        waiting.add(self._pool.submit(_work, next(todo)))
                    except StopIteration:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a worker process died (killed, or out of memory)",
                hint="run the same command again: finished shards are kept; --workers 1 needs the least memory",
            ) from None
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Stop after the tasks under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def local_executor(workers: int) -> ExecutorFactory:
    """The executor for ``--workers``."""

    def make(worker: Callable[[Any], Any]) -> Executor[Any, Any]:
        return InlineExecutor(worker) if workers == 1 else ProcessExecutor(worker, workers)

    return make


# The worker of a pool process. Set once by the initializer in a process that exists for nothing else.
_worker: Callable[[Any], Any] | None = None


def _begin(worker: Callable[[Any], Any]) -> None:
    global _worker
    # A worker is one core's worth of work; libraries that start a thread a core would fight each other.
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        os.environ.setdefault(name, "false" if name.startswith("TOKENIZERS") else "1")
    # Ctrl-C reaches the whole group; the parent decides, and lets the shards under way be finished and kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    _worker = worker


def _work(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)


def _end_with_parent() -> None:
    """Leave when the parent is gone: a killed run must not keep working."""
    import threading
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
