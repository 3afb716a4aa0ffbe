"""A checkpoint that lives in memory and notes what is read, for tests of how checkpoints are taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from llmasos.api import TensorInfo


class TensorCheckpoint:
    """Keeps the ``Checkpoint`` contract over a dictionary of tensors."""

    format = "memory"
    path = Path("memory")

    def __init__(self, config: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
        self.config = dict(config)
        self.values = dict(values)
        self.metadata: Mapping[str, str] = {}
        self.header: Mapping[str, Any] = {}
        #: Names of the tensors that were read, in order.
        self.read: list[str] = []

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(name, tuple(value.shape), str(value.dtype), value.nbytes)
            for name, value in self.values.items()
        }

    def tensor(self, name: str) -> Tensor:
        self.read.append(name)
        return self.values[name]

    def files(self) -> Sequence[Path]:
        return []

    def close(self) -> None:
        pass
