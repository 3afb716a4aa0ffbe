"""Stages on a Ray cluster: core actors, one a worker, on as many machines as the cluster has.

The process that talks to Ray is a child of this one: what Ray does to signals, environment and standard output stays there.
Workers need nothing but the shard and the model: what they write comes back through Ray and is committed here, so that no
file system is shared, and a machine that dies takes nothing with it but the shards it was at.

Ray runs whatever code it is sent. Token authentication is always on; a cluster of our own listens on this machine alone,
without a dashboard; nothing is reported to anybody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pickle
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmasos.contracts.hub import HubAPI
from llmasos.contracts.stage import Report, Stage, Worker
from llmasos.errors import MissingDependency, RunError, UsageError
from llmasos.kernel.executor import RETRIES, Done, Job, Waiting, end_with_parent, limit_threads, portable
from llmasos.kernel.workshop import Workshop

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: The address that stands for a cluster of our own on this machine.
LOCAL = "local"
#: Seconds between two looks at how far the workers are.
_POLL = 0.5
#: Seconds without any worker after which the user is told what the run waits for.
_PATIENCE = 15.0


class RayExecutor:
    """``workers`` actors on the cluster at ``address`` (``host:port``), or on a private one (``local``).

    Raises UsageError for an address that is none, MissingDependency without Ray.
    """

    def __init__(self, hub: HubAPI, address: str, workers: int, *, threads: int | None = None) -> None:
        import importlib.util

        if importlib.util.find_spec("ray") is None:
            raise MissingDependency("--ray needs the package `ray`", hint='pip install "llmasos[ray]"')
        self._address = check_address(address)
        self._arguments = (pickle.dumps(hub), address, workers, threads or 1, hub.cache_dir / "ray.log")
        self._warn = getattr(hub, "warn", None)
        self._child: _Child | None = None

    def run(self, stage: Stage, jobs: Iterable[Job], folder: Path | None, report: Report) -> Iterator[Done]:
        """As they finish. The cluster is asked for when there is a first job."""
        waiting = Waiting(stage.name, jobs)
        first = waiting.take()
        if first is None:
            return
        waiting.put_back(first)
        if self._child is None:
            _look_for(self._address)
            self._child = _Child(self._arguments)
        line = self._child.line
        given: dict[int, Job] = {}
        try:
            line.send((pickle.dumps(stage), folder is not None))
            while True:
                kind, value = line.recv()
                if kind == "want":
                    job = waiting.take()
                    line.send(job)
                    if job is not None:
                        given[job.number] = job
                elif kind == "done":
                    number, facts, files = value
                    job = given.pop(number)
                    yield number, _committed(job, facts, files, folder)
                elif kind == "lost":
                    number, why = value
                    waiting.again(given.pop(number), why)
                elif kind == "report":
                    report(value)
                elif kind == "note":
                    if self._warn is not None:
                        self._warn(value)
                elif kind == "error":
                    self.close()
                    raise value
                else:
                    return
        except (EOFError, OSError):
            self.close()
            raise RunError(
                "the connection to the Ray cluster was lost",
                hint=f"run the same command again: finished shards are kept; {self._arguments[-1]} may say why",
            ) from None

    def close(self) -> None:
        """End the workers, and the cluster where it is ours."""
        if self._child is not None:
            self._child.close()
            self._child = None


def check_address(address: str) -> str:
    """The address of a cluster, as Ray takes it. Raises UsageError for anything but ``local`` and ``host:port``."""
    host, colon, port = address.rpartition(":")
    if address == LOCAL or (
        colon and host and port.isdecimal() and 0 < int(port) < 65536 and "/" not in host
    ):
        return address
    raise UsageError(
        f"--ray {address}: that is no address of a Ray cluster",
        hint="give HOST:PORT as `ray start --head` printed it, or `local`",
    )


def on_this_machine(address: str) -> bool:
    """Whether nothing outside this machine is asked."""
    host = address.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return address == LOCAL or host == "localhost"


def _look_for(address: str) -> None:
    """Raise RunError at once when nobody listens: Ray would try for minutes."""
    if address == LOCAL:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise RunError(
            f"cannot reach a Ray cluster at {address}: {error.strerror or error}",
            hint="`ray start --head` prints the address of the cluster that it starts",
        ) from None


def _committed(
    job: Job, facts: dict[str, Any], files: dict[str, bytes], folder: Path | None
) -> dict[str, Any]:
    if folder is None:
        return facts

    def write(inside: Path) -> dict[str, Any]:
        for name, content in files.items():
            (inside / name).write_bytes(content)
        return facts

    return Workshop(folder).commit(job.key, write)


class _Child:
    """The process that talks to Ray."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self.line, far = context.Pipe()
        # Not a daemon: it starts the processes of a private cluster, and ends them before it ends.
        self._process = context.Process(target=_conduct, args=(far, *arguments), daemon=False)
        self._process.start()
        far.close()

    def close(self) -> None:
        """It sees that the line is closed, and leaves."""
        self.line.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


