"""The server process: one port, one data folder, granian.

granian sends files without Python (the ASGI extension ``http.response.pathsend``); docs/decisions/0004 has the figures.
One process by default: the embedded server, which lives and dies with this process. More when ``workers`` says so.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server import Server as ProcessServer
from granian.server.embed import Server as EmbeddedServer

from llmasos import __version__
from llmasos.errors import EnvironmentProblem, UsageError
from llmasos_registry.server.app import Application
from llmasos_registry.server.serve import create_app
from llmasos_registry.server.settings import Settings

#: Held (shared) by every server of a data folder.
LOCK = "server.lock"


def configure_logging(access_log: bool = True) -> None:
    """What the server says goes to stderr, one line a request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    log = logging.getLogger("llmasos.registry")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("llmasos.registry.access").setLevel(logging.INFO if access_log else logging.WARNING)


def check_folder(folder: Path) -> None:
    """Make the data folder and write to it. Raises EnvironmentProblem."""
    try:
        # Private files and the key of signed addresses lie in it: nobody else's business on this machine.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write to the data folder {folder}: {error.strerror}",
            hint="give --data a folder that this user may write to",
        ) from error


@contextmanager
def hold_folder(folder: Path, recover: Callable[[], None]) -> Iterator[None]:
    """Hold a data folder as one of its servers. The first one alone runs ``recover`` before others are let in.

    Servers of one version share a folder. Raises EnvironmentProblem when one of another version holds it: they would
    not agree on the tables.
    """
    import fcntl

    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(handle, fcntl.LOCK_SH)
            other = _lock_facts(os.pread(handle, 4096, 0))
            if other.get("version") != __version__:
                raise EnvironmentProblem(
                    f"{folder} is served by llmasos {other.get('version', '?')} (process {other.get('pid', '?')}); "
                    f"this is {__version__}",
                    hint="stop that server first",
                ) from None
        else:
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps({"version": __version__, "pid": os.getpid()}).encode(), 0)
            recover()
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _lock_facts(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def free_port(host: str, port: int) -> int:
    """The port to listen on; a free one for 0. Raises EnvironmentProblem when it is taken.

    granian shares ports between processes (SO_REUSEPORT), so it would not notice another server on the same port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise EnvironmentProblem(
                f"port {port} of {host} is in use", hint="give --port another, or 0 for any"
            ) from error
        if error.errno == errno.EACCES:
            raise EnvironmentProblem(
                f"port {port} needs more rights", hint="ports from 1024 are free to all"
            ) from error
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="give --host an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them",
        ) from error


def run(settings: Settings, ready: Callable[[], None], *, access_log: bool = True) -> None:
    """Serve until SIGTERM or SIGINT; requests under way may end. ``ready`` is called when connections are taken."""
    if settings.workers == 1:
        asyncio.run(_run_embedded(settings, ready))
    else:
        _run_processes(settings, ready, access_log)


async def _run_embedded(settings: Settings, ready: Callable[[], None]) -> None:
    server = EmbeddedServer(
        create_app(settings),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        websockets=False,
        backlog=1024,
        log_level=LogLevels.error,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_stop, server, settings.stop_timeout))
    serving = asyncio.create_task(server.serve())
    # granian's hook runs before the port is open; a connection is the only sure sign.
    await asyncio.get_running_loop().run_in_executor(None, _wait_open, settings.host, settings.port)
    ready()
    await serving


def _stop(server: EmbeddedServer, timeout: int) -> None:
    """Take no more connections, let requests end, and end the process when they do not."""
    server.stop()  # type: ignore[no-untyped-call]
    guard = threading.Timer(timeout, os._exit, (1,))
    guard.daemon = True
    guard.start()


def _wait_open(host: str, port: int) -> None:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    for _ in range(600):
        try:
            socket.create_connection((target, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise EnvironmentProblem(f"the server did not open port {port}")


def _run_processes(settings: Settings, ready: Callable[[], None], access_log: bool) -> None:
    server = ProcessServer(
        "llmasos_registry.server.process:worker_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        websockets=False,
        log_level=LogLevels.error,
        respawn_failed_workers=True,
        workers_kill_timeout=settings.stop_timeout,
    )

    def announce() -> None:
        _wait_open(settings.host, settings.port)
        ready()

    threading.Thread(target=announce, daemon=True).start()
    server.serve(target_loader=partial(worker_app, settings, os.getpid(), access_log), wrap_loader=False)


def worker_app(settings: Settings, parent: int, access_log: bool) -> Application:
    """The application of one worker process, which ends when the main process is gone."""
    configure_logging(access_log)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return create_app(settings)
