"""Programs of the native library: a forward pass as a list of steps, checked once and run in one call.

Letters: N tokens, R wanted rows, Hk key/value heads, E head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmasos.api import EvaluationError, WeightsError
from llmasos_cpu.structures import (
    ELEMENT_TYPES,
    BufferStruct,
    FilledLayout,
    PassStruct,
    StepStruct,
)

if TYPE_CHECKING:
    from llmasos.api import AttentionLayout


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of past tokens: slabs [layers, rows, Hk * E], and where the new tokens go, [N] int64."""

    keys: Tensor
    values: Tensor
    rows: Tensor


class Program:
    """A checked list of steps, and ``kept``, the weights that it points at. Thread-safe.

    One buffer is external: its rows are the result. Raises WeightsError for steps that do not fit together.
    """

    def __init__(
        self, functions: Any, steps: Sequence[StepStruct], buffers: Sequence[BufferStruct], kept: object
    ) -> None:
        self._functions = functions
        self._kept = kept
        self._width = int(next(buffer.width for buffer in buffers if buffer.external))
        self._handle = ctypes.c_void_p()
        status = functions.llmc_program_new(
            (StepStruct * len(steps))(*steps),
            len(steps),
            (BufferStruct * len(buffers))(*buffers),
            len(buffers),
            ctypes.byref(self._handle),
        )
        if status:
            raise WeightsError(f"the native program of this model is refused: {_text(functions, status)}")

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._functions.llmc_program_free(handle)

    def run(
        self,
        tokens: Tensor,
        positions: Tensor,
        layout: AttentionLayout,
        *,
        types: Tensor | None = None,
        cache: Cache | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The result [N, D] float32 of a pass over N packed tokens, or [R, D] of the rows ``wanted`` [R]; all tensors of whole
        numbers are contiguous int64 on the CPU.

        Raises EvaluationError for what does not fit the model or the layout.
        """
        count = tokens.shape[0]
        rows = count if wanted is None else wanted.shape[0]
        if wanted is not None and rows == 0:
            wanted = torch.zeros(1, dtype=torch.int64)  # an address, for none would mean all rows
        filled = FilledLayout(layout)
        struct = PassStruct(
            rows=count,
            tokens=tokens.data_ptr(),
            positions=positions.data_ptr(),
            types=None if types is None else types.data_ptr(),
            layout=ctypes.addressof(filled.struct),
            wanted=None if wanted is None else wanted.data_ptr(),
            wanted_count=rows,
        )
        if cache is not None:
            struct.keys = cache.keys.data_ptr()
            struct.values = cache.values.data_ptr()
            struct.cache_rows = cache.rows.data_ptr()
            struct.cache_count = cache.keys.shape[1]
            struct.layer_stride = cache.keys.stride(0)
            struct.cache_type = ELEMENT_TYPES[str(cache.keys.dtype)]
            struct.layers = cache.keys.shape[0]
        output = torch.empty(max(rows, 1), self._width)  # always with an address
        struct.output, struct.output_stride = output.data_ptr(), self._width
        status = self._functions.llmc_program_run(self._handle, ctypes.byref(struct))
        if status:
            raise EvaluationError(
                f"a pass over {count} tokens is refused: {_text(self._functions, status)}",
                hint="tokens, positions and cache rows must lie inside their tables",
            )
        return output[:rows]


def _text(functions: Any, status: int) -> str:
    return str(functions.llmc_status_text(status).decode())
