"""Forward passes of whole models as programs of the native library: one call a pass, whatever the family.

Letters: N tokens, R wanted rows, D model width, F feed-forward width, E head width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from llmasos.api import EvaluationError, WeightsError
from llmasos_cpu.structures import (
    ACTIVATIONS,
    ELEMENT_TYPES,
    NORMS,
    BufferStruct,
    FilledLayout,
    PassStruct,
    StepStruct,
)

if TYPE_CHECKING:
    from llmasos.api import AttentionLayout

_EMBED, _NORM, _LINEAR, _GATED, _ANGLES, _STORE, _ATTENTION, _GATHER, _HEAD = range(9)
_PACKED = 16
#: Outputs of a panel of a packed matrix; gate and up of a gated feed-forward alternate by this many.
_PANEL = 32
_NONE = -1


class Matrix(Protocol):
    """A packed matrix [O, I] of the native library."""

    data: Tensor
    kind: str
    outputs: int
    inputs: int


#: Packs a matrix [O, I] float32 or bfloat16.
Packer = Callable[[Tensor], Matrix]


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of past tokens: slabs [layers, rows, Hk * E], and where the new tokens go, [N] int64."""

    keys: Tensor
    values: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass was asked for; the rest is None."""

    output: Tensor | None = None
    logprobs: Tensor | None = None
    best: Tensor | None = None


class Program:
    """A checked list of steps, and the weights that it points at. Thread-safe."""

    def __init__(
        self, functions: Any, steps: list[StepStruct], buffers: list[BufferStruct], kept: list[Any]
    ) -> None:
        self._functions = functions
        self._kept = kept
        self._external = next((b.width for b in buffers if b.external), None)
        self._handle = ctypes.c_void_p()
        status = functions.llmc_program_new(
            (StepStruct * len(steps))(*steps),
            len(steps),
            (BufferStruct * len(buffers))(*buffers),
            len(buffers),
            ctypes.byref(self._handle),
        )
        if status:
            raise WeightsError(f"the native program of this model is refused: {_text(functions, status)}")

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._functions.llmc_program_free(handle)

    def run(
        self,
        tokens: Tensor,
        positions: Tensor,
        layout: AttentionLayout,
        *,
        types: Tensor | None = None,
        cache: Cache | None = None,
        wanted: Tensor | None = None,
        targets: Tensor | None = None,
        target_rows: Tensor | None = None,
        best: bool = False,
    ) -> Result:
        """One pass over N packed tokens; all tensors of whole numbers are contiguous int64 on the CPU.

        Raises EvaluationError for what does not fit the model or the layout.
        """
        count = tokens.shape[0]
        rows = count if wanted is None else wanted.shape[0]
        if wanted is not None and rows == 0:
            wanted = torch.zeros(1, dtype=torch.int64)  # an address, for none would mean all rows
        filled = FilledLayout(layout)
        struct = PassStruct(
            rows=count,
            tokens=tokens.data_ptr(),
            positions=positions.data_ptr(),
            types=None if types is None else types.data_ptr(),
            layout=ctypes.addressof(filled.struct),
            wanted=None if wanted is None else wanted.data_ptr(),
            wanted_count=rows,
        )
        if cache is not None:
            struct.keys = cache.keys.data_ptr()
            struct.values = cache.values.data_ptr()
            struct.cache_rows = cache.rows.data_ptr()
            struct.cache_count = cache.keys.shape[1]
            struct.layer_stride = cache.keys.stride(0)
            struct.cache_type = ELEMENT_TYPES[str(cache.keys.dtype)]
            struct.layers = cache.keys.shape[0]
        output = logprobs = places = None
        if self._external is not None:
            output = torch.empty(rows, self._external)
            struct.output, struct.output_stride = output.data_ptr(), self._external
        if targets is not None:
            logprobs = torch.empty(targets.shape[0])
            struct.targets, struct.target_count = targets.data_ptr(), targets.shape[0]
            struct.logprobs = logprobs.data_ptr()
            struct.target_rows = None if target_rows is None else target_rows.data_ptr()
        if best:
            places = torch.empty(rows, dtype=torch.int64)
            struct.best = places.data_ptr()
        status = self._functions.llmc_program_run(self._handle, ctypes.byref(struct))
        if status:
            raise EvaluationError(
                f"a pass over {count} tokens is refused: {_text(self._functions, status)}",
                hint="tokens, positions, cache rows and targets must lie inside their tables",
            )
        return Result(output, logprobs, places)


def _text(functions: Any, status: int) -> str:
    return str(functions.llmc_status_text(status).decode())


class StackLike(Protocol):
    """The sizes and choices of one transformer stack."""

    vocab_size: int
    layers: int
    width: int
    query_heads: int
    key_heads: int
    head_width: int
    inner: int
    norm: str
    norm_eps: float
    norm_at: str
    activation: str
    gated: bool

    def scale(self, layer: int) -> float: ...


class _Builder:
    """Steps, buffers, and everything they point at."""

    def __init__(self, spec: StackLike, weights: Mapping[str, Tensor], pack: Packer, bits: int) -> None:
        self.spec, self.weights, self.pack, self.bits = spec, weights, pack, bits
        self.steps: list[StepStruct] = []
        self.buffers: list[BufferStruct] = []
        self.kept: list[Any] = []

    def buffer(self, width: int, *, wanted: bool = False, external: bool = False) -> int:
        self.buffers.append(BufferStruct(width=width, wanted=wanted, external=external))
        return len(self.buffers) - 1

    def step(self, op: int, **fields: Any) -> None:
        self.steps.append(StepStruct(**{"op": op, "in_": _NONE, "out": _NONE, "other": _NONE, **fields}))

    def pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()

    def bias(self, *names: str) -> int | None:
        """Biases of one product, as float32, behind each other; None where there are none."""
        found = [self.weights[f"{name}.bias"] for name in names if f"{name}.bias" in self.weights]
        return self.pointer(torch.cat(found).float()) if found else None

    def packed(self, weight: Tensor) -> Matrix:
        packed = self.pack(weight.detach())
        self.kept.append(packed)
        return packed

    def matrix(self, weight: Tensor) -> int:
        return self.packed(weight).data.data_ptr()

    def linear(
        self, source: int, out: int, *names: str, activation: str | None = None, residual: int = _NONE
    ) -> None:
        """The product with the matrices of these names, behind each other."""
        weight = [self.weights[f"{name}.weight"].detach() for name in names]
        self.step(
            _LINEAR,
            in_=source,
            out=out,
            other=residual,
            weight=self.matrix(weight[0] if len(weight) == 1 else torch.cat(weight)),
            bias=self.bias(*names),
            kind=0 if activation is None else ACTIVATIONS[activation],
            activation_bits=self.bits,
        )

    def norm(self, source: int, out: int, name: str) -> None:
        weight = self.weights[f"{name}.weight"]
        self.step(
            _NORM,
            in_=source,
            out=out,
            weight=self.pointer(weight),
            bias=self.pointer(self.weights.get(f"{name}.bias")),
            kind=NORMS[self.spec.norm],
            second_type=ELEMENT_TYPES[str(weight.dtype)],
            number=self.spec.norm_eps,
        )

    def embed(self, out: int, head: Matrix | None) -> None:
        """``head``: the token table, packed, where it is also the vocabulary head and rounds no more than it."""
        tokens = self.weights["embeddings.tokens"]
        positions, types = (self.weights.get(f"embeddings.{name}") for name in ("positions", "types"))
        self.step(
            _EMBED,
            out=out,
            kind=ELEMENT_TYPES[str(tokens.dtype)] if head is None else _PACKED,
            second_type=ELEMENT_TYPES[str(tokens.dtype)],
            weight=self.pointer(tokens) if head is None else head.data.data_ptr(),
            weight_rows=tokens.shape[0],
            bias=self.pointer(positions),
            bias_rows=0 if positions is None else positions.shape[0],
            extra=self.pointer(types),
            extra_rows=0 if types is None else types.shape[0],
        )

    def heads(self, op: int, layer: int, **fields: Any) -> None:
        spec = self.spec
        self.step(
            op,
            query_heads=spec.query_heads,
            key_heads=spec.key_heads,
            width=spec.head_width,
            layer=layer,
            **fields,
        )

    def feed_forward(self, source: int, inner: int, out: int, name: str, residual: int) -> None:
        gate, up = self.weights.get(f"{name}.gate.weight"), self.weights[f"{name}.up.weight"]
        if gate is None:
            self.linear(source, inner, f"{name}.up", activation=self.spec.activation)
        elif up.shape[0] % _PANEL or f"{name}.up.bias" in self.weights:
            raise WeightsError(
                f"a gated feed-forward of width {up.shape[0]}, or with biases, has no native program"
            )
        else:
            both = torch.stack((gate.unflatten(0, (-1, _PANEL)), up.unflatten(0, (-1, _PANEL))), dim=1)
            self.step(
                _GATED,
                in_=source,
                out=inner,
                weight=self.matrix(both.flatten(0, 2)),
                kind=ACTIVATIONS[self.spec.activation],
                activation_bits=self.bits,
            )
        self.linear(inner, out, f"{name}.down", residual=residual)


def stack_program(
    functions: Any,
    spec: StackLike,
    weights: Mapping[str, Tensor],
    pack: Packer,
    *,
    frequencies: Tensor | None,
    head: Tensor | None = None,
    logits: bool = False,
    activation_bits: int = 0,
) -> Program:
    """The program of a stack: embeddings, layers, last norm.

    ``weights`` are the parameters under the names of the plain model. ``frequencies``: of rotary positions, [R/2] float32.
    With ``head`` [V, D] the wanted rows are scored: reduced to log-probabilities and arg-max, or kept with ``logits``.
    Without, the hidden states come out. Raises WeightsError for what the library has no steps for.
    """
    b = _Builder(spec, weights, pack, activation_bits)
    fused = (spec.query_heads + 2 * spec.key_heads) * spec.head_width
    x, normed, qkv = b.buffer(spec.width), b.buffer(spec.width), b.buffer(fused)
    mixed = b.buffer(spec.query_heads * spec.head_width)
    # The last layer: nothing after its attention is computed for rows that nobody wants.
    last_x, last_normed = b.buffer(spec.width, wanted=True), b.buffer(spec.width, wanted=True)
    last_mixed = b.buffer(spec.query_heads * spec.head_width, wanted=True)
    inner, last_inner = b.buffer(spec.inner), b.buffer(spec.inner, wanted=True)
    final = b.buffer(spec.width, wanted=True, external=head is None)
    angles = _NONE
    turned = 0 if frequencies is None else 2 * frequencies.shape[0]
    pre = spec.norm_at == "pre"
    scores = None if head is None else b.packed(head)
    tied = head is weights["embeddings.tokens"] and scores is not None and scores.kind in ("fp32", "bf16")
    b.embed(x if pre else normed, scores if tied else None)
    if not pre:
        b.norm(normed, x, "embeddings.norm")
    if frequencies is not None:
        angles = b.buffer(turned)
        b.step(_ANGLES, out=angles, weight=b.pointer(frequencies.float()), turned=turned)
    for layer in range(spec.layers):
        name = f"blocks.{layer}"
        last = layer == spec.layers - 1
        source = x
        if pre:
            source = normed
            b.norm(x, normed, f"{name}.attention_norm")
        b.linear(source, qkv, *(f"{name}.attention.{part}" for part in ("query", "key", "value")))
        b.heads(_STORE, layer, in_=qkv, other=angles, turned=turned)
        b.heads(_ATTENTION, layer, in_=qkv, out=mixed, number=spec.scale(layer))
        here = (x, normed, mixed, inner)
        if last:
            here = (last_x, last_normed, last_mixed, last_inner)
            b.step(_GATHER, in_=x, out=last_x)
            b.step(_GATHER, in_=mixed, out=last_mixed)
        x, normed, mixed, inner = here
        if pre:
            b.linear(mixed, x, f"{name}.attention.output", residual=x)
            b.norm(x, normed, f"{name}.feed_forward_norm")
            b.feed_forward(normed, inner, x, f"{name}.feed_forward", x)
        else:
            b.linear(mixed, normed, f"{name}.attention.output", residual=x)
            b.norm(normed, x, f"{name}.attention_norm")
            b.feed_forward(x, inner, normed, f"{name}.feed_forward", x)
            b.norm(normed, final if last else x, f"{name}.feed_forward_norm")
    if pre:
        b.norm(x, final, "final_norm")
    if scores is not None:
        fields = {"in_": final, "weight": scores.data.data_ptr(), "activation_bits": activation_bits}
        if logits:
            b.step(_LINEAR, out=b.buffer(scores.outputs, wanted=True, external=True), **fields)
        else:
            b.step(_HEAD, **fields)
    return Program(functions, b.steps, b.buffers, b.kept)
