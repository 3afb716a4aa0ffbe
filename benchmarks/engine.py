"""Our engine beside its peers on a CPU: speed and correctness in one interleaved run.

    python benchmarks/engine.py --peers-python VENV/bin/python --gguf SmolLM2-135M-Instruct.Q4_1.gguf --work DIR [--quick]

``--peers-python`` has torch, transformers, tokenizers, safetensors and as many of ctranslate2, onnxruntime with onnx, and
llama-cpp-python with gguf as are to be compared; what is not there is left out, and said. Every engine in every precision is
a process that keeps its model loaded. In each round each process does the same job once while the others wait, so that
whatever the machine does meanwhile happens to all. Medians over rounds are printed, and the ratio of ours to the best peer
of the same precision, with its smallest and largest value in one round.

Correctness comes from the timed runs: greedy tokens against transformers in fp32, perplexity of what was scored, and the
largest difference of encodings. Memory bandwidth and products of matrices are measured in the same rounds.

The first use makes and converts the models under --work (3 GB). About 80 minutes on two cores; ``--quick`` takes a few.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from engine_lineup import (  # noqa: E402 (the path is set above)
    DECODERS,
    ENCODERS,
    MODELS,
    PEERS,
    PRECISIONS,
    Lineup,
    say,
)
from engine_models import LENGTH, PROMPT, weights  # noqa: E402
from engine_process import Process, Seat, load_once, start  # noqa: E402
from engine_report import environment_lines, load_table, summary, table  # noqa: E402

#: Sequences of a job that warms up, and of every job of a quick run; of decoding, new tokens that warm up.
WARM, QUICK, WARM_TOKENS = 8, 4, 16
#: A variant this much slower than the best of its engine in the warm-up sits out the rounds.
BEHIND = 1.25


@dataclass(frozen=True, slots=True)
class Workload:
    """``sequences`` names what is read; ``new``: tokens generated; ``rounds`` as a share of those asked for."""

    name: str
    do: str
    sequences: str
    models: tuple[str, ...]
    title: str
    streams: int = 0
    batches: tuple[int, ...] = ()
    rounds: float = 1.0


DATA = HERE.parents[1] / "shared" / "data"
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("decode-1", "decode", "prompts", DECODERS, "decoding, one stream", streams=1),
        Workload("decode-8", "decode", "prompts", DECODERS, "decoding, eight streams", streams=8),
        Workload(
            "score", "score", "scored", DECODERS, "scoring all positions", batches=(1, 4, 8), rounds=0.5
        ),
        Workload("encode", "encode", "even", ENCODERS, "encoding, even lengths", batches=(1, 4, 8)),
        Workload("encode-mixed", "encode", "mixed", ENCODERS, "encoding, lengths 16-128", batches=(1, 4, 8)),
        Workload("load", "load", "", ("smollm2",), "from the start to the first token"),
    )
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python", type=Path, required=True, help="interpreter that has the peers")
    parser.add_argument("--gguf", type=Path, help="weights of SmolLM2-135M, for the first use of --work")
    parser.add_argument("--work", type=Path, help="keeps the models [default: a temporary folder]")
    parser.add_argument("--data", type=Path, default=DATA, help="the shared data folder")
    parser.add_argument("--backend-plugin", type=Path, action="append", default=[], help="plugin folder")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=10, help="of decoding, one set of prompts each")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two rounds, few tokens")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.new_tokens = 2, 32
    return args


class Bench:
    """One run. ``scratch`` takes caches and logs."""

    def __init__(self, args: argparse.Namespace, lineup: Lineup, scratch: Path) -> None:
        self.args, self.lineup, self.scratch = args, lineup, scratch
        self.facts: dict[str, Any] = {}

    # ---- rounds -------------------------------------------------------------------------------------------------------

    def settings(self, folder: Path, *, encoder: bool) -> dict[str, Any]:
        return {
            "folder": str(folder),
            "encoder": encoder,
            "threads": self.args.threads,
            "cache": str(self.scratch),
            "plugins": [str(plugin.resolve()) for plugin in self.args.backend_plugin],
        }

    def start(self, key: str, folder: Path) -> tuple[list[Process], Process]:
        """All engines of a model and the limits, loaded."""
        settings = self.settings(folder, encoder=key in ENCODERS)
        seats = self.lineup.seats(key)
        say(f"{MODELS[key]}: loading {len(seats)} engines")
        limits = start(Path(sys.executable), Seat("limits", ""), settings, self.scratch)
        processes = []
        for seat in seats:
            python = Path(sys.executable) if seat.engine == "llmasos" else self.args.peers_python
            processes.append(start(python, seat, settings, self.scratch))
        for process in [limits, *processes]:
            process.ready()
            name = f"{process.seat.name} {process.seat.precision}".strip()
            if process.gone is not None:
                self.lineup.leave_out(f"{MODELS[key]}, {name}", process.gone)
                process.stop()
            else:
                self.facts[name] = process.facts
        return [process for process in processes if process.gone is None], limits

    def model_results(self, key: str) -> list[dict[str, Any]]:
        wanted = [w for w in map(WORKLOADS.get, self.args.workloads) if w and key in w.models]
        folder = self.lineup.model(key) if wanted else None
        sequences = self.lineup.sequences(key, folder) if folder else None
        if folder is None or sequences is None:
            return []
        results = [self.load(key, workload) for workload in wanted if workload.do == "load"]
        timed = [workload for workload in wanted if workload.do != "load"]
        if timed:
            processes, limits = self.start(key, folder)
            try:
                for workload in timed:
                    rounds = self.interleaved(key, workload, sequences, processes, limits)
                    results.append({**self.heading(key, workload), **summary(rounds, weights(folder))})
            finally:
                for process in [*processes, limits]:
                    process.stop()
        return results

    def heading(self, key: str, workload: Workload) -> dict[str, Any]:
        return {"model": MODELS[key], "workload": workload.name, "title": workload.title, "do": workload.do}

    def job(self, workload: Workload, sequences: dict[str, Any], turn: int) -> dict[str, Any]:
        """What every engine does in round ``turn``; -1 warms up, and finds batch sizes and the slower variants."""
        given, new = sequences[workload.sequences], self.args.new_tokens
        if workload.do == "decode":
            given = given[turn % len(given)][: workload.streams]
            new = min(new, WARM_TOKENS) if turn < 0 else new
        elif self.args.quick or turn < 0:
            given = given[: QUICK if self.args.quick else WARM]
        return {
            "workload": workload.name,
            "do": workload.do,
            "sequences": given,
            "new": new,
            "batches": workload.batches,
            "check": turn == 0,
        }

    def interleaved(
        self,
        key: str,
        workload: Workload,
        sequences: dict[str, Any],
        processes: list[Process],
        limits: Process,
    ) -> list[list[dict[str, Any]]]:
        """Answers of every round. What is slower than another variant of the same engine sits out, as does what fails."""
        rounds: list[list[dict[str, Any]]] = []
        taking = [process for process in processes if process.gone is None]
        order = random.Random(1)
        for turn in range(-1, max(1, round(self.args.rounds * workload.rounds))):
            job = self.job(workload, sequences, turn)
            answers = []
            order.shuffle(taking)  # nobody always follows the same one
            for process in list(taking):
                seat = process.seat
                say(f"{MODELS[key]}, {workload.name}, round {turn + 1}: {seat.name} {seat.precision}")
                answer = process.ask(job)
                if "error" in answer:
                    self.lineup.leave_out(
                        f"{MODELS[key]}, {workload.name}, {seat.name} {seat.precision}", answer["error"]
                    )
                    taking.remove(process)
                    continue
                answers.append(
                    {**answer, "do": workload.do, "engine": seat.name, "precision": seat.precision}
                )
            if turn < 0:
                taking = self.ahead(taking, answers)
                continue
            if limits.gone is None:
                answers.append({**limits.ask({"do": "limits"}), "engine": "limits", "precision": ""})
            rounds.append(answers)
        return rounds

    def ahead(self, taking: list[Process], answers: list[dict[str, Any]]) -> list[Process]:
        """Without the variants that the warm-up found to be clearly behind."""
        seconds = {(a["engine"], a["precision"]): a["seconds"] for a in answers}
        best: dict[tuple[str, str], float] = {}
        for process in taking:
            group, own = (
                (process.seat.engine, process.seat.precision),
                (
                    process.seat.name,
                    process.seat.precision,
                ),
            )
            best[group] = min(best.get(group, float("inf")), seconds[own])
        return [
            process
            for process in taking
            if seconds[process.seat.name, process.seat.precision]
            <= BEHIND * best[process.seat.engine, process.seat.precision]
        ]

    # ---- loading ------------------------------------------------------------------------------------------------------

    def load(self, key: str, workload: Workload) -> dict[str, Any]:
        """Fresh processes by turns; the first of each, with nothing in any cache of ours, is reported apart."""
        folder = self.lineup.work / key
        files = {"safetensors": str(folder)}
        if path := self.lineup.converted(key, "gguf", "fp32"):
            files["GGUF"] = path
        engines = ["llmasos", *(peer for peer in self.args.peers if peer in ("transformers", "llama_cpp"))]
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {
            (engine, form): []
            for form in files
            for engine in engines
            if engine != "llama_cpp" or form == "GGUF"
        }
        for turn in range(max(2, self.args.rounds // 2) + 1):
            for engine, form in list(rows):
                say(f"{MODELS[key]}, load, round {turn}: {engine} {form}")
                python = Path(sys.executable) if engine == "llmasos" else self.args.peers_python
                settings = self.settings(folder, encoder=False)
                settings |= {"engine": engine, "model": files[form], "cache": str(self.scratch / "load")}
                answer = load_once(python, settings)
                if "seconds" in answer:
                    rows[engine, form].append(answer)
                else:
                    why = answer.get("unavailable") or answer.get("error", "no answer")
                    self.lineup.leave_out(f"{MODELS[key]}, load, {engine} {form}", why)
                    del rows[engine, form]
        size = (folder / "model.safetensors").stat().st_size
        return {
            **self.heading(key, workload),
            "weights": size,
            "rows": [
                {"engine": engine, "format": form, "answers": answers}
                for (engine, form), answers in rows.items()
            ],
        }


def environment_facts(args: argparse.Namespace) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(cpu) if line.startswith("model name")]
    flags = next((line for line in _lines(cpu) if line.startswith("flags")), "").split()
    shown = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": [name for name in shown if name in flags],
        "threads": args.threads,
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "rounds": args.rounds,
        "prompt": PROMPT,
        "new_tokens": args.new_tokens,
        "scored": LENGTH,
        "quick": args.quick,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch) / "work").resolve()
        work.mkdir(parents=True, exist_ok=True)
        facts = environment_facts(args)
        lineup = Lineup(args, work)
        bench = Bench(args, lineup, Path(scratch))
        results = [result for key in args.models for result in bench.model_results(key)]
    if args.json:
        whole = {
            "environment": facts,
            "engines": bench.facts,
            "left_out": lineup.left_out,
            "results": results,
        }
        print(json.dumps(whole, indent=1))
        return 0
    print("\n".join(environment_lines(facts, bench.facts, lineup.left_out)))
    for result in results:
        print("\n" + (load_table(result) if result["do"] == "load" else table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
