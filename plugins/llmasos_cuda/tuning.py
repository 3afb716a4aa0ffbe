"""Timing kernels in the sizes that could suit them. What is timed are the cases of the catalogue, with numbers in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton

from llmasos_cuda import catalogue, configurations
from llmasos_cuda.launching import architecture

#: Kernel -> sizes to try. All combinations are tried; those that the device refuses are left out.
CANDIDATES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "attention": {"rows": (32, 64, 128), "keys": (16, 32, 64, 128), "warps": (4, 8), "stages": (1, 2, 3)},
    "head": {
        "rows": (16, 64, 128),
        "outputs": (64, 128, 256),
        "inner": (32, 64),
        "warps": (4, 8),
        "stages": (2, 3, 4),
    },
    "quantised": {
        "rows": (16, 64, 128),
        "outputs": (32, 64, 128),
        "inner": (32, 64),
        "warps": (4, 8),
        "stages": (2, 3),
    },
    "vocabulary": {"block": (1024, 2048, 4096), "warps": (4, 8, 16)},
}
#: A step of decoding has few rows, whatever is best for many; a product of few rows is bound by its weights.
_NARROW: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "attention": {
        "split": (128, 256, 512, 1024),
        "keys": (32, 64, 128),
        "warps": (2, 4, 8),
        "stages": (1, 2, 3),
    },
    "quantised": {"outputs": (16, 32, 64), "inner": (32, 64), "warps": (2, 4), "stages": (2, 3, 4)},
}
_ONE_ROW: Mapping[str, tuple[int, ...]] = {"outputs": (4, 8, 16, 32), "groups": (2, 4, 8), "warps": (2, 4, 8)}
#: Case of the catalogue -> kernel and variant that it decides.
DECIDES: Mapping[str, tuple[str, str]] = {
    "attention.half.64": ("attention", "many.half.64"),
    "attention.half.128": ("attention", "many.half.128"),
    "attention.half.256": ("attention", "many.half.256"),
    "attention.wide.64": ("attention", "many.wide.64"),
    "attention.wide.128": ("attention", "many.wide.128"),
    "decode.half.128": ("attention", "few.half.128"),
    "decode.wide.64": ("attention", "few.wide.64"),
    "logprobs.half": ("head", "plain"),
    "logprobs.wide": ("head", "plain.wide"),
    "int8.1.half": ("quantised", "one.int8"),
    "int4.1.half": ("quantised", "one.int4"),
    "int8.16.wide": ("quantised", "few.int8"),
    "int4.16.wide": ("quantised", "few.int4"),
    "int8.512.wide": ("quantised", "many.int8"),
    "int4.512.wide": ("quantised", "many.int4"),
    "sample": ("vocabulary", "row"),
}


@dataclass(frozen=True)
class Gain:
    """What a kernel gained, in microseconds."""

    kernel: str
    variant: str
    before: float
    after: float
    sizes: str


@dataclass
class Tuned:
    """A table as ``configurations.read`` takes it, and how it came about."""

    table: dict[str, dict[str, dict[str, dict[str, int]]]]
    gains: list[Gain] = field(default_factory=list)


def candidates(kernel: str, variant: str) -> Iterator[dict[str, int]]:
    """Sizes to try for a variant of a kernel."""
    sizes = CANDIDATES[kernel]
    if variant.startswith("few"):
        sizes = _NARROW[kernel]
    elif variant.startswith("one"):
        sizes = _ONE_ROW
    for values in product(*sizes.values()):
        found = dict(zip(sizes, values, strict=True))
        # A group of int4 is taken whole.
        if not (kernel == "quantised" and "int4" in variant and found.get("inner", 32) != 32):
            yield found


def tune_kernels(
    device: str,
    kernels: frozenset[str],
    progress: Any,
    time: Callable[[Callable[[], object]], float] | None = None,
) -> Tuned:
    """The fastest sizes of the ``kernels`` (all, if none is named) on ``device``. ``time`` gives milliseconds of a call."""
    time = time or (lambda call: float(triton.testing.do_bench(call, return_mode="median")))
    here = architecture(torch.empty(0, device=device))
    found = Tuned({here: {}})
    wanted = {case: place for case, place in DECIDES.items() if not kernels or place[0] in kernels}
    total = sum(1 + len(list(candidates(*place))) for place in wanted.values())
    progress.phase("timing kernels", total)
    cases = {case.name: case for case in catalogue.cases()}
    for name, (kernel, variant) in wanted.items():
        run = cases[name].build(catalogue.Maker(device))
        before = time(run)
        progress.advance()
        best, sizes = before, dict(configurations.settings(here, kernel, variant))
        for tried in candidates(kernel, variant):
            with configurations.trying(here, kernel, variant, tried):
                try:
                    taken = time(run)
                except triton.runtime.errors.OutOfResources:
                    taken = float("inf")
            progress.advance()
            if taken < best:
                best, sizes = taken, {**sizes, **tried}
        found.table[here].setdefault(kernel, {})[variant] = sizes
        shown = ", ".join(f"{key} {value}" for key, value in sizes.items())
        found.gains.append(Gain(kernel, variant, round(1000 * before, 1), round(1000 * best, 1), shown))
    return found


def write(path: Path, table: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]) -> None:
    """Write a table of configurations, whole or not at all."""
    lines = ["# Written by `llmasos backend tune`."]
    for name, kernels in table.items():
        for kernel, variants in kernels.items():
            for variant, sizes in variants.items():
                lines += ["", f'[{name}.{kernel}."{variant}"]']
                lines += [f"{key} = {value}" for key, value in sorted(sizes.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
