"""The CPU back end: which kernels it uses here, and how it lays out weights for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llmasos.api import BlockWeight, PackedWeight, StackPlan, StackRunner, TrainingKernels
from llmasos_cpu import onednn, packing
from llmasos_cpu.allocator import keep_memory
from llmasos_cpu.library import Absence, library
from llmasos_cpu.stack import compile_stack, takes

#: How the native library keeps matrices, by the element type of a model.
_KINDS = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8", "int4": "q4_1"}


class CpuBackend:
    """Lays out weights and computes whole stacks; what is best for an element type is found out when it is prepared for it."""

    def __init__(self) -> None:
        self._native = library()
        #: What the library packs without the numbers of a whole matrix in memory.
        self.block_types = frozenset[str]() if isinstance(self._native, Absence) else packing.BLOCK_TYPES
        #: Whether oneDNN lays weights out, where there is no native library.
        self._onednn = False
        #: How the native library keeps matrices.
        self._kind = "fp32"
        self._facts: dict[str, str] = {}

    def devices(self) -> tuple[str, ...]:
        """There is always one."""
        return ("cpu",)

    def dtypes(self, device: str) -> tuple[str, ...]:
        """No float16: processors compute it many times slower than float32. Quantised weights need the library."""
        if device != "cpu":
            return ()
        return ("float32", "bfloat16") if isinstance(self._native, Absence) else tuple(_KINDS)

    def prepare(self, device: str, dtype: str, folder: Path) -> None:
        """Choose the kernels for an element type, and tell the allocator to keep what is freed."""
        self._facts = {"memory": keep_memory()}
        self._kind = _KINDS[dtype]
        if isinstance(self._native, Absence):
            element: torch.dtype = getattr(torch, dtype)
            reason = onednn.refusal(element)
            if reason is None:
                self._onednn, reason = onednn.is_faster(element, folder)
            self._facts |= {"native": self._native.detail, "oneDNN": reason}
        else:
            self._facts["native"] = f"{self._native.isa} ({' '.join(self._native.features)})"

    def pack(self, weight: Tensor | BlockWeight, lookup: bool) -> Tensor | PackedWeight:
        """``weight`` in the layout that is fastest here."""
        if not isinstance(self._native, Absence):
            # Four bits are too few for a table that is looked up and is the vocabulary's head as well.
            kind = "int8" if lookup and self._kind == "q4_1" else self._kind
            return packing.pack(self._native, weight, kind)
        assert isinstance(weight, Tensor)  # blocks are for quantised weights, which need the library
        return onednn.pack(weight, lookup) if self._onednn else weight

    def stack(self, plan: StackPlan) -> StackRunner | None:
        """The layers as one native program; None where there is no library or the program lacks something."""
        if isinstance(self._native, Absence) or not takes(plan):
            return None
        return compile_stack(self._native, plan, self._kind)

    def training(self, device: str, dtype: str) -> TrainingKernels:
        """Ops with derivatives."""
        from llmasos_cpu.training import CpuTrainingKernels

        return CpuTrainingKernels(half=dtype == "bfloat16")

    def facts(self) -> Mapping[str, str]:
        """For ``llmasos backend info``."""
        tier = "oneDNN" if self._onednn else "plain torch"
        return {
            "tier": tier if isinstance(self._native, Absence) else "native",
            "threads": str(torch.get_num_threads()),
            **self._facts,
        }
