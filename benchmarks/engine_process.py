"""Worker processes of ``engine.py``: started together, asked one at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Seconds between two jobs: thread pools spin for a while after their last work.
SETTLE = 0.25


@dataclass(frozen=True, slots=True)
class Seat:
    """One engine in one precision. ``variant``: of several that do the same, the fastest stays."""

    engine: str
    precision: str
    variant: str = ""
    #: The model in the engine's own format.
    converted: str = ""

    @property
    def name(self) -> str:
        return f"{self.engine} {self.variant}".strip()


@dataclass(slots=True)
class Process:
    """A worker. ``gone`` says why it does not work, if it does not."""

    seat: Seat
    child: subprocess.Popen[str]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)
    gone: str | None = None

    def ready(self) -> None:
        """Wait until the model is loaded."""
        answer = self._read()
        self.facts = answer.get("ready", {})
        if self.gone is None:
            self.gone = answer["unavailable"].split("\n")[0] if "unavailable" in answer else None

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """One answer, with ``others``: cores that other processes used meanwhile."""
        assert self.child.stdin is not None
        time.sleep(SETTLE)
        busy, begin = busy_seconds(), time.perf_counter()
        try:
            self.child.stdin.write(json.dumps(job) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            self._died()
            return {"error": self.gone}
        answer = self._read()
        wall = time.perf_counter() - begin
        if "cpu" in answer:
            answer["others"] = max(0.0, (busy_seconds() - busy - answer["cpu"]) / wall)
        return answer

    def stop(self) -> None:
        """End of its input is the end of a worker."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.child.stdin.close()
        self.child.wait()
        self.child.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        if line := self.child.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._died()
        return {"error": self.gone}

    def _died(self) -> None:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        code = self.child.wait()
        how = f"code {code}" if code >= 0 else signal.Signals(-code).name
        self.gone = f"ended with {how}: {lines[-1] if lines else 'no message'}"


def start(python: Path, seat: Seat, settings: dict[str, Any], scratch: Path) -> Process:
    """Start a worker; it loads its model meanwhile."""
    log = scratch / f"{seat.engine}-{seat.variant}-{seat.precision}-{time.monotonic_ns()}.log"
    given = {**settings, "engine": seat.engine, "precision": seat.precision}
    given |= {"variant": seat.variant, "converted": seat.converted}
    with log.open("w") as stderr:
        child = subprocess.Popen(
            [str(python), str(HERE / "engine_worker.py"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(settings["threads"]),
        )
    return Process(seat, child, log)


def load_once(python: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds from before the start of a process to its first token, and its peak memory."""
    time.sleep(SETTLE)
    begin = time.monotonic()
    done = subprocess.run(
        [str(python), str(HERE / "engine_load.py"), json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(settings["threads"]),
    )
    if done.returncode != 0 or not done.stdout:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout)
    if "at" in answer:
        answer["seconds"] = answer["at"] - begin
    return answer


def environment(threads: int) -> dict[str, str]:
    """The same for everyone."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # Installed packages have their bytecode; those of a source tree are to have it after the first run, too.
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **dict.fromkeys(names, str(threads)), **fixed}


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0.0
    # user, nice, system; then idle, waiting, interrupts
    times = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    return sum(int(times[i]) for i in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")
