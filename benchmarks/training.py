"""Training steps of llmasos beside transformers: tokens per second, memory, and whether they learn the same.

    python benchmarks/training.py [--model FOLDER] [--rounds 5] [--steps 3] [--curve 200] [--precision fp32 bf16]
                                  [--recompute] [--dropout] [--quick] [--json]

Without ``--model`` the model has the shape of GPT-2 124M and random weights; a folder is any decoder that both read. Batches of
4 x 256 tokens come from the documentation of this repository (bytes, where the model has no tokenizer). The trainers take turns,
a process each; of each turn the first step is left out, and a round gives the mean of the others. Figures are medians of rounds.
``transformers`` is also given the allocator settings of the back end ("+ memory").

Checked in the same run, exit code 1 otherwise: fp32 losses agree with transformers within 1e-3, and every loss curve of
``--curve`` steps with that of transformers in fp32 within 1 % at every tenth of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine_process import busy_seconds, environment

HERE = Path(__file__).resolve().parent
#: Name, trainer, precision, whether the allocator keeps memory.
TRAINERS = (
    ("transformers fp32", "transformers", "fp32", False),
    ("transformers fp32 + memory", "transformers", "fp32", True),
    ("llmasos fp32", "llmasos", "fp32", False),
    ("transformers bf16", "transformers", "bf16", False),
    ("transformers bf16 + memory", "transformers", "bf16", True),
    ("llmasos bf16", "llmasos", "bf16", False),
)
BASE = "transformers fp32"
BATCH, LENGTH = 4, 256
#: Largest relative difference of losses in fp32, and of means over a tenth of a curve in any precision.
SAME, NEAR = 1e-3, 0.01


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.model) if options.model else _gpt2(Path(scratch) / "gpt2", quick=options.quick)
        ids = Path(scratch) / "ids.json"
        ids.write_text(json.dumps(_batches(folder, max(options.steps + 1, options.curve))), encoding="utf-8")
        shared = {
            "folder": str(folder),
            "ids": str(ids),
            "threads": options.threads,
            "rate": options.rate,
            "recompute": options.recompute,
            "dropout": options.dropout,
            "cache": scratch,
        }
        trainers = [trainer for trainer in TRAINERS if trainer[2] in options.precision]
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name, *_ in trainers}
        for number in range(options.rounds):
            for name, *what in trainers:
                _say(f"round {number + 1} of {options.rounds}: {name}")
                turns[name].append(_run(shared, *what, steps=options.steps + 1))
        curves = {}
        for name, *what in trainers if options.curve else ():
            if "memory" not in name:
                _say(f"{options.curve} steps: {name}")
                curves[name] = _run(shared, *what, steps=options.curve)["losses"]
    report = _report(turns, curves, dropout=options.dropout)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    return 1 if report["wrong"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="folder of a decoder with config.json and model.safetensors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn")
    parser.add_argument("--curve", type=int, default=200, help="steps of the loss curves; 0: none")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing, for everyone")
    parser.add_argument(
        "--dropout", action="store_true", help="leave transformers its dropout (losses differ)"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round: does it run at all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.curve = 1, 2, min(options.curve, 20)
    return options


def _gpt2(folder: Path, *, quick: bool) -> Path:
    """Random weights in the shape of GPT-2 124M, or of something tiny."""
    code = (
        "import sys, torch; from transformers import GPT2Config, GPT2LMHeadModel; torch.manual_seed(0);"
        "small = dict(n_layer=2, n_embd=64, n_head=2, vocab_size=300) if sys.argv[2] == 'quick' else {};"
        "GPT2LMHeadModel(GPT2Config(**small)).save_pretrained(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(folder), "quick" if quick else "whole"]
    subprocess.run(command, check=True, capture_output=True, env=environment(1))
    return folder


def _batches(folder: Path, count: int) -> list[list[list[int]]]:
    """``count`` batches [BATCH, LENGTH] of the documentation, from its beginning again where it ends."""
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "docs").rglob("*.md"))
    )
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    else:
        ids = list(text.encode())
    wanted = count * BATCH * LENGTH
    ids = (ids * (wanted // len(ids) + 1))[:wanted]
    rows = [ids[at : at + LENGTH] for at in range(0, wanted, LENGTH)]
    return [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]


def _run(shared: dict[str, Any], trainer: str, precision: str, memory: bool, *, steps: int) -> dict[str, Any]:
    settings = {**shared, "trainer": trainer, "precision": precision, "memory": memory, "steps": steps}
    busy = busy_seconds()
    done = subprocess.run(
        [sys.executable, str(HERE / "training_worker.py"), json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(shared["threads"]),
    )
    if done.returncode != 0:
        raise SystemExit(f"{trainer} {precision} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    found["busy"] = busy_seconds() - busy
    return found


def _report(
    turns: dict[str, list[dict[str, Any]]], curves: dict[str, list[float]], *, dropout: bool
) -> dict[str, Any]:
    rows, wrong = {}, []
    for name, found in turns.items():
        rates = [turn["tokens"] * (len(turn["seconds"]) - 1) / sum(turn["seconds"][1:]) for turn in found]
        rows[name] = {
            "tokens_per_second": statistics.median(rates),
            "rates": rates,
            "peak_mib": max(turn["peak"] for turn in found) / 2**20,
            "losses": found[0]["losses"],
            "refused": found[0].get("refused", {}),
        }
        wrong += [f"{name}: {op} was refused: {reason}" for op, reason in rows[name]["refused"].items()]
        if "fp32" in name and BASE in rows and not dropout:
            far = _apart(rows[name]["losses"], rows[BASE]["losses"])
            if not far <= SAME:
                wrong.append(f"{name}: losses differ from {BASE} by {far:.3g}")
    for row in rows.values():
        row["ratios"] = {
            peer: row["tokens_per_second"] / rows[peer]["tokens_per_second"]
            for peer in rows
            if peer != "llmasos"
        }
    distances = {}
    for name, curve in curves.items():
        if BASE in curves and name != BASE and not dropout:
            tenth = max(1, len(curve) // 10)
            means = [
                [statistics.fmean(one[at : at + tenth]) for at in range(0, len(one), tenth)]
                for one in (curve, curves[BASE])
            ]
            distances[name] = _apart(*means)
            if not distances[name] <= NEAR:
                wrong.append(f"{name}: the loss curve is {distances[name]:.2%} from that of {BASE}")
    ends = {name: [curve[0], curve[-1]] for name, curve in curves.items()}
    settings = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    return {"trainers": rows, "curves": ends, "curve_distance": distances, "wrong": wrong, **settings}


def _apart(mine: list[float], theirs: list[float]) -> float:
    return max(abs(one - other) / abs(other) for one, other in zip(mine, theirs, strict=True))


def _print(report: dict[str, Any]) -> None:
    rows = report["trainers"]
    peers = [name for name in rows if name.startswith("transformers")]
    print(f"{'':28} tokens/s   peak MiB   times " + ", ".join(peers))
    for name, row in rows.items():
        ratios = "  ".join(f"{row['ratios'][peer]:5.2f}" for peer in peers)
        print(f"{name:28} {row['tokens_per_second']:8.0f}   {row['peak_mib']:8.0f}   {ratios}")
    for name, (first, last) in report["curves"].items():
        away = report["curve_distance"].get(name)
        print(
            f"loss of {name}: {first:.4f} to {last:.4f}"
            + ("" if away is None else f", curve {away:.3%} away")
        )
    print(f"load of the machine at the end: {report['load']:.1f} on {report['cpus']} processors")
    for line in report["wrong"]:
        print(f"WRONG: {line}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
