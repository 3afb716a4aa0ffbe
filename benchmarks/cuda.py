"""The CUDA back end on a GPU: is it right, and how fast is it beside others.

    python benchmarks/cuda.py [--model FOLDER] [--seconds 0.2] [--rounds 5] [--output results.json]

1. Parity: every op in every element type against the reference (as `llmasos backend check`), and every kernel on the device on the
   grid of the tests, against float64, between canaries.
2. Sanitizer: the same grid under `compute-sanitizer`, where it is installed.
3. Kernels: every case of the catalogue, with the share of what the card could do at best, beside torch, torch.compile and Liger.
4. With a model: decoding and scoring beside transformers, transformers under torch.compile, and vLLM, those that are installed.

Timings are only taken of what is right. Peers are measured in turns, medians of rounds. Without a CUDA device it says so and ends
with 4.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmasos_cuda.devices import found

ROOT = Path(__file__).resolve().parents[1]
GRID = ROOT / "tests" / "plugins" / "cuda" / "kernel_grid.py"
CARDS = Path(__file__).with_name("cuda_cards.toml")
DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
PACKAGES = ("torch", "triton", "transformers", "liger-kernel", "vllm", "llmasos")
#: Exit code of a missing environment, as everywhere in llmasos.
NO_DEVICE = 4


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def facts() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device, driver = found().devices[0], found().driver
    return {
        "device": device.name,
        "architecture": device.architecture,
        "memory": device.memory,
        "driver": driver,
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


# ---- right --------------------------------------------------------------------------------------------------------------


def parity() -> dict[str, Any]:
    """The self-check of every op, in every element type."""
    from llmasos import Hub
    from llmasos.pipelines.backends import check_backend

    results = {}
    with Hub() as hub:
        for dtype in DTYPES:
            results[dtype] = check_backend(hub, "cuda", "cuda", dtype, thorough=True)
            say(f"ops in {dtype}: {'right' if results[dtype]['passed'] else 'WRONG'}")
    return results


def grid(*flags: str, before: Sequence[str] = ()) -> dict[str, Any]:
    """The tests' grid of kernels on the device."""
    done = subprocess.run(
        [*before, sys.executable, "-W", "ignore", str(GRID), "--device", "cuda", *flags],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        check=False,
    )
    if done.returncode:
        return {"problem": f"ended with {done.returncode}"}
    # A sanitizer writes to stdout as well; the answer is the last line that is one.
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1]))


def sanitized() -> dict[str, str]:
    """What compute-sanitizer says of the quick grid: of memory, and of races in shared memory."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"compute-sanitizer": "not installed"}
    results = {}
    for tool in ("memcheck", "racecheck"):
        answer = grid(before=[program, "--tool", tool, "--error-exitcode", "9"])
        results[tool] = answer.get("problem", "nothing found")
        say(f"{tool}: {results[tool]}")
    return results


# ---- fast: kernels ------------------------------------------------------------------------------------------------------


def in_turns(calls: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of a call of each."""
    from triton.testing import do_bench

    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(do_bench(call, rep=int(1000 * seconds / rounds), return_mode="median"))
    return {name: statistics.median(values) for name, values in samples.items()}


def kernels(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Every case of the catalogue with its peers."""
    import torch
    from cuda_kernels import at_best
    from cuda_peers import peers_of

    from llmasos_cuda.catalogue import Maker, cases

    cards = tomllib.loads(CARDS.read_text(encoding="utf-8"))
    card = cards.get(found().devices[0].architecture)
    rows = []
    with torch.inference_mode():
        for case in cases():
            calls = {"llmasos": case.build(Maker("cuda")), **peers_of(case.name, Maker("cuda"))}
            times = in_turns(calls, rounds, seconds)
            row = {"case": case.name, "shape": case.shape, "us": {k: 1000 * v for k, v in times.items()}}
            row["gb_s"] = case.bytes / times["llmasos"] / 1e6
            if card is not None:
                row["share_of_best"] = at_best(card, case) / (1000 * times["llmasos"])
            rows.append(row)
            beside = ", ".join(f"{name} {value:.1f}" for name, value in row["us"].items())
            say(f"{case.name}: us {beside}")
            torch.cuda.empty_cache()
    return rows


# ---- fast: models -------------------------------------------------------------------------------------------------------


def models(folder: str, rounds: int) -> list[dict[str, Any]]:
    """Tokens per second of whole models, each engine in a process of its own and all in turns; same greedy tokens or no figure."""
    from cuda_peers import ENGINES, Worker

    rows = []
    for dtype in ("bfloat16", "float32"):
        workers = [Worker(name, folder, dtype) for name in ENGINES]
        answers: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                answers[worker.name].append(worker.ask())
        for worker in workers:
            worker.stop()
        agreed = answers["llmasos"][0].get("tokens")
        for name, found_here in answers.items():
            row: dict[str, Any] = {"engine": name, "dtype": dtype}
            problems = {one["problem"] for one in found_here if "problem" in one}
            if problems:
                row["problem"] = problems.pop()
            else:
                row["same_tokens"] = found_here[0]["tokens"] == agreed
                for figure in ("decode_1", "decode_64", "score"):
                    row[figure] = statistics.median(one[figure] for one in found_here)
            rows.append(row)
            say(f"{name} {dtype}: {json.dumps(row)}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a folder with config.json and safetensors, for step 4")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each kernel and peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the results here instead of to stdout")
    options = parser.parse_args()
    if not found().devices:
        say(f"error: there is no CUDA device to measure: {found().problem}")
        say(
            "hint: what can be known without one is in docs/reference/cuda-kernels.md (benchmarks/cuda_kernels.py)"
        )
        return NO_DEVICE
    results: dict[str, Any] = {"facts": facts()}
    results["parity"] = parity()
    results["grid"] = grid("--thorough")
    wrong = [name for name, one in results["parity"].items() if not one["passed"]]
    wrong += [name for name, one in results["grid"].items() if name == "problem" or one["failures"]]
    results["sanitizer"] = sanitized()
    if wrong:
        say(f"error: not timed, because these are wrong: {', '.join(wrong)}")
    else:
        results["kernels"] = kernels(options.rounds, options.seconds)
        if options.model:
            results["models"] = models(options.model, options.rounds)
    text = json.dumps(results, indent=1) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
