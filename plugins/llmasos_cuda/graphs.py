"""Steps of decoding recorded once and replayed: a hundred launches become one.

A recorded step reads and writes fixed addresses. Inputs of steps of the same shape are copied there, so what varies from step to
step (tokens, positions, rows of the cache, tables of the attention plan) must be in tensors, and of few shapes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

#: Shapes of steps that are kept. Each holds the tensors between its kernels.
_KEPT = 16

Body = Callable[[Sequence[Tensor]], Tensor]


class Recorder(Protocol):
    """Turns work on fixed tensors into something that repeats it."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        """(what repeats the work, the tensor in which its result then lies)."""


class CudaRecorder:
    """CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        """Run the work on a stream of its own first, so that kernels are compiled and libraries have their workspaces."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            result = work()
        return graph.replay, result


@dataclass(frozen=True, slots=True)
class _Step:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], Any]
    result: Tensor


class Graphs:
    """Recorded steps by what they depend on. A step is recorded when its key has come more than ``patience`` times."""

    def __init__(self, recorder: Recorder, patience: int = 2) -> None:
        self._recorder = recorder
        self._patience = patience
        self._steps: OrderedDict[Hashable, _Step] = OrderedDict()
        self._seen: dict[Hashable, int] = {}

    def run(self, key: Hashable, inputs: Sequence[Tensor], body: Body) -> Tensor:
        """``body(inputs)``, by replay once ``key`` has come often enough.

        Equal keys promise inputs of equal shapes and a body that does the same with them, on the same other tensors.
        """
        step = self._steps.get(key)
        if step is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= self._patience:
                return body(inputs)
            with torch.inference_mode(False):  # else nobody could copy into them outside of it
                fixed = tuple(one.clone() for one in inputs)
            step = _Step(fixed, *self._recorder.record(lambda: body(fixed)))
            self._steps[key] = step
            if len(self._steps) > _KEPT:
                forgotten, _ = self._steps.popitem(last=False)
                self._seen.pop(forgotten, None)
        self._steps.move_to_end(key)
        for there, one in zip(step.inputs, inputs, strict=True):
            there.copy_(one)
        step.replay()
        # The next replay writes over it.
        return step.result.clone()