# ---- in the process that talks to Ray ---------------------------------------------------------------------------------


def environment_for(address: str) -> dict[str, str]:
    """What Ray reads from the environment when it is imported."""
    found = {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SCHEDULER_EVENTS": "0",
        # Each attempt to be let in takes half a minute; the default is twenty.
        "RAY_NUM_REDIS_GET_RETRIES": "1",
    }
    if on_this_machine(address):
        # Without this Ray puts the network address of the machine in the place of a loopback address, on Linux too.
        found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address == LOCAL:
        found["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return found


def _conduct(
    line: Connection[Any, Any], hub: bytes, address: str, workers: int, threads: int, log: Path
) -> None:
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _say_into(log)
    os.environ.update(environment_for(address))
    folder = None
    try:
        import ray

        if address == LOCAL:
            folder = tempfile.mkdtemp(prefix="llmasos-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
        _connect(address, workers * threads, folder)
        try:
            _Conductor(line, hub, workers, threads).serve()
        finally:
            ray.shutdown()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            line.send(("error", portable(error)))
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _say_into(log: Path) -> None:
    """What Ray prints goes into a file: standard output is the parent's data."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _connect(address: str, cores: int, folder: str | None) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    options: dict[str, Any] = {"log_to_driver": False, "namespace": "llmasos"}
    if address == LOCAL:
        options |= {"num_cpus": cores, "include_dashboard": False, "_temp_dir": folder}
        options |= {"_node_ip_address": "127.0.0.1", "object_store_memory": 2**27}
    try:
        ray.init(address=address, **options)
    except AuthenticationError:
        raise UsageError(
            f"the Ray cluster at {address} wants a token that is not here, or another one",
            hint="`ray get-auth-token` on its head prints the token: put it into RAY_AUTH_TOKEN or ~/.ray/auth_token",
        ) from None
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise RunError(
            f"cannot reach a Ray cluster at {address}: {str(error).strip().splitlines()[0]}",
            hint="it must be running (`ray status`), have the token in RAY_AUTH_TOKEN or ~/.ray/auth_token, "
            "and the same versions of Python and Ray",
        ) from error


class _Conductor:
    """Hands jobs to actors and passes on what comes of them."""

    def __init__(self, line: Connection[Any, Any], hub: bytes, workers: int, threads: int) -> None:
        import ray

        self._line = line
        self._workers = workers
        self._hub = ray.put(hub)
        self._threads = threads
        #: Actors that the cluster has not found a place for yet, by what says that they are there.
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[int, Any]] = {}
        self._failures = 0
        self._reported: dict[int, int] = {}
        self._gpus = 0
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self._board: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()

    def serve(self) -> None:
        """Stage after stage, until the line is closed."""
        import ray

        while True:
            pickled, keep = self._line.recv()
            stage: Stage = pickle.loads(pickled)
            if stage.gpus != self._gpus:  # actors of another kind
                self._starting, self._idle, self._gpus = {}, [], stage.gpus
            self._stage(ray.put(pickled), stage.name, keep)
            self._line.send(("end", None))

    def _stage(self, pickled: Any, name: str, keep: bool) -> None:
        import ray

        self._reported = {}
        exhausted = told = False
        began = time.monotonic()
        while True:
            # A job goes to an actor that is there: one that waits for room on the cluster may wait for ever.
            while self._idle and not exhausted:
                self._line.send(("want", None))
                job: Job | None = self._line.recv()
                exhausted = job is None
                if job is not None:
                    actor = self._idle.pop()
                    run = actor.run.remote(pickled, job.number, job.shard, keep, self._board)
                    self._running[run] = (job.number, actor)
            if exhausted and not self._running:
                return
            while len(self._running) + len(self._idle) + len(self._starting) < self._workers:
                actor = self._actor()
                self._starting[actor.ready.remote()] = actor
            ready, _ = ray.wait([*self._running, *self._starting], timeout=_POLL)
            self._pass_on_reports()
            for done in ready:
                if done in self._starting:
                    self._welcome(done)
                elif self._take(done):
                    exhausted = False
            told = told or bool(self._running)
            if not told and time.monotonic() - began > _PATIENCE:
                told = True
                self._line.send(("note", self._what_is_free(name)))

    def _welcome(self, ready: Any) -> None:
        """Take an actor that has begun into the crew. Raises RunError when none can begin."""
        import ray
        from ray.exceptions import RayError

        actor = self._starting.pop(ready)
        try:
            ray.get(ready)
        except RayError as error:
            self._failures += 1
            if self._failures > RETRIES:
                reason = [line for line in str(error).splitlines() if line.strip()]
                raise RunError(
                    f"no worker can be started on the Ray cluster: {reason[-1] if reason else error}",
                    hint="every machine needs the same llmasos, plugins and libraries as this one",
                ) from None
        else:
            self._failures = 0
            self._idle.append(actor)

    def _actor(self) -> Any:
        import ray

        return (
            ray.remote(_Actor)
            .options(
                num_cpus=self._threads,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            .remote(self._hub, self._threads)
        )

    def _take(self, run: Any) -> bool:
        """Pass on what a job came to; returns whether it is to be done again."""
        import ray
        from ray.exceptions import RayActorError, RayError

        number, actor = self._running.pop(run)
        try:
            kind, value = ray.get(run)
        except RayError as error:
            where = (
                "its machine or process died" if isinstance(error, RayActorError) else type(error).__name__
            )
            reason = str(error).strip().splitlines()
            self._line.send(("report", -self._reported.pop(number, 0)))
            self._line.send(("lost", (number, f"{where}: {reason[0] if reason else ''}"[:300])))
            return True
        if kind == "error":
            raise value
        facts, files, reported = value
        self._line.send(("report", reported - self._reported.pop(number, 0)))
        self._line.send(("done", (number, facts, files)))
        self._idle.append(actor)
        return False

    def _pass_on_reports(self) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            counts: dict[int, int] = ray.get(self._board.take.remote(), timeout=5)
        except (RayError, TimeoutError):
            return
        running = {number for number, _ in self._running.values()}
        for number, count in counts.items():
            if number in running:
                self._reported[number] = self._reported.get(number, 0) + count
                self._line.send(("report", count))

    def _what_is_free(self, name: str) -> str:
        import ray

        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        wanted = {"CPU": self._threads, "GPU": self._gpus}
        return f"{name}: no worker has begun yet; each wants " + ", ".join(
            f"{count} {kind} (free: {free.get(kind, 0):g})" for kind, count in wanted.items() if count
        )


# ---- on the cluster ---------------------------------------------------------------------------------------------------


class _Board:
    """Where workers write how far they are."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, number: int, amount: int) -> None:
        """Job ``number`` is so much further."""
        self._counts[number] = self._counts.get(number, 0) + amount

    def take(self) -> dict[int, int]:
        """What was written since the last time."""
        counts, self._counts = self._counts, {}
        return counts


class _Actor:
    """A worker: one process on some machine of the cluster."""

    def __init__(self, hub: bytes, threads: int) -> None:
        limit_threads(threads)
        self._pickled = hub
        self._opened: tuple[bytes, Worker] | None = None
        self._report: Report = lambda amount: None

    def ready(self) -> None:
        """That it answers says that it has a place."""

    def run(self, stage: bytes, number: int, shard: Any, keep: bool, board: Any) -> tuple[str, Any]:
        """``done`` with facts, files and how many units were reported, or ``error``: Ray would wrap what is raised."""
        reported = 0

        def report(amount: int) -> None:
            nonlocal reported
            reported += amount
            board.add.remote(number, amount)

        self._report = report
        try:
            worker = self._worker(stage)
            if not keep:
                return "done", (dict(worker.run(shard, Path(os.devnull))), {}, reported)
            with tempfile.TemporaryDirectory(prefix="llmasos-") as inside:
                facts = dict(worker.run(shard, Path(inside)))
                files = {path.name: path.read_bytes() for path in sorted(Path(inside).iterdir())}
            return "done", (facts, files, reported)
        except Exception as error:
            return "error", portable(error)

    def _worker(self, stage: bytes) -> Worker:
        if self._opened is None or self._opened[0] != stage:
            made: Stage = pickle.loads(stage)
            hub: HubAPI = pickle.loads(self._pickled)
            self._opened = (stage, made.open(hub, lambda amount: self._report(amount)))
        return self._opened[1]
