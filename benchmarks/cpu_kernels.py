"""Measures the native kernels of the CPU back end beside PyTorch's, in one interleaved run.

    python benchmarks/cpu_kernels.py [--threads 1 2] [--shapes 3072x768 768x3072] [--json]

Few rows are bound by memory: bytes of packed weights per second, beside the read bandwidth measured in the same round
(the best of all rounds is "limit"). Many rows are bound by arithmetic: floating-point operations per second, beside
`torch.nn.functional.linear` and oneDNN with prepacked weights, and the best rate of any of them on a large product.
Weights of few-row runs are taken in turn from a set larger than the caches. Medians of `--rounds` rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from llmasos_cpu import library as cpu
from llmasos_cpu.structures import ELEMENT_TYPES, LinearStruct

BYTES_IN_TURN = 256 << 20  # of weights, so that each product finds its own in memory and not in a cache
FEW, MANY = (1, 2, 4, 8, 16), (64, 256, 1024)


@dataclass(frozen=True)
class Kind:
    """A kind of packed matrix, the bits of its activations, and the type PyTorch computes in beside it."""

    name: str
    matrix: str
    group: int
    bits: int
    dtype: torch.dtype


KINDS = {
    kind.name: kind
    for kind in (
        Kind("fp32", "fp32", 0, 0, torch.float32),
        Kind("bf16", "bf16", 0, 0, torch.bfloat16),
        Kind("int8", "int8", 0, 16, torch.float32),
        Kind("int8-dynamic", "int8", 0, 8, torch.float32),
        Kind("q8_0", "int8", 32, 16, torch.float32),
        Kind("int4", "int4", 0, 16, torch.float32),
        Kind("int4-dynamic", "int4", 0, 8, torch.float32),
    )
}


@dataclass(frozen=True)
class Row:
    """One line of the report; rates are GB/s of weights for few rows, GFLOP/s for many."""

    threads: int
    kind: str
    outputs: int
    inputs: int
    rows: int
    microseconds: float
    rate: float
    unit: str
    beside: dict[str, float]


def aligned(size: int) -> Tensor:
    held = torch.empty(size + 64, dtype=torch.uint8)
    start = -held.data_ptr() % 64
    return held[start : start + size]


def packed(functions: ctypes.CDLL, kind: Kind, weight: Tensor) -> Tensor:
    code = cpu.MATRIX_KINDS[kind.matrix]
    size = functions.llmc_matrix_bytes(code, kind.group, *weight.shape)
    matrix = aligned(size)
    functions.llmc_matrix_begin(code, kind.group, *weight.shape, matrix.data_ptr(), size)
    status = functions.llmc_matrix_set_rows(
        matrix.data_ptr(), size, 0, len(weight), cpu.SOURCES["fp32"], weight.data_ptr(), weight.stride(0) * 4
    )
    if status != cpu.OK:
        raise SystemExit(f"packing failed: {functions.llmc_status_text(status).decode()}")
    return matrix


def native_call(kind: Kind, matrix: Tensor, x: Tensor, y: Tensor) -> LinearStruct:
    code = ELEMENT_TYPES[str(x.dtype)]
    return LinearStruct(
        matrix=matrix.data_ptr(), x=x.data_ptr(), y=y.data_ptr(), rows=len(x), x_stride=x.stride(0),
        y_stride=y.stride(0), x_type=code, y_type=code, activation_bits=kind.bits,
    )  # fmt: skip


def prepacked(x: Tensor, weight: Tensor) -> Callable[[], object] | None:
    """oneDNN with the weight reordered for so many rows, as PyTorch's compiler calls it; None where it is missing."""
    try:
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        linear = torch.ops.mkldnn._linear_pointwise
        linear(x, reordered, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return None
    return lambda: linear(x, reordered, None, "none", [], "")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turn: a slow moment of the machine falls on all alike."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(
    functions: ctypes.CDLL, kind: Kind, outputs: int, inputs: int, threads: int, rounds: int
) -> list[Row]:
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs) * 0.02
    first = packed(functions, kind, weight)
    copies = [first, *(aligned(len(first)).copy_(first) for _ in range(BYTES_IN_TURN // len(first)))]
    memory = torch.zeros(BYTES_IN_TURN // 8, dtype=torch.int64)
    report = []
    for rows in FEW + MANY:
        x = torch.randn(rows, inputs).to(kind.dtype)
        y = torch.empty(rows, outputs, dtype=kind.dtype)
        few = rows in FEW
        calls = [native_call(kind, matrix, x, y) for matrix in (copies if few else copies[:1])]
        own = weight.to(kind.dtype)

        def native(calls: list[LinearStruct] = calls) -> None:
            for call in calls:
                functions.llmc_linear(ctypes.byref(call))

        runs: dict[str, Callable[[], object]] = {"native": native}
        if few:
            runs["read"] = memory.sum
        else:
            runs["torch"] = lambda x=x, own=own: torch.nn.functional.linear(x, own)  # type: ignore[misc]
            onednn = prepacked(x, own)
            if onednn is not None:
                runs["onednn"] = onednn
        took = medians(runs, rounds)
        each = took["native"] / len(calls)
        if few:
            beside = {"read": memory.nbytes / took["read"] * 1e-9}
            row_rate, unit = len(first) / each * 1e-9, "GB/s"
        else:
            work = 2e-9 * rows * outputs * inputs
            beside = {name: work / took[name] for name in runs if name != "native"}
            row_rate, unit = work / each, "GFLOP/s"
        report.append(Row(threads, kind.name, outputs, inputs, rows, each * 1e6, row_rate, unit, beside))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shapes", nargs="+", default=["3072x768", "768x3072"], help="outputs x inputs")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one object per line on standard output")
    arguments = parser.parse_args()
    library = cpu.library()
    if isinstance(library, cpu.Absence):
        print(f"no native library: {library.detail}", file=sys.stderr)
        return 1
    functions = library.functions
    print(
        f"{platform.processor() or platform.machine()}, {functions.llmc_processors()} processors, "
        f"{library.isa} ({' '.join(library.features)}), torch {torch.__version__}",
        file=sys.stderr,
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        functions.llmc_set_threads(threads)
        for name in arguments.kinds:
            for shape in arguments.shapes:
                outputs, inputs = (int(part) for part in shape.split("x"))
                for row in measure(functions, KINDS[name], outputs, inputs, threads, arguments.rounds):
                    if arguments.json:
                        print(json.dumps(asdict(row)))
                        continue
                    beside = "  ".join(f"{other} {rate:.0f}" for other, rate in row.beside.items())
                    print(
                        f"{row.threads} threads  {row.kind:13} {shape:>10}  {row.rows:5} rows  "
                        f"{row.microseconds:9.0f} us  {row.rate:7.1f} {row.unit:8} {beside}",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
