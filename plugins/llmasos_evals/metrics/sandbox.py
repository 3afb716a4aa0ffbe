"""Running programs that a model wrote, in a subprocess that can reach nothing.

Walls by ``sandbox_child``: no network, no other processes, an empty folder in memory, limits on processor time, memory, file
size and processes, a cleared environment, wall-clock time from outside, and the whole process group killed at the end.
Linux only. Where namespaces are forbidden (some containers), a system-call filter stands in: no sockets, no writing of
files at all, and no child processes unless the user is root; but what the user can read stays readable. A sandbox in the
same kernel is no wall against holes of the kernel: run strangers' programs on a machine that holds nothing of worth.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from llmasos.api import EvaluationError, UsageError

Isolation = Literal["namespaces", "filter"]

#: Program plus tests; longer ones are refused before anything is started.
MAX_SOURCE = 1 << 20
#: Time for the sandbox itself to start, on top of the program's.
START = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use: wall-clock ``seconds``, bytes of ``memory`` a process and of ``disk``, ``processes`` or threads."""

    seconds: float = 3.0
    memory: int = 1 << 30
    disk: int = 16 << 20
    processes: int = 8


@dataclass(frozen=True, slots=True)
class Execution:
    """How a program ended. ``message``: the exception, at most 300 characters; it is written by a stranger."""

    status: Literal["passed", "failed", "timed out"]
    message: str
    seconds: float
    isolation: Isolation

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def require_permission(allowed: bool, what: str) -> None:
    """Raise UsageError unless the user said that code written by a model may run."""
    if not allowed:
        raise UsageError(
            f"{what} runs programs that the model writes, which was not allowed",
            hint="read docs/reference/metrics.md on the sandbox, then add --allow-code-execution",
        )


def run_program(source: str, limits: Limits | None = None) -> Execution:
    """Run ``source`` shut in. Passed means: it came to its end without raising anything.

    Raises EvaluationError where the system offers no walls. Nothing is run then.
    """
    limits = limits or Limits()
    isolation = walls()
    if len(source.encode("utf-8", "replace")) > MAX_SOURCE:
        return Execution("failed", "the program is longer than a megabyte", 0.0, isolation)
    return _run(source, limits, isolation)


def run_programs(
    sources: Sequence[str], limits: Limits | None = None, *, workers: int = 1
) -> list[Execution]:
    """``run_program`` of each, ``workers`` at a time."""
    if workers <= 1 or len(sources) <= 1:
        return [run_program(source, limits) for source in sources]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(lambda source: run_program(source, limits), sources))


@lru_cache(maxsize=1)
def walls() -> Isolation:
    """The strongest isolation that works here, tried out with a harmless program.

    Raises EvaluationError when none does.
    """
    if sys.platform != "linux":
        raise EvaluationError(
            "programs of a model run only on Linux: this system has no walls for them",
            hint="run the evaluation in a Linux container or virtual machine",
        )
    reasons = []
    for isolation in ("namespaces", "filter"):
        try:
            tried = _run("assert 1 + 1 == 2", Limits(seconds=10), isolation)  # type: ignore[arg-type]
        except EvaluationError as error:
            reasons.append(f"{isolation}: {error.message}")
            continue
        if tried.passed:
            return isolation  # type: ignore[return-value]
        reasons.append(f"{isolation}: {tried.status} {tried.message}")
    raise EvaluationError(
        f"this system lets nobody build a sandbox ({'; '.join(reasons)})",
        hint="allow unprivileged user namespaces, or seccomp filters",
    )


def _run(source: str, limits: Limits, isolation: Isolation) -> Execution:
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="llmasos-sandbox-") as folder:
        settings = {
            "isolation": isolation,
            "folder": folder,
            "python": sys.executable,
            "readable": readable_paths(),
            "cpu": int(limits.seconds) + 2,
            "memory": limits.memory,
            "disk": limits.disk,
            # Without a user namespace the kernel counts all processes of the user.
            "processes": limits.processes if isolation == "namespaces" else 0,
            "drop_root": readable_by_all(sys.executable),
        }
        with _started(settings) as (process, answers):
            try:
                assert process.stdin is not None
                process.stdin.write(f"{nonce}\n".encode() + source.encode("utf-8", "replace"))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended before it read the program; what it said tells why
            return _outcome(process, answers, nonce, limits.seconds, isolation)


@contextlib.contextmanager
def _started(settings: dict[str, object]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The sandbox process in a session of its own and the read end of its answers; killed with its group afterwards."""
    answers, channel = os.pipe()
    script = Path(__file__).with_name("sandbox_child.py")
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(script), json.dumps(settings), str(channel)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            pass_fds=(channel,),
            start_new_session=True,
        )
    except BaseException:
        os.close(answers)
        raise
    finally:
        os.close(channel)
    try:
        yield process, answers
    finally:
        # First politely: it knows its children and kills them. Then the group, which nobody in it can leave.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        os.close(answers)


def _outcome(
    process: subprocess.Popen[bytes], answers: int, nonce: str, seconds: float, isolation: Isolation
) -> Execution:
    """Read lines until the program has said how it ended, or its time is over."""
    begin, deadline, text = time.monotonic(), time.monotonic() + START, b""
    started = False
    with selectors.DefaultSelector() as selector:
        selector.register(answers, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                if not started:
                    raise EvaluationError("the sandbox did not start in time")
                return Execution(
                    "timed out", f"not done after {seconds:g} s", time.monotonic() - begin, isolation
                )
            part = os.read(answers, 4096)
            text = (text + part)[:8192]
            if not started and b"started\n" in text:
                started, begin = True, time.monotonic()
                deadline = begin + seconds
            ended = _ending(text, nonce)
            if ended is not None or not part or len(text) >= 8192:
                break
    took = time.monotonic() - begin
    if ended is None:
        if not started:
            raise EvaluationError("the sandbox ended before the program began")
        # The far end closed without a word: killed by a limit, or left through a back door such as os._exit.
        return Execution("failed", "ended without a result", took, isolation)
    status, message = ended
    if status == "refused" and not started:  # afterwards the word is the program's, not ours
        raise EvaluationError(f"the sandbox cannot be built: {message}")
    return Execution("passed" if status == "passed" else "failed", message, took, isolation)


def _ending(text: bytes, nonce: str) -> tuple[str, str] | None:
    """(status, message) of the first line that is an ending; a "passed" without the nonce is not one of ours."""
    for line in text.decode("utf-8", "replace").split("\n")[:-1]:
        word, _, rest = line.partition(" ")
        if word == "passed" and rest == nonce:
            return "passed", ""
        if word in ("failed", "refused"):
            return word, rest
    return None


def readable_by_all(path: str) -> bool:
    """Whether another user could run ``path``: root's own Python may lie in a folder that is root's alone."""
    real = Path(os.path.realpath(path))
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in [real, *real.parents])


@lru_cache(maxsize=1)
def readable_paths() -> tuple[str, ...]:
    """What a program may read: Python, its packages, the system's libraries; outer folders first, links as links."""
    wanted = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/alternatives",
        sys.prefix,
        sys.base_prefix,
        os.path.dirname(os.path.realpath(sys.executable)),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    ]
    kept: list[str] = []
    for path in sorted({path.rstrip("/") for path in wanted if path and os.path.lexists(path)}, key=len):
        inside = any(path.startswith(f"{outer}/") and not os.path.islink(outer) for outer in kept)
        if not inside and path not in ("", "/", os.path.expanduser("~")):
            kept.append(path)
    return tuple(kept)
