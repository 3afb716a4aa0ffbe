"""The native library, compiled once for the test run and loaded once for each instruction set of the machine."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

import llmasos_cpu

#: Instruction sets there are kernels for; a machine without one of them skips its tests.
LEVELS = ("portable", "avx2", "avx512")


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="llmasos-native-"))


@functools.cache
def built() -> Path:
    """The library of this checkout; objects of unchanged sources are taken from the last build."""
    source = Path(llmasos_cpu.__file__).parent / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("llmasos_native_build", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.compiler()
    except module.BuildError as error:
        pytest.skip(str(error))
    return module.build(_folder() / "library.so", source.parents[3] / "build" / "native")


@functools.cache
def native(level: str) -> ctypes.CDLL:
    """The library held to one instruction set. Each is a copy of the file, for a library settles on its set only once."""
    path = _folder() / f"library-{level}.so"
    shutil.copy(built(), path)
    before = os.environ.get("LLMASOS_CPU_ISA")
    os.environ["LLMASOS_CPU_ISA"] = level
    try:
        library = ctypes.CDLL(str(path))
        library.llmc_isa.restype = ctypes.c_char_p
        library.llmc_machine_isa.restype = ctypes.c_char_p
        chosen = library.llmc_isa().decode()
    finally:
        if before is None:
            del os.environ["LLMASOS_CPU_ISA"]
        else:
            os.environ["LLMASOS_CPU_ISA"] = before
    if chosen != level:
        pytest.skip(f"this machine has no {level}")
    assert library.llmc_set_threads(2) == 0
    return library
