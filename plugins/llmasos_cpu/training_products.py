"""The three products of a linear layer in training, with weights and activations that change at every step.

Each product wants one side packed in the native library's panels: the weight for the forward pass, its transpose for the
gradient of the input, the transposed input for the gradient of the weight. A matrix is packed when it is needed and let go:
that costs one pass over it, a few hundredths of the product, and nothing can become stale when an optimiser writes weights.

Letters: N rows, O outputs, I inputs.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from llmasos_cpu.library import MATRIX_KINDS, SOURCES, Absence, Library, library
from llmasos_cpu.matrices import NativeMatrix, rows_contiguous
from llmasos_cpu.structures import ELEMENT_TYPES, LinearStruct

#: Outputs of a panel.
PANEL = 32
#: Bytes in front of the first panel.
_HEADER = 128
#: Rows from which a product is worth the packing of its other side.
_FEW = 16


@dataclass(frozen=True, slots=True)
class Products:
    """Products of float32 tensors.

    float32 products of the library do not depend on the number of threads. With ``half``, torch multiplies factors rounded to
    bfloat16, with sums in float32 that are rounded to bfloat16 at the end.
    """

    half: bool
    #: None: torch computes.
    native: Library | None

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]."""
        if self._by_torch(x.shape[0], weight):
            found = self._torch(x, weight.t())
            return found if bias is None else found.add_(bias)
        return self.product(x, self.packed(weight), bias)

    def input_slope(self, slope: Tensor, weight: Tensor) -> Tensor:
        """slope [N, O] @ weight [O, I] -> [N, I]."""
        if self._by_torch(slope.shape[0], weight):
            return self._torch(slope, weight)
        return self.product(slope, self.packed_transpose(weight), None)

    def weight_slope(self, slope: Tensor, x: Tensor) -> Tensor:
        """slope [N, O]ᵀ @ x [N, I] -> [O, I]."""
        if self.half:
            return (transposed(slope.bfloat16()) @ x.bfloat16()).float()
        if self._by_torch(slope.shape[1], x):
            return slope.t() @ x
        return self.product(transposed(slope), self.packed_transpose(x), None)

    def packed(self, matrix: Tensor) -> NativeMatrix:
        """``matrix`` [O, I] float32 in panels."""
        matrix = rows_contiguous(matrix)
        made = self._begun(*matrix.shape)
        row = (matrix.stride(0) if len(matrix) > 1 else matrix.shape[1]) * matrix.element_size()
        status = made.library.functions.llmc_matrix_set_rows(
            made.data.data_ptr(), made.nbytes, 0, len(matrix), SOURCES["fp32"], matrix.data_ptr(), row
        )
        if status:
            raise ValueError(f"a matrix {list(matrix.shape)}: {made.library.explain(status)}")
        return made

    def packed_transpose(self, matrix: Tensor) -> NativeMatrix:
        """The transpose of ``matrix`` [I, O] float32 in panels: there 32 neighbours of a row of it lie side by side already."""
        assert self.native is not None
        inputs, outputs = matrix.shape
        if outputs % PANEL or not _panels_are_known(self.native):
            return self.packed(transposed(matrix))
        made = self._begun(outputs, inputs)
        panels = made.data[_HEADER:].view(torch.float32).view(outputs // PANEL, inputs, PANEL)
        panels.copy_(matrix.reshape(inputs, outputs // PANEL, PANEL).permute(1, 0, 2))
        return made

    def product(
        self, x: Tensor, matrix: NativeMatrix, bias: Tensor | None, out: Tensor | None = None
    ) -> Tensor:
        """x [N, I] float32 @ matrixᵀ + bias -> [N, O] float32; added to ``out`` where that is given."""
        if x.shape[0] == 0:
            return x.new_zeros(0, matrix.outputs) if out is None else out
        x = rows_contiguous(x)
        wide = None if bias is None else bias.float().contiguous()
        found = x.new_empty(x.shape[0], matrix.outputs) if out is None else out
        call = LinearStruct(
            matrix=matrix.data.data_ptr(),
            x=x.data_ptr(),
            y=found.data_ptr(),
            bias=None if wide is None else wide.data_ptr(),
            residual=None if out is None else found.data_ptr(),
            rows=x.shape[0],
            x_stride=x.stride(0),
            y_stride=found.stride(0),
            residual_stride=found.stride(0),
            x_type=ELEMENT_TYPES["torch.float32"],
            y_type=ELEMENT_TYPES["torch.float32"],
        )
        _run(matrix.library, call)
        return found

    def _by_torch(self, rows: int, matrix: Tensor) -> bool:
        return self.native is None or rows < _FEW or matrix.numel() == 0

    def _torch(self, left: Tensor, right: Tensor) -> Tensor:
        return (left.bfloat16() @ right.bfloat16()).float() if self.half else left @ right

    def _begun(self, outputs: int, inputs: int) -> NativeMatrix:
        """A matrix whose rows are not set yet. Its bytes come from the heap, which keeps them for the next one."""
        assert self.native is not None
        functions, code = self.native.functions, MATRIX_KINDS["fp32"]
        size = functions.llmc_matrix_bytes(code, 0, outputs, inputs)
        data = torch.empty(max(size, 0), dtype=torch.uint8)
        status = functions.llmc_matrix_begin(code, 0, outputs, inputs, data.data_ptr(), size)
        if status:
            raise ValueError(f"a matrix [{outputs}, {inputs}]: {self.native.explain(status)}")
        return NativeMatrix(self.native, data, "fp32", outputs, inputs, torch.float32)


@functools.cache
def products(half: bool) -> Products:
    """What computes here: float32 by the library where it has tiles, which beat torch's products; torch otherwise."""
    found = library()
    native = None if half or isinstance(found, Absence) or found.isa != "amx" else found
    return Products(half, native)


def transposed(x: Tensor) -> Tensor:
    """``x`` [N, O] as [O, N], contiguous.

    By way of panels of 32 columns where there are such: rows of thousands of numbers lie at distances that fall on the same
    few lines of the first cache, and torch does these two copies with all threads but the plain one with one.
    """
    rows, columns = x.shape
    if columns % PANEL or rows < PANEL:
        return x.t().contiguous()
    panels = x.reshape(rows, columns // PANEL, PANEL).permute(1, 0, 2).contiguous()
    return panels.transpose(1, 2).contiguous().view(columns, rows)


@functools.cache
def _panels_are_known(native: Library) -> bool:
    """Whether a float32 matrix lies in panels as ``packed_transpose`` writes them: tried on a small one."""
    matrix = torch.arange(2 * PANEL * 3, dtype=torch.float32).view(2 * PANEL, 3)
    data = Products(False, native).packed(matrix).data
    if data.numel() != _HEADER + matrix.nbytes:
        return False
    panels = data[_HEADER:].view(torch.float32).view(2, 3, PANEL)
    return torch.equal(panels, matrix.view(2, PANEL, 3).transpose(1, 2))


def _run(native: Library, call: LinearStruct) -> None:
    native.use_threads(torch.get_num_threads())
    status = native.functions.llmc_linear(ctypes.byref(call))
    if status:
        raise ValueError(f"a product of {call.rows} rows: {native.explain(status)}")
