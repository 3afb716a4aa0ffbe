"""Whole stacks of layers as programs of the native library: one call a pass, whatever the family.

Letters: N packed tokens, R wanted rows, D model width, F feed-forward width, Hq query heads, Hk key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmasos.api import BlockPlan, LinearPlan, NormPlan, StackInput, StackPlan, single_threaded
from llmasos_cpu.allocator import give_back
from llmasos_cpu.library import Library
from llmasos_cpu.matrices import NativeMatrix
from llmasos_cpu.packing import PANEL, Rows, alternating, extent, stacked
from llmasos_cpu.program import Cache, Program
from llmasos_cpu.structures import ACTIVATIONS, ELEMENT_TYPES, NORMS, BufferStruct, StepStruct

#: Kinds of steps, see ``native/llmasos_cpu.h``.
_EMBED, _NORM, _LINEAR, _GATED, _ANGLES, _STORE, _ATTENTION, _GATHER = range(8)
_PACKED = 16
#: Buffers of a program. Those with _WANTED have a row for each wanted token.
_X, _H, _QKV, _MIXED, _INNER, _ANGLE, _SUM = range(7)
_WANTED = 7
_OUT = 2 * _WANTED


def takes(plan: StackPlan) -> bool:
    """Whether a program can compute this stack."""
    return (
        plan.activation in ACTIVATIONS
        and not (plan.gated and plan.feed_forward_bias)
        and (plan.frequencies is None or 2 * len(plan.frequencies) <= plan.head_width)
        and isinstance(plan.embedding.tokens, Tensor | NativeMatrix)
    )


@dataclass(slots=True)
class _Steps:
    """A program in the making, and what its addresses point to."""

    library: Library
    kind: str
    steps: list[StepStruct] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)

    def add(self, op: int, source: int, target: int, **fields: object) -> None:
        self.steps.append(StepStruct(op=op, in_=source, out=target, **{"other": -1, **fields}))

    def address(self, tensor: Tensor | None) -> int | None:
        """Where a tensor lies, which is kept alive with the program."""
        if tensor is None:
            return None
        dense = tensor.detach().contiguous()
        self.kept.append(dense)
        return dense.data_ptr()

    def norm(self, one: NormPlan, source: int, target: int) -> None:
        weight = one.weight.detach()
        self.add(
            _NORM,
            source,
            target,
            kind=NORMS[one.kind],
            second_type=ELEMENT_TYPES[str(weight.dtype)],
            weight=self.address(weight),
            bias=self.address(one.bias),
            number=one.eps,
        )

    def product(
        self,
        parts: Sequence[LinearPlan],
        source: int,
        target: int,
        *,
        residual: int = -1,
        activation: int = 0,
        kind: str | None = None,
    ) -> None:
        """Several matrices that read the same input as one, kept as ``kind`` if not as all are."""
        matrix = self.address_of(
            stacked(self.library, [_rows(one.weight) for one in parts], kind or self.kind)
        )
        biases = [
            torch.zeros(extent(one.weight)[0]) if one.bias is None else one.bias.detach().float()
            for one in parts
        ]
        whole = None if all(one.bias is None for one in parts) else torch.cat(biases)
        self.add(
            _LINEAR, source, target, other=residual, kind=activation, weight=matrix, bias=self.address(whole)
        )

    def gated(self, gate: Rows, up: Rows, source: int, target: int, activation: int) -> None:
        """act(gate) * up in one product: rows alternate in panels, the last of them filled up with zeros."""
        matrix = self.address_of(alternating(self.library, _rows(gate), _rows(up), self.kind))
        self.add(_GATED, source, target, kind=activation, weight=matrix)

    def address_of(self, matrix: NativeMatrix) -> int:
        """Where a matrix lies, which is kept alive with the program."""
        self.kept.append(matrix)
        return matrix.data.data_ptr()


def _rows(weight: Rows) -> Rows:
    return weight.detach() if isinstance(weight, Tensor) else weight


def compile_stack(library: Library, plan: StackPlan, kind: str) -> NativeStack:
    """A program for a stack that ``takes`` accepts, its matrices packed as ``kind``. Raises WeightsError for weights that cannot
    be kept so."""
    made = _Steps(library, kind)
    heads = (plan.query_heads + 2 * plan.key_heads) * plan.head_width
    width, inner = _embed(made, plan), 0
    for layer, block in enumerate(plan.blocks):
        inner = extent(block.up.weight)[0]
        if plan.gated:
            inner = -(-inner // PANEL) * PANEL  # gates and what they multiply alternate in whole panels
        _block(made, plan, block, layer)
        give_back()  # also what others are done with meanwhile: tokenizers are opened in their own thread
    last = _X + _WANTED
    if plan.final_norm is not None:
        made.norm(plan.final_norm, last, _OUT)
    turned = 0 if plan.frequencies is None else 2 * len(plan.frequencies)
    widths = (width, width, heads, plan.query_heads * plan.head_width, inner, max(turned, 1), width)
    buffers = [BufferStruct(width=size) for size in widths]
    buffers += [BufferStruct(width=size, wanted=1) for size in widths]
    buffers.append(BufferStruct(width=width, wanted=1, external=1))
    tokens = plan.embedding.tokens
    element = tokens.element if isinstance(tokens, NativeMatrix) else getattr(tokens, "dtype", torch.float32)
    return NativeStack(made, buffers, element)


def _embed(made: _Steps, plan: StackPlan) -> int:
    """The first steps; returns the width of the model."""
    embedding = plan.embedding
    tokens = embedding.tokens
    second = next((t.dtype for t in (embedding.positions, embedding.types) if t is not None), torch.float32)
    if isinstance(tokens, NativeMatrix):
        made.kept.append(tokens)
        table: int | None = tokens.data.data_ptr()
        kind, rows, width = _PACKED, tokens.outputs, tokens.inputs
    else:
        assert isinstance(tokens, Tensor)
        table, kind = made.address(tokens), ELEMENT_TYPES[str(tokens.dtype)]
        rows, width = tokens.shape
    made.add(
        _EMBED,
        -1,
        _X if embedding.norm is None else _H,
        kind=kind,
        second_type=ELEMENT_TYPES[str(second)],
        weight=table,
        weight_rows=rows,
        bias=made.address(embedding.positions),
        bias_rows=0 if embedding.positions is None else len(embedding.positions),
        extra=made.address(embedding.types),
        extra_rows=0 if embedding.types is None else len(embedding.types),
    )
    if embedding.norm is not None:
        made.norm(embedding.norm, _H, _X)
    if plan.frequencies is not None:
        made.add(
            _ANGLES,
            -1,
            _ANGLE,
            weight=made.address(plan.frequencies.float()),
            turned=2 * len(plan.frequencies),
        )
    return width


def _block(made: _Steps, plan: StackPlan, block: BlockPlan, layer: int) -> None:
    """The steps of one layer. What the last one computes after attention, it computes for the wanted rows alone."""
    first, last = plan.norm_first, layer == plan.layers - 1
    source = _X
    if first:
        made.norm(block.attention_norm, _X, _H)
        source = _H
    made.product([block.query, block.key, block.value], source, _QKV)
    shape = {
        "query_heads": plan.query_heads,
        "key_heads": plan.key_heads,
        "width": plan.head_width,
        "layer": layer,
    }
    turned = 0 if plan.frequencies is None else 2 * len(plan.frequencies)
    made.add(_STORE, _QKV, -1, other=_ANGLE if turned else -1, turned=turned, **shape)
    # What a cache in bf16 would hold, whether there is one or not.
    precision = ELEMENT_TYPES[str(torch.bfloat16 if made.kind == "bf16" else torch.float32)]
    made.add(_ATTENTION, _QKV, _MIXED, number=block.scale, second_type=precision, **shape)
    at = 0
    if last:
        made.add(_GATHER, _X, _X + _WANTED)
        made.add(_GATHER, _MIXED, _MIXED + _WANTED)
        at = _WANTED
    x, h, total = _X + at, _H + at, _SUM + at
    activation = ACTIVATIONS[plan.activation]
    if first:
        made.product([block.output], _MIXED + at, x, residual=x)
        made.norm(block.feed_forward_norm, x, h)
    else:
        made.product([block.output], _MIXED + at, total, residual=x)
        made.norm(block.attention_norm, total, x)
        h = x
    down, kind = block.down, made.kind
    if block.gate is not None:
        made.gated(block.gate.weight, block.up.weight, h, _INNER + at, activation)
        missing = -extent(down.weight)[1] % PANEL
        if missing and isinstance(down.weight, Tensor):  # blocks are never narrower
            wider = torch.nn.functional.pad(down.weight.detach(), (0, missing))
            down = LinearPlan(wider, down.bias)
            # Groups that zeros fill up would not be those of the matrix.
            kind = "int8" if kind == "q4_1" else kind
    else:
        made.product([block.up], h, _INNER + at, activation=activation)
    if first:
        made.product([down], _INNER + at, x, residual=x, kind=kind)
    else:
        made.product([down], _INNER + at, total, residual=x, kind=kind)
        made.norm(block.feed_forward_norm, total, _OUT if last else x)


class NativeStack:
    """A ``StackRunner``. Its matrices are its own; a pass takes as many threads as torch has."""

    def __init__(self, made: _Steps, buffers: Sequence[BufferStruct], element: torch.dtype) -> None:
        self._library = made.library
        self._element = element
        self._program = Program(made.library.functions, made.steps, buffers, made.kept)

    def __call__(self, given: StackInput) -> Tensor:
        """The final hidden states [N, D], or [R, D] where rows are wanted. Raises EvaluationError for a pass that does not fit."""
        cache = None
        if given.keys is not None and given.values is not None and given.rows is not None:
            cache = Cache(given.keys.flatten(2), given.values.flatten(2), given.rows.contiguous())
        self._library.use_threads(torch.get_num_threads())
        found = self._program.run(
            given.tokens.contiguous(),
            given.positions.contiguous(),
            given.layout,
            types=None if given.types is None else given.types.contiguous(),
            cache=cache,
            wanted=None if given.wanted is None else given.wanted.contiguous(),
        )
        with single_threaded():
            return found.to(self._element)
