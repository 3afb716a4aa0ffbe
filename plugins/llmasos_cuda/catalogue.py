"""Every kernel in the shapes it is used in: what is compiled ahead of time and timed, and what it should cost at best.

The shapes are those of a model of 8 billion parameters (32 query heads and 8 key heads of 128, width 4096, feed-forward 14336, 128256
tokens) unless a case says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llmasos.api import AttentionLayout
from llmasos_cuda import ops
from llmasos_cuda.kernels import attention, cross_entropy, gates, head, norms, quantised, rotary, sampling
from llmasos_cuda.launching import Launch, recorded
from llmasos_cuda.quantisation import INT4_GROUP, INT8_GROUP

_WIDTH, _INNER, _VOCABULARY = 4096, 14336, 128_256
_HEADS, _KEY_HEADS, _HEAD = 32, 8, 128
_HALF, _WIDE = torch.bfloat16, torch.float32

Run = Callable[[], object]


class Maker:
    """Makes the tensors of a case on a device; on ``meta`` they are shapes alone, which is enough to compile."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, *shape: int, dtype: torch.dtype = _HALF) -> Tensor:
        """Numbers of unit scale; whole numbers are small."""
        if not dtype.is_floating_point:
            return torch.ones(shape, dtype=dtype, device=self.device)
        return torch.randn(shape, dtype=dtype, device=self.device)

    def uniform(self, count: int) -> Tensor:
        """Numbers between 0 and 1."""
        return torch.rand(count, device=self.device)


@dataclass(frozen=True, slots=True)
class Case:
    """A use of a kernel. ``bytes`` that it must move and ``products`` it must multiply and add, at least.

    ``build`` makes the tensors and returns what runs. ``precision``: which rate of tensor cores bounds the products.
    """

    name: str
    shape: str
    build: Callable[[Maker], Run]
    bytes: int
    products: int = 0
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """A launch of a case. A case may launch several kernels; each is a use of its own."""

    case: Case
    kernel: str
    launch: Launch


def uses(architecture: str, names: frozenset[str] | None = None) -> Iterator[Use]:
    """All launches of all cases, or of those named, as they would happen on an architecture."""
    for case in cases():
        if names is not None and case.name not in names:
            continue
        with recorded(architecture) as record:
            case.build(Maker("meta"))()
        seen = set()
        for launch in record.launches:
            kernel = launch.kernel.__name__
            if kernel not in seen:  # chunks repeat it
                seen.add(kernel)
                yield Use(case, kernel, launch)


def cases() -> Iterator[Case]:
    """The catalogue."""
    yield from _norm_cases()
    yield from _pointwise_cases()
    yield from _attention_cases()
    yield from _head_cases()
    yield from _quantised_cases()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rate(dtype: torch.dtype) -> str:
    return "half" if dtype.itemsize == 2 else "tf32x3"


# ---- between the matrices ---------------------------------------------------------------------------------------------


def _norm_cases() -> Iterator[Case]:
    n, d = 4096, _WIDTH
    for name, centred, added, dtype in (
        ("rms_norm", False, False, _HALF),
        ("layer_norm", True, False, _HALF),
        ("add_rms_norm", False, True, _HALF),
        ("add_layer_norm", True, True, _WIDE),
    ):

        def build(
            make: Maker, centred: bool = centred, added: bool = added, dtype: torch.dtype = dtype
        ) -> Run:
            x, weight = make(n, d, dtype=dtype), make(d, dtype=dtype)
            delta = make(n, d, dtype=dtype) if added else None
            bias = weight if centred else None
            return lambda: norms.norm(x, weight, bias, 1e-5, centred=centred, delta=delta)

        moved = (4 if added else 2) * n * d * dtype.itemsize
        yield Case(name, f"{n} x {d} {_name(dtype)}", build, moved)


