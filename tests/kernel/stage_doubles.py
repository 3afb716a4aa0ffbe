"""Stages for tests of executors. In a module of their own, so that worker processes can import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from llmasos.errors import InputError
from llmasos.kernel.workshop import digest_of


class Squares:
    """Writes the square of each shard (an int). ``marks`` is a folder where every try leaves a file."""

    name = "squares"
    gpus = 0

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def key(self, shard: Any) -> str:
        return digest_of([type(self).__name__, shard])

    def open(self, hub: Any, report: Any) -> Any:
        self.report = report
        (self.marks / f"open-{os.getpid()}").touch()
        return self

    def run(self, shard: Any, folder: Path) -> dict[str, Any]:
        (self.marks / f"{shard}-{os.getpid()}-{time.monotonic_ns()}").touch()
        self.report(1)
        self.act(shard)
        if folder.is_dir():
            (folder / "square").write_text(str(shard * shard))
        return {"square": shard * shard, "threads": os.environ.get("OMP_NUM_THREADS")}

    def act(self, shard: int) -> None:
        """What goes wrong."""

    def tries(self, shard: int) -> int:
        """How often a shard was begun."""
        return len(list(self.marks.glob(f"{shard}-*")))

    def opened(self) -> int:
        """In how many processes the stage was opened."""
        return len(list(self.marks.glob("open-*")))


class DiesOnce(Squares):
    """Shard 3 kills its process the first time."""

    def act(self, shard: int) -> None:
        if shard == 3 and self.tries(3) == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class DiesAlways(Squares):
    """Shard 3 kills its process."""

    def act(self, shard: int) -> None:
        if shard == 3:
            os.kill(os.getpid(), signal.SIGKILL)


class Refuses(Squares):
    """Shard 3 is bad input."""

    def act(self, shard: int) -> None:
        if shard == 3:
            raise InputError("shard three", hint="leave it out")


class Fault(Squares):
    """Shard 3 is a fault of the program."""

    def act(self, shard: int) -> None:
        if shard == 3:
            raise ZeroDivisionError("three")


class Odd(Exception):
    """An error that cannot be pickled and read again."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(left)


class OddFault(Squares):
    """Shard 3 raises what no pickle holds."""

    def act(self, shard: int) -> None:
        if shard == 3:
            raise Odd("left", "right")


class Unopenable(Squares):
    """Opening it fails."""

    def open(self, hub: Any, report: Any) -> Any:
        raise InputError("there is no model", hint="give one")


class WaitsForFile(Squares):
    """Shards from 1 on end only when the file ``go`` is there."""

    def act(self, shard: int) -> None:
        deadline = time.monotonic() + 60
        while shard > 0 and not (self.marks / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


if __name__ == "__main__":  # a run with workers, to be killed or interrupted: FOLDER MARKS
    # Pickled by the name that worker processes import.
    from stage_doubles import WaitsForFile as Importable

    import llmasos
    from llmasos.kernel.stage_run import executor_for, run_stage

    folder, marks = Path(sys.argv[1]), Path(sys.argv[2])
    with llmasos.Hub(cache_dir=folder / "cache", config_dir=folder / "cache", no_plugins=True) as hub:
        executor = executor_for(hub, workers=2)
        try:
            for result in run_stage(executor, Importable(marks), range(4), folder=folder / "work"):
                print(result.index, flush=True)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            executor.close()
