"""The native library of kernels, loaded through ctypes: found beside the package, or a reason why it is absent.

The library has a plain C interface (`native/llmasos_cpu.h`) and knows nothing of Python or PyTorch. It is compiled when
the wheel is built and is optional: without it the back end runs on PyTorch's own operators.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

ABI = 1
NAME = "_native.so"

OK = 0

MATRIX_KINDS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3, "q4_1": 4, "q4_k": 5}
SOURCES = {"fp32": 0, "bf16": 1, "fp16": 2, "q8_0": 3, "q4_0": 4, "q4_1": 5, "q4_k": 6}
_POINTER, _I32, _I64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
# Name -> result, arguments.
FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "llmc_abi": (_I32, ()),
    "llmc_isa": (ctypes.c_char_p, ()),
    "llmc_machine_isa": (ctypes.c_char_p, ()),
    "llmc_features": (ctypes.c_char_p, ()),
    "llmc_status_text": (ctypes.c_char_p, (_I32,)),
    "llmc_processors": (_I32, ()),
    "llmc_threads": (_I32, ()),
    "llmc_set_threads": (_I32, (_I32,)),
    "llmc_set_affinity": (_I32, (_POINTER, _I32)),
    "llmc_thread_processors": (_I32, (_POINTER, _I32)),
    "llmc_set_spin": (_I32, (_I32,)),
    "llmc_threads_cost": (ctypes.c_double, (_I32, _I32)),
    "llmc_matrix_bytes": (_I64, (_I32, _I32, _I64, _I64)),
    "llmc_matrix_begin": (_I32, (_I32, _I32, _I64, _I64, _POINTER, _I64)),
    "llmc_matrix_set_rows": (_I32, (_POINTER, _I64, _I64, _I64, _I32, _POINTER, _I64)),
    "llmc_matrix_describe": (_I32, (_POINTER, _I64, _POINTER)),
    "llmc_matrix_gather": (_I32, (_POINTER, _POINTER, _I64, _I32, _POINTER, _I64)),
    "llmc_linear": (_I32, (_POINTER,)),
    "llmc_linears": (_I32, (_POINTER, _I32)),
    "llmc_attention": (_I32, (_POINTER, _POINTER)),
    "llmc_norm": (_I32, (_POINTER,)),
    "llmc_rotary": (_I32, (_POINTER,)),
    "llmc_activation": (_I32, (_POINTER,)),
    "llmc_head": (_I32, (_POINTER,)),
    "llmc_program_new": (_I32, (_POINTER, _I32, _POINTER, _I32, _POINTER)),
    "llmc_program_free": (None, (_POINTER,)),
    "llmc_program_run": (_I32, (_POINTER, _POINTER)),
    "llmc_program_profile": (None, (_POINTER,)),
}


@dataclass(frozen=True)
class Absence:
    """Why there is no native library: a word to test for, a sentence to print."""

    reason: str  # "not-built", "unloadable", "wrong-abi" or "switched-off"
    detail: str


@dataclass(frozen=True)
class Library:
    """The loaded library: `functions` is the ctypes handle with every signature declared."""

    path: Path
    functions: ctypes.CDLL

    @property
    def isa(self) -> str:
        """Level of instructions in use: "portable", "avx2", "avx512" or "amx"."""
        return str(self.functions.llmc_isa().decode())

    @property
    def machine_isa(self) -> str:
        """Highest level of this machine; `isa` is lower when LLMASOS_CPU_ISA asks for it."""
        return str(self.functions.llmc_machine_isa().decode())

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.functions.llmc_features().decode().split())

    def use_threads(self, count: int) -> None:
        """Compute with `count` threads, the caller included."""
        if self.functions.llmc_threads() != count:
            self.functions.llmc_set_threads(count)

    def explain(self, status: int) -> str:
        """The library's words for a status."""
        return str(self.functions.llmc_status_text(status).decode())


def find(path: Path | None = None) -> Library | Absence:
    """The library beside the package (or at `path`), loaded; or why there is none. Never raises."""
    path = path or Path(__file__).with_name(NAME)
    if os.environ.get("LLMASOS_CPU_NATIVE") == "0":
        return Absence("switched-off", "LLMASOS_CPU_NATIVE=0 is set")
    if not path.is_file():
        return Absence(
            "not-built",
            f"{path.name} is not beside the package: llmasos was installed from source without a C++ compiler, or no "
            f"wheel was built for {platform.system()} {platform.machine()}",
        )
    try:
        functions = ctypes.CDLL(str(path))
        abi = functions.llmc_abi
    except (OSError, AttributeError) as error:
        return Absence("unloadable", f"{path.name} cannot be loaded: {error}")
    if abi() != ABI:
        return Absence("wrong-abi", f"{path.name} has interface {abi()}, this version of llmasos needs {ABI}")
    try:
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(functions, name)
            function.restype = result
            function.argtypes = arguments
    except AttributeError as error:
        return Absence("unloadable", f"{path.name} is incomplete: {error}")
    return Library(path, functions)


@functools.cache
def library() -> Library | Absence:
    """`find()`, once per process."""
    return find()
