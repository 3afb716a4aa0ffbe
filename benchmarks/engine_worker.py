"""One engine in one precision, its model loaded once; run by ``engine.py``, which sends a job a line and reads an answer a line.

Each engine is a module ``engine_NAME.py`` with a class ``Engine``: it is made from the settings of the worker, raises
``Unavailable`` for what it cannot do, and has those of the methods ``decode``, ``score``, ``encode`` and ``limits`` that make
sense for it. This module measures them, all in the same way.

A job has ``do``, ``sequences`` (token ids) and what the workload needs; an answer has ``seconds`` and ``tokens``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    settings = json.loads(sys.argv[1])
    # Answers go where nothing else writes: libraries print to stdout, too.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what, default=float) + "\n")
        answers.flush()

    module = importlib.import_module(f"engine_{settings['engine']}")
    try:
        worker = Worker(module.Engine(settings))
    except ImportError as error:
        return answer({"unavailable": f"not installed: {error}"})
    except Exception as error:
        if type(error).__name__ != "Unavailable":
            raise
        return answer({"unavailable": str(error)})
    answer({"ready": worker.engine.facts()})
    for line in sys.stdin:
        job = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            result = getattr(worker, job["do"])(job)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answer({**result, "wall": wall, "cpu": cpu, "peak": peak()})


class Worker:
    """Times what an engine does. The batch size is the one that did best in the first job."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.batch: dict[str, int] = {}

    def decode(self, job: dict[str, Any]) -> dict[str, Any]:
        """Greedy tokens after each prompt; ``step`` is the time of one token of all streams, prompts apart."""
        begin = time.perf_counter()
        tokens, times = self.engine.decode(job["sequences"], job["new"])
        return {
            "seconds": times[-1] - begin,
            "step": (times[-1] - times[0]) / max(1, len(times) - 1),
            "tokens": sum(map(len, tokens)),
            "output": tokens,
        }

    def score(self, job: dict[str, Any]) -> dict[str, Any]:
        """Sum of the log-probabilities of all tokens of each sequence but its first."""
        seconds, sums = self._batches(job, self.engine.score)
        return {
            "seconds": seconds,
            "tokens": sum(map(len, job["sequences"])),
            "batch": self.batch[job["workload"]],
            "output": [float(value) for value in sums],
        }

    def encode(self, job: dict[str, Any]) -> dict[str, Any]:
        """Final hidden states; those of each sequence's last token are given back where the job says to ``check``."""
        seconds, rows = self._batches(job, self.engine.encode)
        return {
            "seconds": seconds,
            "tokens": sum(map(len, job["sequences"])),
            "batch": self.batch[job["workload"]],
            "output": [[float(x) for x in row] for row in rows] if job["check"] else None,
        }

    def limits(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the machine can do."""
        begin = time.perf_counter()
        found = self.engine.limits()
        return {"seconds": time.perf_counter() - begin, "tokens": 0, "output": found}

    def _batches(self, job: dict[str, Any], run: Any) -> tuple[float, list[Any]]:
        """Seconds over all sequences, longest first so that a batch has like lengths, and results in their order."""
        sequences, name = job["sequences"], job["workload"]
        order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))

        def once(chosen: Sequence[int], size: int) -> tuple[float, dict[int, Any]]:
            found: dict[int, Any] = {}
            begin = time.perf_counter()
            for start in range(0, len(chosen), size):
                part = chosen[start : start + size]
                found.update(zip(part, run([sequences[index] for index in part]), strict=True))
            return time.perf_counter() - begin, found

        if name not in self.batch:
            sizes = [size for size in job["batches"] if size <= len(order)]
            once(order[:1], 1)
            tried = {size: once(order, size)[0] for size in sizes}
            self.batch[name] = min(tried, key=lambda size: tried[size])
        seconds, found = once(order, self.batch[name])
        return seconds, [found[index] for index in range(len(sequences))]


def peak() -> int:
    """Largest resident set so far, in bytes. What the system counts for finished children includes the parent's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
