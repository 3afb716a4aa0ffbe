"""The ``reference`` back end: whatever torch itself can run on."""

from __future__ import annotations

import torch


class ReferenceBackend:
    """Plain torch on the devices torch reports, accelerators first."""

    def devices(self) -> tuple[str, ...]:
        """``cuda`` and ``mps`` where present, and always ``cpu``."""
        found = []
        if torch.cuda.is_available():
            found.append("cuda")
        if torch.backends.mps.is_available():
            found.append("mps")
        return (*found, "cpu")

    def dtypes(self, device: str) -> tuple[str, ...]:
        """Element types, best first; none for a device that is not there. ``cuda:1`` is a ``cuda``.

        No float16 on the CPU, where torch computes it many times slower than float32.
        """
        kind = device.partition(":")[0]
        if kind not in self.devices():
            return ()
        return ("float32", "bfloat16") if kind == "cpu" else ("float32", "bfloat16", "float16")
