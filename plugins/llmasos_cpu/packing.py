"""Matrices on their way into the native library's panels: set a few rows at a time, from numbers or from a file's blocks.

Letters: O outputs, I inputs.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from llmasos.api import BlockWeight, EnvironmentProblem, WeightsError
from llmasos_cpu.library import MATRIX_KINDS, SOURCES, Library
from llmasos_cpu.matrices import NativeMatrix, rows_contiguous
from llmasos_cpu.structures import ELEMENT_TYPES

_SOURCES = {torch.float32: SOURCES["fp32"], torch.bfloat16: SOURCES["bf16"], torch.float16: SOURCES["fp16"]}
_ALIGNMENT = 64
#: Numbers of a group that is quantised together.
_GROUP = 32
#: Outputs of a panel.
PANEL = 32
#: Status of the library for numbers that cannot be quantised.
_BAD_DATA = -5
#: Numbers that are converted at a time.
_PIECE = 1 << 20
#: How matrices are kept -> what the library calls that, and the numbers that share a scale (0: a row, or there is none).
_LAYOUTS = {
    "fp32": (MATRIX_KINDS["fp32"], 0),
    "bf16": (MATRIX_KINDS["bf16"], 0),
    "int8": (MATRIX_KINDS["int8"], 0),
    "q8_0": (MATRIX_KINDS["int8"], _GROUP),
    "q4_0": (MATRIX_KINDS["int4"], 0),
    "q4_1": (MATRIX_KINDS["q4_1"], 0),
    "q4_k": (MATRIX_KINDS["q4_k"], 0),
}
#: GGUF's blocks that are computed with as they are -> how a matrix of them is kept.
_BLOCKS = {"Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_1": "q4_1", "Q4_K": "q4_k"}
#: Kinds whose rows are looked up as something else than float32.
_ELEMENTS = {"bf16": torch.bfloat16}
#: Blocks that are read; those that are not computed with as they are become groups of eight bits, which are finer.
BLOCK_TYPES = frozenset((*_BLOCKS, "Q5_0", "Q5_1", "Q5_K", "Q6_K"))
#: Kinds that are set from blocks alone -> numbers and bytes of one.
_BLOCK_BYTES = {"q4_0": (32, 18), "q4_1": (32, 20), "q4_k": (256, 144)}
#: Kinds that numbers are quantised to.
_QUANTISED = frozenset(("int8", "q8_0", "q4_1"))
#: A matrix [O, I]: numbers, or blocks of a file.
Rows = Tensor | BlockWeight
#: Bytes from which a matrix has pages of its own.
_LARGE = 1 << 16


def pack(library: Library, weight: Rows, kind: str) -> NativeMatrix:
    """``weight`` [O, I] in panels of ``kind``; blocks are kept as they are where ``kind`` is for quantised weights.

    Raises WeightsError for numbers that cannot be kept in it (NaN and infinity where they are quantised).
    """
    return stacked(library, [weight], kind)


def stacked(library: Library, parts: Sequence[Rows], kind: str) -> NativeMatrix:
    """Matrices of equal width one under the other: [sum of O, I]. Raises as ``pack``."""
    making = _Making(library, parts, sum(extent(part)[0] for part in parts), kind)
    first = 0
    for part in parts:
        for begin, ready in making.pieces(part):
            making.set(first + begin, ready)
        making.compare(first, part)
        first += extent(part)[0]
    return making.matrix


def alternating(library: Library, first: Rows, second: Rows, kind: str) -> NativeMatrix:
    """Two matrices [O, I] in turns of 32 rows, the last of them filled up with zeros: [2 * ceil(O / 32) * 32, I]. Raises as
    ``pack``."""
    outputs, _ = extent(first)
    making = _Making(library, [first, second], -(-outputs // PANEL) * PANEL * 2, kind)
    for offset, part in ((0, first), (PANEL, second)):
        for begin, ready in making.pieces(part):
            for at in range(0, len(ready.data), PANEL):
                making.set(2 * (begin + at) + offset, ready.rows(at, at + PANEL))
        if outputs % PANEL:
            making.clear(2 * (outputs // PANEL * PANEL) + offset + outputs % PANEL, -outputs % PANEL)
        making.compare(offset, part)
    return making.matrix


def extent(rows: Rows) -> tuple[int, int]:
    """Outputs and inputs."""
    return (rows.shape[0], rows.shape[1]) if isinstance(rows, Tensor) else (rows.outputs, rows.inputs)


class _Ready(NamedTuple):
    """Rows as the library reads them: numbers [O, I], or blocks [O, bytes]."""

    data: Tensor
    source: int

    def rows(self, begin: int, end: int) -> _Ready:
        return _Ready(self.data[begin:end], self.source)


class _Making:
    """A matrix whose rows are being set; what they come from is never joined, converted or quantised whole."""

    def __init__(self, library: Library, parts: Sequence[Rows], outputs: int, kind: str) -> None:
        self._library = library
        self._parts = parts
        inputs = extent(parts[0])[1]
        self._kind = _kind_of(parts, kind, inputs)
        code, group = _LAYOUTS[self._kind]
        self._what = f"a matrix [{outputs}, {inputs}]"
        size = library.functions.llmc_matrix_bytes(code, group, outputs, inputs)
        if size < 0:
            raise WeightsError(f"{self._what} as {self._kind}: {library.explain(size)}")
        data = _memory(size)
        self._check(library.functions.llmc_matrix_begin(code, group, outputs, inputs, data.data_ptr(), size))
        element = parts[0].dtype if isinstance(parts[0], Tensor) else _ELEMENTS.get(self._kind, torch.float32)
        if str(element) not in ELEMENT_TYPES:
            element = torch.float32
        #: Complete once every row has been set.
        self.matrix = NativeMatrix(library, data, self._kind, outputs, inputs, element)

    def pieces(self, part: Rows) -> Iterator[tuple[int, _Ready]]:
        """``part`` as the library reads it: (first row, a few rows). Raises WeightsError for numbers that cannot be kept."""
        outputs, inputs = extent(part)
        if not isinstance(part, Tensor) and _BLOCKS.get(part.kind) == self._kind:
            yield 0, _Ready(part.data, SOURCES[part.kind.lower()])
            return
        if isinstance(part, Tensor) and self._kind not in _QUANTISED:
            yield 0, _Ready(rows_contiguous(part), _SOURCES[part.dtype])
            return
        step = max(1, _PIECE // (inputs * PANEL)) * PANEL
        for begin in range(0, outputs, step):
            end = min(begin + step, outputs)
            numbers = part[begin:end] if isinstance(part, Tensor) else part.part(begin, end).plain()
            if self._kind in _QUANTISED and not bool(numbers.isfinite().all()):
                raise self._refusal()
            if self._kind == "q4_1":
                yield begin, _Ready(_groups(numbers), SOURCES["q4_1"])
            else:
                yield begin, _Ready(rows_contiguous(numbers), _SOURCES[numbers.dtype])

    def set(self, first: int, ready: _Ready) -> None:
        """Set the rows from ``first`` on."""
        rows, data = ready.data, self.matrix.data
        count, width = rows.shape
        # Of a single row, or of none, torch gives any stride.
        row_bytes = (rows.stride(0) if count > 1 else width) * rows.element_size()
        functions = self._library.functions
        self._check(
            functions.llmc_matrix_set_rows(
                data.data_ptr(), data.numel(), first, count, ready.source, rows.data_ptr(), row_bytes
            )
        )

    def clear(self, first: int, count: int) -> None:
        """Set ``count`` rows from ``first`` on to zero."""
        if self._kind in _BLOCK_BYTES:
            numbers, size = _BLOCK_BYTES[self._kind]
            blank = torch.zeros(count, self.matrix.inputs // numbers * size, dtype=torch.uint8)
            self.set(first, _Ready(blank, SOURCES[self._kind]))
        else:
            self.set(first, _Ready(torch.zeros(count, self.matrix.inputs), SOURCES["fp32"]))

    def compare(self, first: int, part: Rows) -> None:
        """Raise EnvironmentProblem unless the row ``first``, once it is set, is the first row of ``part``, if that is of blocks."""
        if isinstance(part, Tensor) or _BLOCKS.get(part.kind) != self._kind:
            return
        found, wanted = self.matrix.rows(torch.tensor([first])), part.part(0, 1).plain()
        if not torch.allclose(found, wanted, rtol=1e-6, atol=0):
            raise EnvironmentProblem(
                f"the native library reads {part.kind} blocks wrongly: a number differs by "
                f"{float((found - wanted).abs().max()):.3g}",
                hint="use --dtype exact, and report it with the output of `llmasos doctor`",
            )

    def _check(self, status: int) -> None:
        if status == _BAD_DATA:
            raise self._refusal()
        if status:
            raise WeightsError(f"{self._what} as {self._kind}: {self._library.explain(status)}")

    def _refusal(self) -> WeightsError:
        if any(not isinstance(part, Tensor) for part in self._parts):
            return WeightsError(
                f"{self._what} of quantised blocks holds NaN or infinity: the file is damaged",
                hint="download it again, or quantise the original again",
            )
        return WeightsError(
            f"{self._what} holds NaN or infinity and cannot be quantised",
            hint="use --dtype exact to see what it computes, or mend the checkpoint",
        )


def _kind_of(parts: Sequence[Rows], kind: str, inputs: int) -> str:
    """How to keep matrices that lie in one. Quantised blocks stay what they are where they are all of a kind that is computed
    with, and are kept in groups of eight bits otherwise."""
    blocks = {part.kind for part in parts if not isinstance(part, Tensor)}
    if blocks and kind not in ("fp32", "bf16"):
        alike = len(blocks) == 1 and not any(isinstance(part, Tensor) for part in parts)
        return _BLOCKS.get(blocks.pop(), "q8_0") if alike else "q8_0"
    # Groups of four bits are whole.
    return "int8" if kind == "q4_1" and inputs % _GROUP else kind


def _memory(size: int) -> Tensor:
    """``size`` bytes that begin at a multiple of 64. What is large gets a mapping of its own: the heap, which never shrinks here,
    would keep the gaps between matrices and what they were packed from. Large pages are asked for, which are faster to get
    and to read."""
    if size < _LARGE or not sys.platform.startswith("linux"):
        space = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
        begin = -space.data_ptr() % _ALIGNMENT
        return space[begin : begin + size]
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


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
