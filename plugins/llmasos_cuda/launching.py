"""How kernels are started: on a device, in the interpreter, or only written down for a build ahead of time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from llmasos.api import DeviceUnavailable

#: The architecture of kernels that run in Triton's interpreter.
INTERPRETER = "interpreter"


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a kernel as it would have happened."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    warps: int
    stages: int


@dataclass(slots=True)
class Record:
    """What was written down instead of being started, for one architecture (``sm_90``)."""

    architecture: str
    launches: list[Launch] = field(default_factory=list)


_record: ContextVar[Record | None] = ContextVar("llmasos_cuda_record", default=None)


@contextmanager
def recorded(architecture: str) -> Iterator[Record]:
    """Within it kernels are written down as they would be started on ``architecture``, and nothing runs. Tensors may be meta."""
    record = Record(architecture)
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


def launch(
    kernel: Any, grid: Sequence[int], *arguments: Any, warps: int, stages: int, **constants: Any
) -> None:
    """Start ``kernel`` with ``grid`` programs; nothing to do for an empty grid.

    ``arguments`` fill its first parameters in order, ``constants`` are its ``tl.constexpr`` ones.
    """
    if 0 in grid:
        return
    record = _record.get()
    if record is not None:
        named = dict(zip(kernel.arg_names, arguments, strict=False))
        record.launches.append(Launch(kernel, tuple(grid), named, constants, warps, stages))
        return
    with on_device_of(arguments):
        # Fusing products with sums is said outright: Triton's default for it is about to change.
        kernel[tuple(grid)](
            *arguments, **constants, num_warps=warps, num_stages=stages, enable_fp_fusion=True
        )


def on_device_of(values: Sequence[Any]) -> AbstractContextManager[Any]:
    """Within it the device of the first tensor is the current one, which is where Triton and graphs run things."""
    device = next((one.device for one in values if isinstance(one, Tensor)), None)
    if device is None or device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def architecture(tensor: Tensor) -> str:
    """Where kernels on ``tensor`` run: ``sm_90`` and its like, or the interpreter.

    Raises DeviceUnavailable for a device that has no kernels.
    """
    record = _record.get()
    if record is not None:
        return record.architecture
    if tensor.device.type == "cuda":
        return _cuda_architecture(tensor.device.index or 0)
    if tensor.device.type == "cpu" and triton.knobs.runtime.interpret:
        return INTERPRETER
    raise DeviceUnavailable(
        f"the CUDA back end has no kernels for the device {str(tensor.device)!r}",
        hint="use --device cuda or cpu",
    )


@functools.cache
def _cuda_architecture(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def dense_rows(x: Tensor) -> Tensor:
    """``x`` itself where its last axis has no gaps, else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``count`` and ``least``."""
    return max(least, 1 << max(0, count - 1).bit_length())
