"""The table of CUDA kernels: how right each is in Triton's interpreter, what it compiles to, and how fast it could be at best.

    python benchmarks/cuda_kernels.py [--architectures sm_80,sm_90]

needs no GPU. It writes docs/reference/cuda-kernels.json and the page beside it; with other architectures than all, it prints the
figures instead. The interpreter's grid takes some minutes, the builds a few more.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "reference" / "cuda-kernels.json"
PAGE = TABLE.with_suffix(".md")
GRID = ROOT / "tests" / "plugins" / "cuda" / "kernel_grid.py"
CARDS = Path(__file__).with_name("cuda_cards.toml")

Table = dict[str, Any]


def interpreted() -> dict[str, Any]:
    """What the thorough grid finds: of each kernel the cases, the largest error, and that as a share of what is allowed."""
    spec = importlib.util.spec_from_file_location("kernel_grid", GRID)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_grid"] = module
    spec.loader.exec_module(module)
    found: dict[str, Any] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for scores in pool.map(interpreted_part, module.PARTS):
            found |= scores
    failed = [text for score in found.values() for text in score.pop("failures")]
    if failed:
        sys.exit("kernels are wrong, so there is no table of them:\n" + "\n".join(failed))
    return found


def interpreted_part(part: str) -> dict[str, Any]:
    """The scores of one part of the grid, from a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(GRID), "--thorough", part],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
    )
    scores: dict[str, Any] = json.loads(done.stdout)
    return scores


def builds(architectures: Sequence[str]) -> list[dict[str, Any]]:
    """Every launch of the catalogue compiled for each architecture."""
    from llmasos_cuda.builds import compile_launch
    from llmasos_cuda.catalogue import uses

    cards = tomllib.loads(CARDS.read_text(encoding="utf-8"))
    found = []
    for architecture in architectures:
        previous = ""
        for use in uses(architecture):
            print(f"{architecture} {use.case.name} {use.kernel}", file=sys.stderr, flush=True)
            row = {
                "case": use.case.name,
                "kernel": use.kernel,
                "shape": use.case.shape,
                "grid": list(use.launch.grid),
                "stages": use.launch.stages,
                **asdict(compile_launch(use.launch, architecture)),
            }
            if use.case.name != previous:
                # The first kernel of a case is the one that does the work.
                row["least_us"] = at_best(cards[architecture], use.case)
            previous = use.case.name
            found.append(row)
    return found


def at_best(card: Mapping[str, Any], case: Any) -> float:
    """Microseconds that a case takes at least on a card: to move its bytes, or to multiply and add (the roofline)."""
    moving = case.bytes / (card["bandwidth"] * 1e9)
    rate = {"half": card["half"], "tf32x3": card["tf32"] / 3, "": float("inf")}[case.precision]
    return round(1e6 * max(moving, 2 * case.products / (rate * 1e12)), 1)


def render(table: Table) -> str:
    """The page."""
    cards = tomllib.loads(CARDS.read_text(encoding="utf-8"))
    lines = [
        "# CUDA kernels",
        "",
        (
            "Written by `python benchmarks/cuda_kernels.py`, which needs no GPU. What is behind it: "
            "[the CUDA back end](../explanation/cuda-back-end.md)."
        ),
        "",
        f"triton {table['triton']}, torch {table['torch']}, {table['date']}. The same figures: [cuda-kernels.json](cuda-kernels.json).",
        "",
        "## How right they are",
        "",
        (
            "Every kernel runs in Triton's interpreter on a grid of shapes, element types and strides (none, one and odd numbers of rows, "
            "rows with gaps, widths around the sizes of blocks), with canaries around what it reads and writes. Errors are the largest "
            "absolute difference from plain torch in float64, on inputs of unit scale or a few times that; behind each is its share of what is allowed: the "
            "order of sums in float32, and two roundings of the result in narrower types."
        ),
        "",
        "| kernel | cases | float32 | bfloat16 | float16 |",
        "|---|---|---|---|---|",
    ]
    for kernel, score in sorted(table["interpreted"].items()):
        cells = [
            f"{score['largest'][dtype]:.2g} ({100 * score['share'][dtype]:.0f} %)"
            for dtype in ("float32", "bfloat16", "float16")
        ]
        lines.append(f"| `{kernel}` | {score['cases']} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What they compile to",
        "",
        (
            "Compiled ahead of time with the compiler and the tools in triton's wheel, in the sizes of `configurations.toml`. Shared memory "
            "is in bytes for a program, spills in bytes for a thread, tensor core instructions are those in the code, not those run. "
            "`at best` is the time in which the card could move the bytes or do the products of the case, whichever is longer; "
            "nothing on this page was measured on a card."
        ),
        "",
        "| architecture | estimates for | bandwidth | bfloat16 | tf32 | from |",
        "|---|---|---|---|---|---|",
    ]
    for name, card in cards.items():
        lines.append(
            f"| {name} | {card['card']} | {card['bandwidth']} GB/s | {card['half']} TFLOP/s | {card['tf32']} TFLOP/s | "
            f"{card['source']} |"
        )
    for architecture in dict.fromkeys(row["architecture"] for row in table["builds"]):
        rows = [row for row in table["builds"] if row["architecture"] == architecture]
        lines += [
            "",
            f"### {architecture}",
            "",
            "| case | kernel | programs | warps | registers | shared | spills | tensor core | instructions | at best |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            programs = " x ".join(map(str, row["grid"]))
            best = f"{row['least_us']} us" if "least_us" in row else ""
            lines.append(
                f"| {row['case']} | `{row['kernel']}` | {programs} | {row['warps']} | {row['registers']} | {row['shared']} | "
                f"{row['spills']} | {row['tensor_core']} | {row['instructions']} | {best} |"
            )
    lines += ["", "### Cases", "", "| case | shape |", "|---|---|"]
    shapes = {row["case"]: row["shape"] for row in table["builds"]}
    lines += [f"| {case} | {shape} |" for case, shape in shapes.items()]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def main() -> None:
    import torch
    import triton

    from llmasos_cuda.builds import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    options = parser.parse_args()
    wanted = options.architectures.split(",")
    unknown = sorted(set(wanted) - set(ARCHITECTURES))
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(ARCHITECTURES)}")
    if tuple(wanted) != ARCHITECTURES:
        json.dump(builds(wanted), sys.stdout, indent=1)
        return
    table: Table = {
        "triton": triton.__version__,
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "interpreted": interpreted(),
        "builds": builds(wanted),
    }
    write(TABLE, json.dumps(table, indent=1) + "\n")
    write(PAGE, render(table))


if __name__ == "__main__":
    main()
