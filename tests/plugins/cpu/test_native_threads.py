"""The pool of threads: counts, affinity, forks, callers side by side; and finding the library at all."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from native_builds import built, native

from llmasos_cpu import library as cpu

BAD_ARGUMENT = -1


@pytest.fixture
def functions() -> ctypes.CDLL:
    library = cpu.find(built())
    assert isinstance(library, cpu.Library)
    return library.functions


def test_every_region_and_barrier_is_passed_by_all_threads(functions: ctypes.CDLL) -> None:
    for count in (1, 2, 5, 2):
        assert functions.llmc_set_threads(count) == cpu.OK
        assert functions.llmc_threads() == count
        assert functions.llmc_threads_cost(50, 0) > 0
        assert functions.llmc_threads_cost(50, 1) > 0
    for count in (0, -1, 257):
        assert functions.llmc_set_threads(count) == BAD_ARGUMENT
    assert functions.llmc_threads() == 2


def test_sleeping_threads_wake_up(functions: ctypes.CDLL) -> None:
    assert functions.llmc_set_threads(3) == cpu.OK
    assert functions.llmc_set_spin(0) == cpu.OK
    assert functions.llmc_threads_cost(200, 0) > 0
    assert functions.llmc_threads_cost(200, 1) > 0
    assert functions.llmc_set_spin(1000) == cpu.OK
    assert functions.llmc_set_spin(-1) == BAD_ARGUMENT
    assert functions.llmc_set_threads(2) == cpu.OK


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is a matter of Linux")
def test_workers_run_where_they_are_pinned(functions: ctypes.CDLL) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    wanted = allowed[-1]
    assert functions.llmc_processors() == len(allowed)
    assert functions.llmc_set_threads(3) == cpu.OK
    processors = (ctypes.c_int32 * 1)(wanted)
    assert functions.llmc_set_affinity(ctypes.byref(processors), 1) == cpu.OK
    assert functions.llmc_threads_cost(3, 0) > 0
    seen = (ctypes.c_int32 * 8)()
    assert functions.llmc_thread_processors(ctypes.byref(seen), 8) == 3
    assert list(seen)[1:3] == [wanted, wanted]
    assert functions.llmc_set_affinity(None, 0) == cpu.OK
    assert functions.llmc_set_affinity(None, 1) == BAD_ARGUMENT
    assert functions.llmc_set_threads(2) == cpu.OK


def test_a_forked_child_makes_its_own_pool() -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from llmasos_cpu.library import find\n"
        "f = find(Path(sys.argv[1])).functions\n"
        "f.llmc_set_threads(2)\n"
        "f.llmc_threads_cost(5, 0)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(7 if f.llmc_threads_cost(5, 1) > 0 and f.llmc_threads() == 2 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), f.llmc_threads_cost(5, 0) > 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cpu.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(built())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["7", "True"], done.stderr


def test_callers_from_several_threads_do_not_wait_for_each_other(functions: ctypes.CDLL) -> None:
    costs: list[float] = []
    callers = [
        threading.Thread(target=lambda: costs.append(functions.llmc_threads_cost(100, 0))) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(costs) == 4


def test_the_library_says_what_it_uses() -> None:
    portable = native("portable")
    assert portable.llmc_isa() == b"portable"
    portable.llmc_features.restype = ctypes.c_char_p
    assert portable.llmc_features() == b""
    library = cpu.find(built())
    assert isinstance(library, cpu.Library)
    assert library.machine_isa in ("portable", "avx2", "avx512", "amx")
    assert "null pointer" in library.explain(BAD_ARGUMENT)
    assert "unknown" in library.explain(-77)


def test_a_missing_library_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = cpu.find(tmp_path / "_native.so")
    assert isinstance(absent, cpu.Absence)
    assert absent.reason == "not-built"
    (tmp_path / "_native.so").write_bytes(b"not a library")
    broken = cpu.find(tmp_path / "_native.so")
    assert isinstance(broken, cpu.Absence)
    assert broken.reason == "unloadable"
    monkeypatch.setattr(cpu, "ABI", 99)
    other = cpu.find(built())
    assert isinstance(other, cpu.Absence)
    assert (other.reason, "99" in other.detail) == ("wrong-abi", True)
    monkeypatch.setenv("LLMASOS_CPU_NATIVE", "0")
    off = cpu.find(built())
    assert isinstance(off, cpu.Absence)
    assert off.reason == "switched-off"
