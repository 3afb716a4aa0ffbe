"""Matrices of weights in eight or four bits, as the kernels of ``llmasos_cuda.kernels.product`` read them.

Letters: N rows looked up, O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos.api import WeightsError

#: Numbers that share a step. The kernels have the same constants; a test compares them.
INT8_GROUP, INT4_GROUP = 128, 32


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedMatrix:
    """A ``QuantisedWeight`` [O, I]: ``data`` [O, ...] whole groups of a row end to end, the last filled up with zeros.

    int8: ``steps`` float32 [O, groups]. int4: ``steps`` and ``least`` float16 [O, groups].
    """

    data: Tensor
    steps: Tensor
    least: Tensor | None
    outputs: int
    inputs: int
    #: Element type of rows that are looked up.
    element: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.data.nbytes + self.steps.nbytes + (0 if self.least is None else self.least.nbytes)

    def rows(self, indices: Tensor) -> Tensor:
        """Rows ``indices`` [N] int64 as numbers of the element type: [N, I]."""
        return self.numbers(indices).to(self.element)

    def numbers(self, indices: Tensor) -> Tensor:
        """What rows ``indices`` [N] int64 stand for, as exact as float32 is: [N, I]."""
        data, steps = self.data[indices], self.steps[indices].float()[..., None]
        if self.least is None:
            found = data.view(*steps.shape[:2], INT8_GROUP).float() * steps
        else:
            pairs = data.view(*steps.shape[:2], INT4_GROUP // 2)
            whole = torch.cat((pairs & 15, pairs >> 4), dim=-1).float()
            found = whole * steps + self.least[indices].float()[..., None]
        return found.flatten(1)[:, : self.inputs]

    def plain(self) -> Tensor:
        """The numbers it stands for: [O, I] float32."""
        everything = torch.arange(self.outputs, device=self.data.device)
        return self.numbers(everything)


def quantise(weight: Tensor, bits: int) -> QuantisedMatrix:
    """``weight`` [O, I] in 8 or 4 bits. Raises WeightsError for NaN, infinity, and what float16 has not (4 bits)."""
    outputs, inputs = weight.shape
    if not bool(weight.isfinite().all()):
        raise WeightsError(
            f"a matrix [{outputs}, {inputs}] holds NaN or infinity and cannot be quantised",
            hint="use --dtype exact to see what it computes, or mend the checkpoint",
        )
    group = INT8_GROUP if bits == 8 else INT4_GROUP
    numbers = F.pad(weight.float(), (0, -inputs % group)).reshape(outputs, -1, group)
    if bits == 8:
        steps = numbers.abs().amax(dim=-1, keepdim=True) / 127
        whole = torch.where(steps > 0, numbers / steps, 0).round_().clamp_(-127, 127).to(torch.int8)
        return QuantisedMatrix(
            whole.flatten(1), steps.squeeze(-1).contiguous(), None, outputs, inputs, weight.dtype
        )
    low, high = numbers.aminmax(dim=-1, keepdim=True)
    steps, least = ((high - low) / 15).half(), low.half()
    if not bool(steps.isfinite().all()) or not bool(least.isfinite().all()):
        raise WeightsError(
            "weights beyond 65,504 do not fit groups of 4 bits", hint="use --dtype int8 or exact"
        )
    whole = torch.where(steps > 0, (numbers - least.float()) / steps.float(), 0).round_().clamp_(0, 15)
    first, second = whole.to(torch.uint8).chunk(2, dim=-1)
    packed = (first | second << 4).flatten(1).contiguous()
    return QuantisedMatrix(
        packed,
        steps.squeeze(-1).contiguous(),
        least.squeeze(-1).contiguous(),
        outputs,
        inputs,
        weight.dtype,
    )
