"""Writing a model again with weights of fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from llmasos.contracts.model import Architecture, Checkpoint, PackedBatch, WeightFormat

if TYPE_CHECKING:
    from torch import Tensor

#: What weights can be quantised to.
QuantisedName = Literal["int8", "int4"]


@dataclass(frozen=True, slots=True)
class QuantisedFile:
    """What was written: how many bytes of tensors are of each type, and what the file lacks that others would expect of it."""

    types: Mapping[str, int]
    missing: tuple[str, ...] = ()


@runtime_checkable
class QuantisingFormat(WeightFormat, Protocol):
    """A format that models can be written in with quantised weights."""

    #: Ending of its files, with the dot.
    ending: str

    def quantise(
        self,
        checkpoint: Checkpoint,
        target: Path,
        dtype: QuantisedName,
        importance: Mapping[str, Tensor],
        advance: Callable[[int], None],
    ) -> QuantisedFile:
        """Write ``checkpoint`` to the new file ``target``. ``advance`` is told of tensors that are done.

        ``importance`` is what ``ImportanceArchitecture`` gives; it may be empty. What has no more bits than asked for already is
        kept as it is. Raises WeightsError for models that the format cannot hold, and for numbers that cannot be quantised.
        """


@runtime_checkable
class ImportanceArchitecture(Architecture, Protocol):
    """An architecture that can tell how the inputs of its matrices go together."""

    def importance(self, checkpoint: Checkpoint, batches: Iterable[PackedBatch]) -> Mapping[str, Tensor]:
        """Stored name -> sums over ``batches`` of the products of the inputs of that matrix [I, I], or of their squares [I];
        matrices of the layers only. Several names may share one tensor."""
