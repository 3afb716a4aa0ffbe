"""Weights on their way from a checkpoint into a model: a layer at a time, each tensor let go before the next layer is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmasos.api import BlockWeight, Checkpoint, Ops, WeightsError
from llmasos_transformer.families import Source
from llmasos_transformer.model import Decoder, Encoder
from llmasos_transformer.weights.mapping import BlockCheckpoint, Releasable

#: The layer in the name of a parameter.
LAYER = re.compile(r"\bblocks\.(\d+)\.")

#: Parameters that ``WEIGHT_OPS`` read: projections, and what is looked up or multiplied with as the vocabulary's head.
_MATRICES = frozenset(("weight", "tokens", "head", "decoder"))

#: Bits of the numbers in blocks that a file is to have for its blocks to be handed over.
_BITS: Mapping[str, range] = {"int8": range(5, 9), "int4": range(5)}


class Use(NamedTuple):
    """One parameter cut out of a stored tensor."""

    parameter: str
    source: Source


class Reading:
    """Fills a model with what a checkpoint holds.

    Of a quantised file the back end gets the blocks, if it takes them. It gets numbers where int8 is asked for and most of
    the file is in four bits, or the other way round: then they are to be quantised again.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Decoder | Encoder,
        ops: Ops,
        uses: Mapping[str, Sequence[Use]],
        repeats: Sequence[tuple[str, str]],
        element: torch.dtype,
        device: str,
    ) -> None:
        self._checkpoint = checkpoint
        self._model = model
        self._ops = ops
        self._element = element
        self._device = device
        self._repeats = repeats
        self._blocks: BlockCheckpoint | None = None
        if isinstance(checkpoint, BlockCheckpoint) and checkpoint.block_bits is not None:
            wanted = _BITS.get(model.dtype)
            if wanted is None or checkpoint.block_bits in wanted:
                self._blocks = checkpoint
        #: Layer, None for what is in none -> stored name -> what it fills.
        self._uses: dict[int | None, dict[str, list[Use]]] = {}
        for stored, each in uses.items():
            for use in each:
                found = LAYER.search(use.parameter)
                layer = int(found.group(1)) if found else None
                self._uses.setdefault(layer, {}).setdefault(stored, []).append(use)

    def fill(self, layer: int | None) -> None:
        """Read what is in a layer, or in none. The matrices of a layer may still be views of the file."""
        for stored, uses in self._uses.get(layer, {}).items():
            others = [other for first, other in self._repeats if first == stored]
            left = [use for use in uses if not self._place_blocks(use, stored)]
            if left or others:
                tensor = self._read(stored)
                for use in left:
                    self._place(use, tensor)
                for other in others:
                    self._compare(stored, tensor, other)
                del tensor
            if layer is None:
                self._let_go(stored)

    def release(self, layer: int) -> None:
        """Nothing reads the file's copy of a layer any more."""
        for stored in self._uses.get(layer, {}):
            self._let_go(stored)

    def _let_go(self, stored: str) -> None:
        # Otherwise the whole file stays in memory beside the copy until it is closed.
        if isinstance(self._checkpoint, Releasable):
            self._checkpoint.release(stored)

    def _read(self, name: str) -> Tensor:
        tensor = self._checkpoint.tensor(name)
        if not tensor.is_floating_point():
            raise WeightsError(f"{name} holds {tensor.dtype} numbers: weights must be floating point")
        return tensor

    def _compare(self, stored: str, tensor: Tensor, other: str) -> None:
        if not torch.equal(tensor, self._read(other).to(tensor.dtype)):
            raise WeightsError(
                f"{other} differs from {stored}, but the configuration says that they are one tensor",
                hint='set "tie_word_embeddings": false in config.json if the head was trained on its own',
            )
        self._let_go(other)

    def _place(self, use: Use, tensor: Tensor) -> None:
        """Make a piece of ``tensor`` a parameter."""
        path, _, leaf = use.parameter.rpartition(".")
        index, pieces = use.source.part
        piece = (tensor.t() if use.source.transposed else tensor).chunk(pieces, dim=0)[index]
        module = self._model.get_submodule(path)
        if piece.dim() == 2 and leaf in _MATRICES:
            if LAYER.search(use.parameter):
                # The back end takes them when the layer is there, or the layer copies them then.
                borrowed = piece.to(device=self._device, dtype=self._element)
                setattr(module, leaf, nn.Parameter(borrowed, requires_grad=False))
                return
            # A table that is only looked up is read a row at a time: nothing is gained by another layout.
            if leaf != "tokens" or self._model.spec.tied:
                packed = self._ops.pack(piece.to(device=self._device, dtype=self._element), leaf == "tokens")
                if not isinstance(packed, Tensor):
                    _replace(module, leaf, packed)
                    return
        values = torch.empty(piece.shape, dtype=self._element, device=self._device).copy_(piece)
        setattr(module, leaf, nn.Parameter(values, requires_grad=False))

    def _place_blocks(self, use: Use, stored: str) -> bool:
        """The same with the blocks of the file; False where there are none that the back end takes."""
        path, _, leaf = use.parameter.rpartition(".")
        if self._blocks is None or leaf not in _MATRICES:
            return False
        found = self._blocks.blocks(stored, transposed=use.source.transposed)
        if found is None or found.kind not in self._ops.block_types:
            return False
        index, pieces = use.source.part
        size = -(-found.outputs // pieces)
        piece: BlockWeight = found.part(index * size, min((index + 1) * size, found.outputs))
        module = self._model.get_submodule(path)
        _replace(
            module, leaf, piece if LAYER.search(use.parameter) else self._ops.pack(piece, leaf == "tokens")
        )
        return True


def _replace(module: nn.Module, leaf: str, weight: object) -> None:
    """Put something that is no parameter in the place of one."""
    delattr(module, leaf)
    setattr(module, leaf, weight)
