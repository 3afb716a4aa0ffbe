"""How the inputs of each matrix go together over a text: their second moments, seen in plain passes.

An error in a weight reaches the output multiplied by the input that the weight belongs to, and errors of weights whose inputs
go together can make up for each other (Frantar et al. 2023, "GPTQ"). Letters: N tokens, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from llmasos.api import PackedBatch, PackedWeight
from llmasos_transformer.layers import Linear
from llmasos_transformer.model import Decoder, Encoder
from llmasos_transformer.ops import ReferenceOps
from llmasos_transformer.ops import linear as plain_linear

#: Inputs up to which all moments of a matrix are kept; beyond, each input is on its own.
WIDEST = 4096


class WatchingOps(ReferenceOps):
    """The reference ops, which add up the moments of what each matrix is multiplied with."""

    def __init__(self) -> None:
        #: Place of a matrix in memory -> sums of products of its inputs, [I, I] or [I].
        self._sums: dict[int, Tensor] = {}
        #: What was seen last, for several matrices have the same input.
        self._last: tuple[Tensor, Tensor] | None = None

    def linear(self, x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        """As the reference."""
        assert isinstance(weight, Tensor)
        place = weight.data_ptr()
        if self._last is None or self._last[0] is not x:
            wide = x.shape[1] > WIDEST
            sums = self._sums.get(place)
            if sums is None:
                sums = torch.zeros(x.shape[1]) if wide else torch.zeros(x.shape[1], x.shape[1])
            sums += x.square().sum(dim=0) if wide else x.T @ x
            self._last = x, sums
        self._sums[place] = self._last[1]
        return plain_linear(x, weight, bias)

    def moments(self, weight: Tensor) -> Tensor | None:
        """What was seen of a matrix; None if it was not used."""
        return self._sums.get(weight.data_ptr())


def watch(
    model: Decoder | Encoder, ops: WatchingOps, stored: Mapping[str, str], batches: Iterable[PackedBatch]
) -> dict[str, Tensor]:
    """Stored name -> moments; ``stored`` has the stored names by those of parameters."""
    with torch.inference_mode():
        for batch in batches:
            model.hidden(batch)
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, Linear) and f"{path}.weight" in stored and isinstance(module.weight, Tensor):
            moments = ops.moments(module.weight)
            if moments is not None:
                found[stored[f"{path}.weight"]] = moments
    return found
