"""Which CUDA devices there are, asked of the driver in a process of its own: a driver may hang or take the process with it.

Run as a program it is that process. It imports nothing but the standard library, so it takes some hundredths of a second.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
#: A driver that starts devices up may take seconds; one that hangs takes for ever.
TIMEOUT = 20.0
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _PROCESSORS = 75, 76, 16
#: One of these is there where the driver is loaded: on Linux, and on Linux within Windows.
_NODES = ("/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """What the driver says of a device."""

    name: str
    capability: tuple[int, int]
    memory: int
    processors: int

    @property
    def architecture(self) -> str:
        """``sm_90`` and its like."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True, slots=True)
class Found:
    """The devices, and where there are none the reason."""

    devices: tuple[CudaDevice, ...]
    driver: int = 0
    problem: str = ""


def find(library: str = LIBRARY, timeout: float = TIMEOUT) -> Found:
    """Ask the driver. Never raises: what goes wrong is the ``problem``."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__, library],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Found((), problem=f"the CUDA driver did not answer within {timeout:.0f} s")
    except OSError as error:
        return Found((), problem=f"the CUDA driver cannot be asked: {error}")
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
        devices = tuple(
            CudaDevice(one["name"], (one["major"], one["minor"]), one["memory"], one["processors"])
            for one in answer["devices"]
        )
        return Found(devices, answer["driver"], answer["problem"])
    except (ValueError, KeyError, TypeError):
        return Found((), problem=f"asking the CUDA driver ended with {done.returncode}")


@functools.cache
def found() -> Found:
    """What ``find()`` finds, once per process; nobody is asked where the system itself shows no device."""
    if sys.platform == "linux" and not any(os.path.exists(path) for path in _NODES):
        return Found((), problem="this system has no NVIDIA device (there is no /dev/nvidiactl)")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Found((), problem="CUDA_VISIBLE_DEVICES hides all devices")
    return find()


def vanished(error: BaseException) -> str | None:
    """What the driver said, where an error is a device's and not the program's."""
    text = " ".join(str(error).split())
    from_torch = type(error).__name__ == "AcceleratorError" or "CUDA error" in text or "CUDA driver" in text
    return text.partition(" CUDA kernel errors")[0][:300] if from_torch else None


@contextmanager
def answering(device: object) -> Iterator[None]:
    """Within it, a device that stops answering is one clear error. Raises DeviceUnavailable."""
    try:
        yield
    except RuntimeError as error:
        said = vanished(error)
        if said is None:
            raise
        from llmasos.api import DeviceUnavailable

        raise DeviceUnavailable(
            f"the device {device} does not answer: {said}",
            hint="`nvidia-smi` shows its state; what was finished is kept, and --device cpu needs no GPU",
        ) from None


# ---- the process that asks --------------------------------------------------------------------------------------------


def _ask(library: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"devices": [], "driver": 0, "problem": ""}
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return nothing | {"problem": f"there is no CUDA driver ({library} cannot be loaded)"}

    def call(name: str, *arguments: Any) -> None:
        status = getattr(driver, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} failed with {status}")

    number = ctypes.c_int()

    def attribute(which: int, device: ctypes.c_int) -> int:
        call("cuDeviceGetAttribute", ctypes.byref(number), which, device)
        return number.value

    try:
        call("cuInit", 0)
        call("cuDriverGetVersion", ctypes.byref(number))
        version = number.value
        call("cuDeviceGetCount", ctypes.byref(number))
        devices = []
        for index in range(number.value):
            device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
            call("cuDeviceGet", ctypes.byref(device), index)
            call("cuDeviceGetName", name, len(name), device)
            call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
            devices.append(
                {
                    "name": name.value.decode(errors="replace"),
                    "major": attribute(_CAPABILITY_MAJOR, device),
                    "minor": attribute(_CAPABILITY_MINOR, device),
                    "memory": memory.value,
                    "processors": attribute(_PROCESSORS, device),
                }
            )
    except (RuntimeError, AttributeError) as error:
        return nothing | {"problem": f"the CUDA driver does not work: {error}"}
    problem = "" if devices else "the CUDA driver finds no device"
    return {"devices": devices, "driver": version, "problem": problem}


if __name__ == "__main__":
    print(json.dumps(_ask(sys.argv[1])))
