"""Matrices of weights in the native library's panels: multiplied with any number of rows, looked up by row.

Letters: N tokens, O outputs, I inputs.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from llmasos_cpu.library import Library
from llmasos_cpu.structures import ELEMENT_TYPES, HeadStruct, LinearStruct


@dataclass(frozen=True, slots=True, eq=False)
class NativeMatrix:
    """A ``PackedWeight`` [O, I]; ``data`` describes itself and may be kept in a file."""

    library: Library
    data: Tensor
    kind: str
    outputs: int
    inputs: int
    #: Element type of rows that are looked up.
    element: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.data.nbytes)

    def rows(self, indices: Tensor) -> Tensor:
        """Rows ``indices`` [N] int64 as numbers: [N, I]. Raises IndexError for one that is not there."""
        out = torch.empty(len(indices), self.inputs, dtype=self.element)
        wanted = indices.contiguous()
        status = self.library.functions.llmc_matrix_gather(
            self.data.data_ptr(),
            wanted.data_ptr(),
            len(wanted),
            ELEMENT_TYPES[str(self.element)],
            out.data_ptr(),
            self.inputs,
        )
        if status:
            raise IndexError(f"rows of a matrix of {self.outputs}: {self.library.explain(status)}")
        return out

    def plain(self) -> Tensor:
        """The numbers it stands for: [O, I]."""
        return self.rows(torch.arange(self.outputs))

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [N, I] @ Wᵀ + bias [O] -> [N, O], in the element type of x."""
        x = rows_contiguous(x)
        out = torch.empty(x.shape[0], self.outputs, dtype=x.dtype)
        wide = None if bias is None else bias.float().contiguous()
        call = LinearStruct(
            matrix=self.data.data_ptr(),
            x=x.data_ptr(),
            y=out.data_ptr(),
            bias=None if wide is None else wide.data_ptr(),
            rows=x.shape[0],
            x_stride=x.stride(0),
            y_stride=self.outputs,
            x_type=ELEMENT_TYPES[str(x.dtype)],
            y_type=ELEMENT_TYPES[str(x.dtype)],
        )
        self.library.use_threads(torch.get_num_threads())
        status = self.library.functions.llmc_linear(ctypes.byref(call))
        if status:
            raise ValueError(
                f"{list(x.shape)} by [{self.outputs}, {self.inputs}]: {self.library.explain(status)}"
            )
        return out


def rows_contiguous(x: Tensor) -> Tensor:
    """``x`` itself where its rows have no gaps inside, else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def token_logprobs(
    x: Tensor, weight: NativeMatrix, bias: Tensor | None, targets: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [M] float32 of ``targets`` [M] and the arg-max [M] of the rows they belong to, as in ``Ops``."""
    x, wide = rows_contiguous(x), None if bias is None else bias.float().contiguous()
    wanted = targets.contiguous()
    places = None if rows is None else rows.contiguous()
    logprobs = torch.empty(len(targets), dtype=torch.float32)
    best = torch.empty(len(x), dtype=torch.int64)
    call = HeadStruct(
        matrix=weight.data.data_ptr(),
        x=x.data_ptr(),
        bias=None if wide is None else wide.data_ptr(),
        targets=wanted.data_ptr(),
        target_rows=None if places is None else places.data_ptr(),
        logprobs=logprobs.data_ptr(),
        best=best.data_ptr(),
        rows=len(x),
        x_stride=x.stride(0),
        target_count=len(targets),
        x_type=ELEMENT_TYPES[str(x.dtype)],
    )
    weight.library.use_threads(torch.get_num_threads())
    status = weight.library.functions.llmc_head(ctypes.byref(call))
    if status:
        raise ValueError(
            f"{len(targets)} targets after {list(x.shape)}, a vocabulary of {weight.outputs}: "
            f"{weight.library.explain(status)}"
        )
    return logprobs, best if rows is None else best[rows]
