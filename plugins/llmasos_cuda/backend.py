"""The CUDA back end: which devices it drives, how it keeps weights, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llmasos.api import DeviceUnavailable, PackedWeight, StackPlan, StackRunner
from llmasos_cuda.devices import CudaDevice, answering, found

if TYPE_CHECKING:
    from torch import Tensor

#: The least that its kernels are compiled for: Ampere, the first with bfloat16 and tf32.
LOWEST = (8, 0)
_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
_BITS = {"int8": 8, "int4": 4}


class CudaBackend:
    """Computes with Triton kernels and cuBLAS. Asking for its devices loads neither torch nor triton."""

    def __init__(self) -> None:
        self._dtype = "float32"
        self._device = "cuda"
        self._facts: dict[str, str] = {}

    def devices(self) -> tuple[str, ...]:
        """``cuda`` where the driver has a device that is new enough, and torch is built for it."""
        return ("cuda",) if self._usable() and _torch_has_cuda() else ()

    def dtypes(self, device: str) -> tuple[str, ...]:
        """Element types, best first; ``cuda:1`` is a ``cuda``. Quantised weights need triton."""
        if device.partition(":")[0] != "cuda" or not self.devices():
            return ()
        return _DTYPES if find_spec("triton") is not None else _DTYPES[:3]

    def prepare(self, device: str, dtype: str, folder: Path) -> None:
        """Make sure that the device answers, and take the sizes of kernels that were tuned for it.

        Raises DeviceUnavailable for a device that does not answer, or that is not there.
        """
        import torch

        self._device, self._dtype = device, dtype
        if device.partition(":")[0] == "cuda":
            index = int(device.partition(":")[2] or 0)
            here = found().devices
            if index >= len(here):
                raise DeviceUnavailable(
                    f"there is no device {device}: the driver has {len(here)}",
                    hint="`llmasos doctor` lists them; CUDA_VISIBLE_DEVICES hides some",
                )
            with answering(device):
                torch.zeros(1, device=device).item()
            self._facts = _device_facts(here[index])
        self._facts["torch"] = torch.__version__
        self._facts |= _kernel_facts(folder)

    def pack(self, weight: Tensor, lookup: bool) -> Tensor | PackedWeight:
        """``weight`` in 8 or 4 bits where that was asked for, else itself: cuBLAS reads it as it is."""
        bits = _BITS.get(self._dtype)
        if bits is None:
            return weight
        from llmasos_cuda.quantisation import quantise

        # Four bits are too few for a table that is looked up and is the vocabulary's head as well.
        with answering(self._device):
            return quantise(weight, 8 if lookup else bits)

    def stack(self, plan: StackPlan) -> StackRunner | None:
        """The layers with what lies between the matrices fused; None without triton."""
        if find_spec("triton") is None:
            return None
        from llmasos_cuda.graphs import CudaRecorder, Graphs
        from llmasos_cuda.stack import CudaStack

        graphs = Graphs(CudaRecorder()) if use_graphs() and self._device.startswith("cuda") else None
        with answering(self._device):
            return CudaStack(plan, _BITS.get(self._dtype), graphs)

    def facts(self) -> Mapping[str, str]:
        """For ``llmasos backend info``."""
        graphs = "decode steps" if use_graphs() else "off: LLMASOS_CUDA_GRAPHS=0 is set"
        return {**self._facts, "graphs": graphs}

    def _usable(self) -> bool:
        return any(device.capability >= LOWEST for device in found().devices)


def use_graphs() -> bool:
    """Whether steps of decoding are recorded as graphs."""
    return os.environ.get("LLMASOS_CUDA_GRAPHS") != "0"


def _torch_has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None


def _device_facts(device: CudaDevice) -> dict[str, str]:
    size = f"{device.memory / 2**30:.0f} GiB, {device.processors} processors"
    return {"device": f"{device.name}, {device.architecture}, {size}"}


def _kernel_facts(folder: Path) -> dict[str, str]:
    if find_spec("triton") is None:
        return {"kernels": "absent: triton is not installed; pip install 'llmasos[cuda]'"}
    import triton

    from llmasos_cuda.configurations import adopt

    tuned = adopt(folder)
    return {
        "kernels": f"triton {triton.__version__}, sizes {'tuned here: ' + str(tuned) if tuned else 'as shipped'}"
    }
