"""What ``llmasos doctor`` says of this back end. Imports neither torch nor triton."""

from __future__ import annotations

from importlib.util import find_spec

from llmasos_cuda.backend import LOWEST
from llmasos_cuda.devices import found


def lines() -> list[str]:
    """The devices, or why there is none that it could drive."""
    seen = found()
    if not seen.devices:
        return [f"not used: {seen.problem}"]
    told = [
        f"{index}: {one.name}, {one.architecture}, {one.memory / 2**30:.0f} GiB, {one.processors} processors"
        + ("" if one.capability >= LOWEST else "; too old for its kernels")
        for index, one in enumerate(seen.devices)
    ]
    if find_spec("triton") is None:
        told.append("without its kernels: triton is not installed; pip install 'llmasos[cuda]'")
    return told
