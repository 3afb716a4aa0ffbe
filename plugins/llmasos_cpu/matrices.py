"""Matrices of weights in the native library's panels: packed once, multiplied with any number of rows, looked up by row.

Letters: N tokens, O outputs, I inputs.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from llmasos.api import WeightsError
from llmasos_cpu.library import MATRIX_KINDS, SOURCES, Library
from llmasos_cpu.structures import ELEMENT_TYPES, HeadStruct, LinearStruct

_SOURCES = {torch.float32: SOURCES["fp32"], torch.bfloat16: SOURCES["bf16"], torch.float16: SOURCES["fp16"]}
_ALIGNMENT = 64
#: Numbers of a group that is quantised together.
_GROUP = 32


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


def pack(library: Library, weight: Tensor, kind: str) -> NativeMatrix:
    """``weight`` [O, I] float32, bfloat16 or float16 as panels of ``kind``. Raises WeightsError for numbers that cannot be kept
    in it (NaN and infinity where they are quantised)."""
    outputs, inputs = weight.shape
    if kind == "q4_1" and inputs % _GROUP:
        kind = "int8"  # groups are whole
    if kind in ("int8", "q4_1") and not bool(weight.isfinite().all()):
        raise WeightsError(
            f"a matrix [{outputs}, {inputs}] holds NaN or infinity and cannot be quantised",
            hint="use --dtype exact to see what it computes, or mend the checkpoint",
        )
    functions, code = library.functions, MATRIX_KINDS[kind]
    size = functions.llmc_matrix_bytes(code, 0, outputs, inputs)
    if size < 0:
        raise WeightsError(f"a matrix [{outputs}, {inputs}] as {kind}: {library.explain(size)}")
    space = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    begin = -space.data_ptr() % _ALIGNMENT
    data = space[begin : begin + size]
    rows, source = rows_contiguous(weight), _SOURCES[weight.dtype]
    if kind == "q4_1":
        rows, source = _groups(weight), SOURCES["q4_1"]
    status = functions.llmc_matrix_begin(code, 0, outputs, inputs, data.data_ptr(), size)
    if not status:
        status = functions.llmc_matrix_set_rows(
            data.data_ptr(),
            size,
            0,
            outputs,
            source,
            rows.data_ptr(),
            rows.stride(0) * rows.element_size(),
        )
    if status:
        raise WeightsError(f"a matrix [{outputs}, {inputs}] as {kind}: {library.explain(status)}")
    element = weight.dtype if str(weight.dtype) in ELEMENT_TYPES else torch.float32
    return NativeMatrix(library, data, kind, outputs, inputs, element)


def _groups(weight: Tensor) -> Tensor:
    """``weight`` [O, I] in GGUF's Q4_1 blocks, [O, I / 32 * 20] uint8: of each 32 numbers a step and a least number, float16, and
    steps above the least one, 4 bits each. Raises WeightsError for numbers that float16 has not."""
    numbers = weight.float().reshape(weight.shape[0], -1, _GROUP)
    least, most = numbers.aminmax(dim=-1, keepdim=True)
    step, least = ((most - least) / 15).half(), least.half()
    if not bool(torch.isfinite(step).all()) or not bool(torch.isfinite(least).all()):
        raise WeightsError(
            "weights beyond 65,504 do not fit groups of 4 bits", hint="use --dtype int8 or exact"
        )
    whole = (
        torch.where(step > 0, (numbers - least.float()) / step.float(), 0)
        .round_()
        .clamp_(0, 15)
        .to(torch.uint8)
    )
    low, high = whole.chunk(2, dim=-1)
    blocks = torch.cat([step.view(torch.uint8), least.view(torch.uint8), low | high << 4], dim=-1)
    return blocks.flatten(1).contiguous()


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
