"""Who does the shards of a stage: this process, or processes of this machine. ``ray_executor`` has clusters.

An executor commits what its workers make to the workshop in ``folder`` and says which job is done. A worker that dies
costs its shard one more try on a fresh one; a shard whose workers keep dying is an error that names it.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmasos.contracts.hub import HubAPI
from llmasos.contracts.stage import Report, Stage, Worker
from llmasos.errors import LlmasosError, RunError
from llmasos.kernel.workshop import Workshop

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

#: How often the death of a worker is forgiven to one shard.
RETRIES = 2


class Job(NamedTuple):
    """One shard to do."""

    number: int
    key: str
    shard: Any


#: The number of a job and its facts.
Done = tuple[int, dict[str, Any]]


class Executor(Protocol):
    """Runs stages, one after the other, with the same workers."""

    def run(self, stage: Stage, jobs: Iterable[Job], folder: Path | None, report: Report) -> Iterator[Done]:
        """Jobs as they finish, in any order; ``folder`` None keeps nothing but the facts.

        Raises what a worker raises, RunError for a shard that no worker survives.
        """

    def close(self) -> None:
        """Let the workers go: those that are idle leave, those at work are stopped. Finished shards are kept."""


class InlineExecutor:
    """One worker: this process."""

    def __init__(self, hub: HubAPI) -> None:
        self._hub = hub
        self._opened: tuple[Stage, Worker] | None = None
        self._report: Report = _unheard

    def run(self, stage: Stage, jobs: Iterable[Job], folder: Path | None, report: Report) -> Iterator[Done]:
        """In the order of the jobs. The worker is opened when there is a first one."""
        self._report = report
        for job in jobs:
            if self._opened is None or self._opened[0] is not stage:
                self._opened = (stage, stage.open(self._hub, lambda amount: self._report(amount)))
            yield job.number, work(self._opened[1], job, folder)

    def close(self) -> None:
        """Nothing to stop."""
        self._opened = None


class ProcessExecutor:
    """Processes on this machine, started afresh (spawn), so that no thread or lock of this one is copied into them."""

    def __init__(self, hub: HubAPI, processes: int, *, threads: int | None = None) -> None:
        self._hub = pickle.dumps(hub)
        self._threads = threads
        self._most = processes
        self._crew: list[_Process] = []

    def run(self, stage: Stage, jobs: Iterable[Job], folder: Path | None, report: Report) -> Iterator[Done]:
        """As they finish."""
        order = _Order(stage, pickle.dumps((stage, folder)))
        waiting = Waiting(stage.name, jobs)
        while True:
            self._hand_out(order, waiting)
            busy = [process for process in self._crew if process.job is not None]
            if not busy:
                return
            for process in _talking(busy):
                try:
                    kind, value = process.receive()
                except (EOFError, OSError):
                    self._bury(process, waiting, report)
                    continue
                if kind == "report":
                    process.reported += value
                    report(value)
                elif kind == "error":
                    raise value
                elif kind == "ready":
                    process.ready = True
                else:
                    job, process.job = process.job, None
                    assert job is not None
                    yield job.number, value

    def close(self) -> None:
        """Idle processes leave, those at work are ended."""
        for process in self._crew:
            process.dismiss()
        for process in self._crew:
            process.wait()
        self._crew = []

    def _hand_out(self, order: _Order, waiting: Waiting) -> None:
        idle = [process for process in self._crew if process.job is None]
        while (job := waiting.take()) is not None:
            process = idle.pop() if idle else None
            if process is None:
                if len(self._crew) == self._most:
                    waiting.put_back(job)
                    return
                process = _Process(self._hub, self._threads)
                self._crew.append(process)
            process.send(order, job)

    def _bury(self, process: _Process, waiting: Waiting, report: Report) -> None:
        self._crew.remove(process)
        job = process.job
        process.wait()
        report(-process.reported)
        if not process.ready:
            raise RunError(
                f"a worker process could not be started: it ended with code {process.code}",
                hint='a script that uses workers needs `if __name__ == "__main__":` around what it does',
            )
        if job is not None:
            waiting.again(job, "a worker process died (killed, or out of memory)")


def work(worker: Worker, job: Job, folder: Path | None) -> dict[str, Any]:
    """Have a worker do a job, and commit the result to the workshop in ``folder``. Returns the facts."""
    if folder is None:
        return dict(worker.run(job.shard, Path(os.devnull)))
    return Workshop(folder).commit(job.key, lambda inside: worker.run(job.shard, inside))


class Waiting:
    """Jobs that no worker has, and how often each was tried."""

    def __init__(self, stage: str, jobs: Iterable[Job]) -> None:
        self._stage = stage
        self._jobs = iter(jobs)
        self._first: deque[Job] = deque()
        self._lost: dict[int, int] = {}

    def take(self) -> Job | None:
        """The next job, those that were lost first."""
        return self._first.popleft() if self._first else next(self._jobs, None)

    def put_back(self, job: Job) -> None:
        """It was not handed out after all."""
        self._first.appendleft(job)

    def again(self, job: Job, why: str) -> None:
        """Its worker died. Raises RunError when that happened too often."""
        self._lost[job.number] = self._lost.get(job.number, 0) + 1
        if self._lost[job.number] > RETRIES:
            raise RunError(
                f"{self._stage}: shard {job.number} ({job.key[:12]}) was tried {RETRIES + 1} times, and each time {why}",
                hint="run the same command again: finished shards are kept; --workers 1 needs the least memory",
            )
        self._first.append(job)


class _Order(NamedTuple):
    """A stage as it travels to a process."""

    stage: Stage
    pickled: bytes


class _Process:
    """A worker process as its parent sees it."""

    def __init__(self, hub: bytes, threads: int | None) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self._line, far = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(far, hub, threads), daemon=True)
        self._process.start()
        far.close()  # so that its death is the end of the line
        self._stage: Stage | None = None
        self.ready = False
        self.job: Job | None = None
        self.reported = 0

    @property
    def line(self) -> Connection[Any, Any]:
        """To wait for."""
        return self._line

    @property
    def code(self) -> int | None:
        """Its exit code."""
        return self._process.exitcode

    def send(self, order: _Order, job: Job) -> None:
        """Give it a job. That it is dead is seen when its answer is waited for."""
        self.job, self.reported = job, 0
        try:
            if self._stage is not order.stage:
                self._line.send_bytes(order.pickled)
                self._stage = order.stage
            else:
                self._line.send_bytes(b"")
            self._line.send(job)
        except OSError:
            pass

    def receive(self) -> tuple[str, Any]:
        """What it says. Raises EOFError or OSError when it is dead."""
        kind, value = self._line.recv()
        return kind, value

    def dismiss(self) -> None:
        """Tell it to leave."""
        if self.job is not None:
            self._process.terminate()
        self._line.close()

    def wait(self) -> None:
        """Until it is gone."""
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _talking(crew: Iterable[_Process]) -> list[_Process]:
    """Those that have said something, or died; waits for the first."""
    from multiprocessing.connection import wait

    found = wait([process.line for process in crew])
    return [process for process in crew if process.line in found]


# ---- in the worker process --------------------------------------------------------------------------------------------


def limit_threads(threads: int | None) -> None:
    """A worker is so many cores' worth of work; libraries that start a thread a core would fight each other."""
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        if threads is not None:
            os.environ[name] = str(threads)
        else:
            os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _serve(line: Connection[Any, Any], hub: bytes, threads: int | None) -> None:
    limit_threads(threads)
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    line.send(("ready", None))
    try:
        made: HubAPI = pickle.loads(hub)
        worker: Worker | None = None
        folder: Path | None = None
        while True:
            pickled = line.recv_bytes()
            if pickled:
                stage, folder = pickle.loads(pickled)
                worker = stage.open(made, lambda amount: line.send(("report", amount)))
            job = line.recv()
            assert worker is not None
            line.send(("done", work(worker, job, folder)))
    except (EOFError, BrokenPipeError):
        return
    except BaseException as error:
        line.send(("error", portable(error)))


def portable(error: BaseException) -> BaseException:
    """The error as it can be pickled, with the traceback of this process as a note where it is a fault of the program."""
    import traceback

    if not isinstance(error, LlmasosError):
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        if isinstance(pickle.loads(pickle.dumps(error)), type(error)):
            return error
    except Exception:
        pass
    return RunError(f"{type(error).__name__}: {error}", hint="LLMASOS_STRICT=1 with --workers 1 shows more")


def end_with_parent() -> None:
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


def _unheard(amount: int) -> None:
    pass
