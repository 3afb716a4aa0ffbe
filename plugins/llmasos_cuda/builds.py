"""Kernels compiled ahead of time for any architecture, without a device, and what the machine code says of itself.

Signatures are those of launches that were written down (``launching.recorded``), specialised as Triton does when it runs them.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmasos_cuda.launching import Launch

#: Shared memory that one program may have, in bytes (CUDA C++ Programming Guide, table of technical specifications).
SHARED_LIMITS = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376}
ARCHITECTURES = tuple(SHARED_LIMITS)

_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
#: Instructions of tensor cores: mma of Ampere, of Hopper's warp groups, of Blackwell's tensor memory; integers and sparse too.
_TENSOR_CORE = re.compile(r"\b(?:HMMA|IMMA|QMMA|HGMMA|IGMMA|QGMMA|UTC[A-Z]*MMA|OMMA)\b")


@dataclass(frozen=True, slots=True)
class Build:
    """What a kernel became for one architecture. ``shared`` and ``spills`` are bytes, of a program and of a thread."""

    architecture: str
    warps: int
    registers: int
    shared: int
    #: Registers that had to go through memory.
    spills: int
    #: Instructions in the code: of tensor cores, and all.
    tensor_core: int
    instructions: int


def compile_launch(launch: Launch, architecture: str) -> Build:
    """Compile the kernel of a launch. Raises RuntimeError where the tools that come with triton refuse the result."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(launch.constants)
    attributes: dict[tuple[int, ...], Any] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        kind, aligned = _type_of(launch.arguments[name])
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = launch.arguments[name]
        elif aligned:
            attributes[index,] = [["tt.divisibility", 16]]
    number = int(architecture.removeprefix("sm_"))
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": True}
    source = ASTSource(launch.kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", number, 32), options=options)
    with tempfile.TemporaryDirectory(prefix="llmasos-cubin-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(made.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(path))
        code = _instructions(_tool("nvdisasm", "-c", str(path)))
    return Build(
        architecture=architecture,
        warps=launch.warps,
        registers=_figure(usage, "REG"),
        # A launch asks for it; what the file says is what the system reserves.
        shared=int(made.metadata.shared),
        # Triton's kernels have no other use for the stack.
        spills=4 * max(code["STL"], code["LDL"]),
        tensor_core=sum(count for name, count in code.items() if _TENSOR_CORE.fullmatch(name)),
        instructions=sum(code.values()),
    )


def _type_of(value: Any) -> tuple[str, bool]:
    """(type in a signature, whether a multiple of 16), as Triton sees an argument of a launch."""
    if value is None:
        return "constexpr", False
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype], True
    if isinstance(value, float):
        return "fp32", False
    if value == 1:
        return "constexpr", False
    return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0


def _tool(name: str, *arguments: str) -> str:
    """What one of the programs in triton's wheel says of a file."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _figure(usage: str, name: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", usage)
    return int(found[1]) if found else 0


def _instructions(listing: str) -> Counter[str]:
    """How often each instruction occurs in a listing of machine code, by its name without modifiers."""
    found = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", listing, re.MULTILINE)
    return Counter(found)