def _pointwise_cases() -> Iterator[Case]:
    n = 4096
    for name, kind in (("swiglu", "silu"), ("geglu", "gelu_new")):

        def gate(make: Maker, kind: str = kind) -> Run:
            halves = make(n, 2 * _INNER).chunk(2, dim=1)
            return lambda: gates.gated(*halves, kind)

        yield Case(name, f"{n} x {_INNER} bfloat16", gate, 3 * n * _INNER * 2)

    def gelu(make: Maker) -> Run:
        x = make(n, 3072, dtype=_WIDE)
        return lambda: gates.gated(x, None, "gelu")

    yield Case("gelu", f"{n} x 3072 float32", gelu, 2 * n * 3072 * 4)

    def rotary_alone(make: Maker) -> Run:
        x, angles = make(n, _HEADS, _HEAD), make(n, _HEAD // 2, dtype=_WIDE)
        return lambda: rotary.rotary(x, angles, angles)

    def rotary_store(make: Maker) -> Run:
        qkv, angles = make(n, (_HEADS + 2 * _KEY_HEADS) * _HEAD), make(n, _HEAD // 2, dtype=_WIDE)
        keys, values = (make(n, _KEY_HEADS, _HEAD) for _ in range(2))
        rows = torch.arange(n, device=make.device)
        return lambda: rotary.rotary_store(qkv, angles, angles, rows, keys, values, _HEADS)

    heads = f"{n} tokens, {_HEADS} heads of {_HEAD} bfloat16"
    yield Case("rotary", heads, rotary_alone, 2 * n * _HEADS * _HEAD * 2)
    stored = f"{n} tokens, {_HEADS} + 2 x {_KEY_HEADS} heads of {_HEAD} bfloat16"
    yield Case("rotary_store", stored, rotary_store, 2 * n * (_HEADS + 2 * _KEY_HEADS) * _HEAD * 2)


# ---- attention --------------------------------------------------------------------------------------------------------


def _attention_case(
    name: str, shape: str, layout: AttentionLayout, pairs: int, keys: int, dtype: torch.dtype, width: int
) -> Case:
    heads, key_heads = (_HEADS, _KEY_HEADS) if width == 128 else (12, 12)
    queries = layout.q_starts[-1]

    def build(make: Maker) -> Run:
        q = make(queries, heads, width, dtype=dtype)
        k, v = (make(keys, key_heads, width, dtype=dtype) for _ in range(2))
        plan = ops.plan_of(q, k, _placed(layout, make.device))
        return lambda: attention.attend(q, k, v, plan, 0.1)

    return Case(
        name,
        f"{shape}, {heads} heads on {key_heads} of {width} {_name(dtype)}",
        build,
        (2 * queries * heads + 2 * keys * key_heads) * width * dtype.itemsize,
        2 * pairs * heads * width,
        _rate(dtype),
    )


def _placed(layout: AttentionLayout, device: str) -> AttentionLayout:
    """The layout with the masks of its trees on a device: every second token is seen, and each sees itself."""
    if layout.visible is None:
        return layout
    masks = []
    for first, last in zip(layout.q_starts, layout.q_starts[1:], strict=False):
        count = last - first
        step = torch.arange(count, device=device)
        masks.append((step[:, None] - step[None, :]) % 2 == 0)
    return AttentionLayout(layout.q_starts, layout.k_starts, True, before=layout.before, visible=tuple(masks))


def _attention_cases() -> Iterator[Case]:
    n = 4096
    causal = AttentionLayout((0, n), (0, n), True)
    for width, dtype in ((128, _HALF), (64, _HALF), (256, _HALF), (64, _WIDE), (128, _WIDE)):
        name = f"attention.{'half' if dtype == _HALF else 'wide'}.{width}"
        yield _attention_case(name, f"prefill of {n}", causal, n * (n + 1) // 2, n, dtype, width)
    b, past = 64, 4096
    steps = AttentionLayout(tuple(range(b + 1)), tuple(range(0, b * past, past)), True, k_lengths=(past,) * b)
    for width, dtype in ((128, _HALF), (64, _WIDE)):
        name = f"decode.{'half' if dtype == _HALF else 'wide'}.{width}"
        yield _attention_case(name, f"{b} sequences after {past}", steps, b * past, b * past, dtype, width)
    tree = AttentionLayout(
        tuple(range(0, b * 16 + 1, 16)),
        tuple(range(past, past + b * 16, 16)),
        True,
        before=(((0, past),),) * b,
        visible=(None,) * b,
    )
    shape = f"{b} trees of 16 tokens after a prefix of {past}"
    yield _attention_case("tree.half.128", shape, tree, b * 16 * (past + 5), past + b * 16, _HALF, 128)


# ---- heads ------------------------------------------------------------------------------------------------------------


def _packed(make: Maker, outputs: int, inputs: int, bits: int) -> tuple[Tensor, Tensor, Tensor | None]:
    if bits == 8:
        steps = make(outputs, inputs // INT8_GROUP, dtype=_WIDE)
        return make(outputs, inputs, dtype=torch.int8), steps, None
    steps = make(outputs, inputs // INT4_GROUP, dtype=torch.float16)
    return make(outputs, inputs // 2, dtype=torch.uint8), steps, steps


def _packed_bytes(outputs: int, inputs: int, bits: int) -> int:
    steps = inputs // INT8_GROUP * 4 if bits == 8 else inputs // INT4_GROUP * 4
    return outputs * (inputs * bits // 8 + steps)


def _head_cases() -> Iterator[Case]:
    v, d, rows = _VOCABULARY, _WIDTH, 1024
    for dtype in (_HALF, _WIDE):

        def logprobs(make: Maker, dtype: torch.dtype = dtype) -> Run:
            x, weight = make(rows, d, dtype=dtype), make(v, d, dtype=dtype)
            index = torch.arange(rows, device=make.device)

            def run() -> None:
                totals, _ = head.head_sums(x, weight, None, None, None)
                head.target_logprobs(x, weight, None, index, index, index, totals)

            return run

        kind = "half" if dtype == _HALF else "wide"
        shape = f"{rows} rows, {v} tokens, {_name(dtype)}"
        moved = (rows + v) * d * dtype.itemsize
        yield Case(f"logprobs.{kind}", shape, logprobs, moved, rows * v * d, _rate(dtype))

        def loss(make: Maker, dtype: torch.dtype = dtype) -> Run:
            x, weight = make(256, d, dtype=dtype), make(v, d, dtype=dtype)
            targets = make(256, dtype=torch.int64)
            return lambda: cross_entropy.loss_and_slopes(x, weight, None, targets, -100, True, False, False)

        # Each logit is read twice and written once; the product before is cuBLAS's.
        shape = f"256 rows of {v} logits, {_name(dtype)}"
        yield Case(f"cross_entropy.{kind}", shape, loss, 3 * 256 * v * dtype.itemsize)

    def quantised_head(make: Maker) -> Run:
        x, packed = make(16, d, dtype=_WIDE), _packed(make, v, d, 8)
        return lambda: head.head_sums(x, *packed, None)

    shape = f"16 rows, {v} tokens, float32 by int8"
    # float32 rows go as two of bfloat16.
    yield Case("logprobs.int8", shape, quantised_head, _packed_bytes(v, d, 8), 2 * 16 * v * d, "half")

    def sample(make: Maker) -> Run:
        logits, ones, half = make(64, v, dtype=_WIDE), make.uniform(64) * 0 + 1, make.uniform(64) * 0 + 0.5
        settings = (ones, make(64, dtype=torch.int32) * 50, half, half * 0, make.uniform(64))
        return lambda: sampling.sample(logits, *settings)

    yield Case("sample", f"64 rows of {v} logits, float32", sample, 64 * v * 4)


def _quantised_cases() -> Iterator[Case]:
    o, i = _INNER, _WIDTH
    for bits in (8, 4):
        for rows, dtype in ((1, _WIDE), (1, _HALF), (4, _WIDE), (16, _WIDE), (512, _WIDE), (512, _HALF)):

            def build(make: Maker, rows: int = rows, dtype: torch.dtype = dtype, bits: int = bits) -> Run:
                x, (data, steps, least) = make(rows, i, dtype=dtype), _packed(make, o, i, bits)
                return lambda: quantised.quantised_linear(x, data, steps, least, None)

            kind = "half" if dtype == _HALF else "wide"
            yield Case(
                f"int{bits}.{rows}.{kind}",
                f"{rows} x {i} {_name(dtype)} by {o} x {i} int{bits}",
                build,
                _packed_bytes(o, i, bits) + rows * (o + i) * dtype.itemsize,
                # float32 rows go as two of bfloat16.
                rows * o * i * (1 if dtype == _HALF else 2),
                "half",
            )
