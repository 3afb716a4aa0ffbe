"""Finding CUDA devices: a driver that answers, is absent, fails, hangs or takes its process with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmasos.api import DeviceUnavailable
from llmasos_cuda import devices, probe
from llmasos_cuda.devices import CudaDevice, Found, answering, find, vanished

DRIVER = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int cuInit(int flags) { INIT; return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strcpy(s, "Imaginary 9000"); return 0; }
int cuDeviceTotalMem_v2(size_t *m, int d) { *m = 80ull << 30; return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { *v = which == 75 ? 9 - 2 * d : which == 76 ? 0 : 132; return 0; }
"""


@pytest.fixture
def driver(tmp_path: Path):
    """Makes a library that answers as a driver does; ``init`` runs when it is started up."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build an imaginary driver with")

    def build(count: int = 2, init: str = "") -> str:
        source, library = tmp_path / "driver.c", tmp_path / "libimaginary.so"
        source.write_text(DRIVER.replace("COUNT", str(count)).replace("INIT", init))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return str(library)

    return build


def test_devices_are_described(driver) -> None:
    found = find(driver())
    assert found == Found(
        (
            CudaDevice("Imaginary 9000", (9, 0), 80 << 30, 132),
            CudaDevice("Imaginary 9000", (7, 0), 80 << 30, 132),
        ),
        13000,
    )
    assert found.devices[0].architecture == "sm_90"


@pytest.mark.parametrize(
    ("count", "init", "problem"),
    [
        (0, "", "finds no device"),
        (2, "return 100", "cuInit failed with 100"),
        (2, "abort()", "ended with -6"),
        (2, "write(1, (char *)0, 1); _exit(0)", "ended with 0"),
    ],
    ids=["none", "fails", "crashes", "says nothing"],
)
def test_a_driver_that_does_not_work_is_a_reason(driver, count: int, init: str, problem: str) -> None:
    found = find(driver(count, init))
    assert found.devices == ()
    assert problem in found.problem


def test_a_driver_that_hangs_is_not_waited_for(driver) -> None:
    begin = time.monotonic()
    found = find(driver(init="sleep(60)"), timeout=0.5)
    assert "did not answer" in found.problem
    assert time.monotonic() - begin < 10


def test_no_driver_is_a_reason() -> None:
    assert "cannot be loaded" in find("libthere-is-no-such-driver.so").problem


def test_asking_loads_no_heavy_modules() -> None:
    text = "import sys, llmasos_cuda.probe as p; p.lines(); print([m for m in ('torch', 'triton', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_doctor_hears_of_old_devices_and_of_missing_kernels(monkeypatch) -> None:
    seen = Found((CudaDevice("Old", (7, 5), 8 << 30, 40), CudaDevice("New", (9, 0), 80 << 30, 132)), 13000)
    monkeypatch.setattr(probe, "found", lambda: seen)
    monkeypatch.setattr(probe, "find_spec", lambda name: None)
    old, new, kernels = probe.lines()
    assert "too old" in old
    assert "too old" not in new
    assert "sm_90, 80 GiB" in new
    assert "pip install" in kernels


def test_hidden_devices_are_a_reason(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_NODES", ("/",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices, "find", lambda: pytest.fail("nobody is to be asked"))
    assert "hides" in devices.found.__wrapped__().problem


# ---- devices that go away ---------------------------------------------------------------------------------------------

GONE = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported at some other API call"


def test_a_device_that_vanishes_is_one_clear_error() -> None:
    with pytest.raises(DeviceUnavailable) as caught, answering("cuda:1"):
        raise RuntimeError(GONE)
    assert caught.value.message == "the device cuda:1 does not answer: CUDA error: unspecified launch failure"
    assert "nvidia-smi" in caught.value.hint


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), answering("cuda"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert vanished(ValueError("CUDA is a brand")) is None
