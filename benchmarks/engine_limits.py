"""What the machine can do, measured beside the engines in ``engine.py``: reading memory, and products of matrices."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Any

#: Read at a time; well beyond any cache that a few cores have for themselves.
BYTES = 1 << 30
SIZE = 2048


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # huge pages, as whoever streams weights would ask for
        import torch

        torch.set_num_threads(settings["threads"])
        torch.set_grad_enabled(False)
        self.torch, self.threads = torch, settings["threads"]
        self.memory = torch.ones(BYTES // 8, dtype=torch.int64)
        seeded = torch.Generator().manual_seed(1)
        self.products: dict[str, Callable[[], Any]] = {}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            x, w = (torch.randn(SIZE, SIZE, generator=seeded).to(dtype) for _ in range(2))
            self.products[f"{name} default"] = lambda x=x, w=w: torch.nn.functional.linear(x, w)
            if (packed := self._prepacked(x, w)) is not None:
                self.products[f"{name} oneDNN"] = packed
        x, w = (torch.randint(-127, 127, (SIZE, SIZE), dtype=torch.int8) for _ in range(2))
        self.products["int8 default"] = lambda: torch._int_mm(x, w)
        if (packed := self._integers(w)) is not None:
            self.products["int8 oneDNN"] = packed

    def facts(self) -> dict[str, Any]:
        return {"version": self.torch.__version__}

    def limits(self) -> dict[str, float]:
        """Bytes read a second, by the best of two readers; multiplications and additions a second, by the best kernel."""
        found = {"bandwidth": BYTES / min(self._timed(self._find), self._timed(self.memory.sum))}
        for name, product in self.products.items():
            kind = f"{name.split()[0]} product"
            found[kind] = max(found.get(kind, 0.0), 2 * SIZE**3 / self._timed(product))
        return found

    def _timed(self, call: Callable[[], Any], repeats: int = 3) -> float:
        """The shortest of a few: this is a limit, and whatever disturbs only adds."""
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return min(times)

    def _find(self) -> None:
        """Look for a byte that is not there: the C library reads memory as fast as one core can."""
        memchr = ctypes.CDLL(None).memchr
        memchr.argtypes, memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
        start, share = self.memory.data_ptr(), BYTES // self.threads
        readers = [
            threading.Thread(target=memchr, args=(start + i * share, 255, share)) for i in range(self.threads)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    def _prepacked(self, x: Any, w: Any) -> Callable[[], Any] | None:
        """oneDNN's product on a matrix in its own layout, where this torch has it."""
        ops = self.torch.ops.mkldnn
        try:
            packed = ops._reorder_linear_weight(w, SIZE)
            ops._linear_pointwise(x, packed, None, "none", [], "")
        except (AttributeError, RuntimeError):
            return None
        return lambda: ops._linear_pointwise(x, packed, None, "none", [], "")

    def _integers(self, w: Any) -> Callable[[], Any] | None:
        """oneDNN's product of bytes, scaled to fp32, where this torch has it."""
        torch, ops = self.torch, self.torch.ops.onednn
        x = torch.randint(0, 255, (SIZE, SIZE), dtype=torch.uint8)
        scales, zeros = torch.ones(SIZE), torch.zeros(SIZE, dtype=torch.int64)
        try:
            packed = ops.qlinear_prepack(w, [SIZE, SIZE])
        except (AttributeError, RuntimeError):
            return None
        rest = (packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return lambda: ops.qlinear_pointwise(x, 1.0, 128, *rest)
