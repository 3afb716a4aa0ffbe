"""Every CUDA kernel in Triton's interpreter against plain torch in float64: a program of its own, for Triton decides at import.

    python kernel_grid.py [--thorough] [--device cuda] [PART...]

prints, for each kernel, how many cases there were and the largest error among them as JSON; on a device nothing is interpreted. Inputs and outputs lie between
canaries: what is read beyond an input is NaN, and what is written beyond an output is found afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0" if "--device" in sys.argv else "1"

import torch
from torch import Tensor

from llmasos.api import AttentionLayout, SamplingParams

MARGIN = 64
#: float32 differs by the order of sums; narrower types by two roundings of values of unit scale as well.
TOLERANCE = 3e-5
#: What rounding activations to two bfloat16 numbers may cost, in products with quantised weights.
QUANTISED_TOLERANCE = 5e-4
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Score:
    """What was found of one kernel, by element type of its inputs: the largest error, and the largest share of what is allowed."""

    cases: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Grid:
    """Makes inputs, compares results, keeps the score."""

    def __init__(self, thorough: bool, device: str) -> None:
        self.thorough = thorough
        self.device = device
        self.dtypes = DTYPES if thorough else DTYPES[:2]
        self.scores: dict[str, Score] = {}
        self.generator = torch.Generator().manual_seed(20261122)

    def some(self, short: tuple[Any, ...], more: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Values to try, more of them in a thorough run."""
        return (*short, *more) if self.thorough else short

    def combinations(
        self, every: int, *values: Iterable[Any], thorough: int = 1
    ) -> Iterator[tuple[Any, ...]]:
        """Every so many of all combinations, or of a ``thorough`` run: with a step that has no factor in common with the numbers of
        values, each value occurs."""
        yield from islice(product(*values), None, None, thorough if self.thorough else every)

    def there(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor on the device."""
        return torch.as_tensor(values, dtype=dtype).to(self.device)

    def random(self, *shape: int, dtype: torch.dtype = torch.float32, gaps: bool = False) -> Tensor:
        """Unit-scale numbers between canaries; ``gaps``: rows do not lie end to end."""
        width = shape[-1] + 3 if gaps and len(shape) > 1 else shape[-1]
        x = fenced((*shape[:-1], width), dtype, self.device)
        x = x[..., : shape[-1]]
        x.copy_(torch.randn(shape, generator=self.generator))
        return x

    def integers(self, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        x = fenced(shape, dtype, self.device)
        x.copy_(torch.randint(0, max(high, 1), shape, generator=self.generator))
        return x

    def compare(
        self,
        kernels: tuple[str, ...],
        dtype: torch.dtype,
        case: str,
        run: Callable[[], Any],
        expected: list[Tensor],
        tolerance: float = TOLERANCE,
    ) -> None:
        """Run a case of some kernels and compare each of its results."""
        scores = [self.scores.setdefault(kernel, Score()) for kernel in kernels]
        failures = []
        try:
            with watched() as broken:
                found = run()
            failures += [f"wrote beyond {name}" for name in broken]
            results = list(found) if isinstance(found, tuple | list) else [found]
            gaps = [self._gap(left, right, tolerance) for left, right in zip(results, expected, strict=True)]
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            gaps = []
        name = str(dtype).removeprefix("torch.")
        for score in scores:
            score.cases += 1
            for largest, share in gaps:
                score.largest[name] = max(score.largest.get(name, 0.0), largest)
                score.share[name] = max(score.share.get(name, 0.0), share)
            # Written so that NaN is beyond what is allowed.
            far = [f"differs by {largest:.3g}" for largest, share in gaps if not share <= 1]
            score.failures += [f"{case} {name}: {what}" for what in (*failures, *far)]

    def _gap(self, left: Tensor, right: Tensor, tolerance: float) -> tuple[float, float]:
        """(largest difference, largest share of what is allowed)."""
        if left.shape != right.shape:
            raise ValueError(f"{list(left.shape)} instead of {list(right.shape)}")
        if not left.numel():
            return 0.0, 0.0
        wanted = right.double()
        equal = (left.double() == wanted) | (left.isnan() & wanted.isnan())
        gap = torch.where(equal, 0.0, (left.double() - wanted).abs()).nan_to_num(nan=math.inf)
        allowed = torch.full_like(gap, tolerance)
        if left.dtype in (torch.bfloat16, torch.float16):
            allowed += 2 * torch.finfo(left.dtype).eps * (1 + wanted.abs().nan_to_num())
        return float(gap.max()), float((gap / allowed).max())


# ---- canaries ---------------------------------------------------------------------------------------------------------

#: All fenced memory since the last case, inputs included: name, memory, what it was when it was made.
_fences: list[tuple[str, Tensor, Tensor]] = []
_empty, _empty_like = torch.empty, torch.empty_like


def fenced(shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> Tensor:
    """Memory between canaries, full of them: NaN, or a number that no index has."""
    count = math.prod(shape)
    canary = math.nan if dtype.is_floating_point else 0x5A if dtype.itemsize == 1 else 0x5A5A5A5A
    whole = torch.full((count + 2 * MARGIN,), canary, dtype=dtype, device=device)
    _fences.append((f"a tensor {list(shape)}", whole, whole.clone()))
    return whole[MARGIN : MARGIN + count].view(shape)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Within it the memory that kernels write is fenced; afterwards the list names what was written beyond its end, be it an output
    or an input."""
    broken: list[str] = []

    def empty(*size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], tuple | list | torch.Size) else size
        return fenced(tuple(int(n) for n in shape), dtype or torch.float32, device or "cpu")

    torch.empty = empty  # type: ignore[assignment]
    torch.empty_like = lambda x, **rest: empty(tuple(x.shape), dtype=x.dtype, device=x.device)  # type: ignore[assignment]
    try:
        yield broken
    finally:
        torch.empty, torch.empty_like = _empty, _empty_like
        for name, whole, before in _fences:
            for edge in (slice(0, MARGIN), slice(len(whole) - MARGIN, None)):
                if not torch.equal(whole[edge].view(torch.uint8), before[edge].view(torch.uint8)):
                    broken.append(name)
        _fences.clear()


# ---- norms, gates, rotary ---------------------------------------------------------------------------------------------


def norm_cases(grid: Grid) -> None:
    from llmasos_cuda.kernels.norms import norm

    rows, widths = grid.some((0, 1, 3), (8,)), grid.some((1, 40, 130), (7, 64, 257, 1024))
    shapes = ((False, False), (True, True), (True, False))
    for n, width, dtype, centred, (delta, gaps) in grid.combinations(
        5, rows, widths, grid.dtypes, (False, True), shapes
    ):
        x = grid.random(n, width, dtype=dtype, gaps=gaps)
        weight = grid.random(width, dtype=dtype)
        bias = grid.random(width, dtype=dtype) if centred and width != 40 else None
        d = grid.random(n, width, dtype=dtype, gaps=gaps) if delta else None
        total = (x.double() + (0 if d is None else d.double())).to(dtype).double()
        y = total - total.mean(1, keepdim=True) if centred else total
        y = y * (y.square().mean(1, keepdim=True) + 1e-5).rsqrt() * weight.double()
        y = y if bias is None else y + bias.double()
        case = f"{n}x{width} centred={centred} delta={delta} gaps={gaps}"
        # A row of one number is its own mean: what is left is rounding over the square root of eps.
        tolerance = 2e-4 if centred and width == 1 else TOLERANCE
        grid.compare(
            ("norm_kernel",),
            dtype,
            case,
            lambda x=x, w=weight, b=bias, c=centred, d=d: norm(x, w, b, 1e-5, centred=c, delta=d),  # type: ignore[misc]
            [y, total],
            tolerance,
        )


def gate_cases(grid: Grid) -> None:
    import torch.nn.functional as F

    from llmasos_cuda.kernels.gates import gated

    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
        "tanh": torch.tanh,
    }
    shapes = grid.some(((0, 8), (1, 5), (3, 40)), ((2, 1025), (5, 64)))
    for (n, width), dtype, kind, two in grid.combinations(7, shapes, grid.dtypes, kinds, (False, True)):
        both = grid.random(n, 2 * width, dtype=dtype) * 4
        gate, up = both.chunk(2, dim=1)
        expected = kinds[kind](gate.double()) * (up.double() if two else 1)
        grid.compare(
            ("gate_kernel",),
            dtype,
            f"{n}x{width} {kind} up={two}",
            lambda g=gate, u=up if two else None, k=kind: gated(g, u, k),  # type: ignore[misc]
            [expected],
        )


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The definition of rotary positions, in float64."""
    half = cos.shape[1]
    x, c, s = x.double(), cos.double()[:, None], sin.double()[:, None]
    first, second = x[..., :half], x[..., half : 2 * half]
    return torch.cat([first * c - second * s, second * c + first * s, x[..., 2 * half :]], dim=-1)


def rotary_cases(grid: Grid) -> None:
    from llmasos_cuda.kernels.rotary import rotary, rotary_store

    sizes = grid.some(((1, 3, 8, 4), (5, 1, 20, 3)), ((0, 2, 8, 4), (2, 9, 64, 32), (3, 5, 6, 1)))
    for (n, heads, width, half), dtype, gaps in grid.combinations(3, sizes, grid.dtypes, (False, True)):
        x = grid.random(n, heads, width, dtype=dtype, gaps=gaps)
        angle = grid.random(n, half)
        cos, sin = angle.cos(), angle.sin()
        grid.compare(
            ("rotary_kernel",),
            dtype,
            f"{n}x{heads}x{width} half={half} gaps={gaps}",
            lambda x=x, c=cos, s=sin: rotary(x, c, s),  # type: ignore[misc]
            [turned(x, cos, sin)],
        )
    stores = grid.some(((3, 4, 2, 8, 4), (2, 3, 3, 12, 0)), ((1, 5, 1, 20, 3), (4, 8, 8, 64, 32)))
    for (n, heads, keys, width, half), dtype in product(stores, grid.dtypes):
        qkv = grid.random(n, (heads + 2 * keys) * width, dtype=dtype)
        angle = grid.random(n, max(half, 1))
        cos, sin = (angle.cos(), angle.sin()) if half else (None, None)
        k_slab, v_slab = (grid.random(n + 4, keys, width, dtype=dtype) for _ in range(2))
        rows = grid.there(torch.randperm(n + 4, generator=grid.generator)[:n])
        rows[-1] = -1  # only fills the step up
        parts = qkv.view(n, -1, width).split([heads, keys, keys], dim=1)
        q, k, v = (one.double() for one in parts)
        if cos is not None and sin is not None:
            q, k = turned(q, cos, sin), turned(k, cos, sin)
        expected = [q, k_slab.double().clone(), v_slab.double().clone()]
        expected[1][rows[:-1]], expected[2][rows[:-1]] = k[:-1], v[:-1]

        def run(
            qkv: Tensor = qkv,
            cos: Tensor | None = cos,
            sin: Tensor | None = sin,
            rows: Tensor = rows,
            slabs: tuple[Tensor, Tensor] = (k_slab, v_slab),
            heads: int = heads,
            width: int = width,
        ) -> list[Tensor]:
            rotary_store(qkv, cos, sin, rows, *slabs, heads)
            return [qkv.view(len(rows), -1, width)[:, :heads], *slabs]

        case = f"{n} tokens {heads}+2x{keys}x{width} half={half}"
        grid.compare(("store_kernel",), dtype, case, run, expected)


# ---- attention --------------------------------------------------------------------------------------------------------


def visible_keys(layout: AttentionLayout) -> list[list[int]]:
    """For each query the rows of the keys it sees, straight from the definition of a layout."""
    found: list[list[int]] = []
    for b in range(len(layout.q_starts) - 1):
        n = layout.q_starts[b + 1] - layout.q_starts[b]
        begin = layout.k_starts[b]
        if layout.before is not None and layout.visible is not None:
            past = [row for first, last in layout.before[b] for row in range(first, last)]
            mask = layout.visible[b]
            for i in range(n):
                own = [j for j in range(i + 1) if mask is None or bool(mask[i, j])]
                found.append(past + [begin + j for j in own])
            continue
        end = layout.k_starts[b + 1] if layout.k_lengths is None else begin + layout.k_lengths[b]
        m = end - begin
        for i in range(n):
            seen = m - n + i + 1 if layout.causal else m
            found.append(list(range(begin, begin + seen)))
    return found


def attended(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """Attention in float64, a query at a time."""
    group = q.shape[1] // k.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    for i, rows in enumerate(visible_keys(layout)):
        keys = k.double()[rows].repeat_interleave(group, dim=1)
        values = v.double()[rows].repeat_interleave(group, dim=1)
        weights = (torch.einsum("he,khe->hk", q[i].double(), keys) * scale).softmax(dim=1)
        out[i] = torch.einsum("hk,khe->he", weights, values)
    return out


def layouts(thorough: bool) -> Iterator[tuple[str, AttentionLayout, int, int]]:
    """(name, layout, rows of keys, room for queries): every form that models ask for."""
    yield "packed", AttentionLayout((0, 1, 1, 8, 27), (0, 1, 1, 8, 27), True), 27, 0
    yield "encoder", AttentionLayout((0, 3, 40), (0, 3, 40), False), 40, 0
    yield "past", AttentionLayout((0, 2, 9), (0, 40, 120), True), 120, 0
    steps = AttentionLayout((0, 1, 2, 3), (60, 0, 190), True, k_lengths=(130, 7, 60))
    yield "steps", steps, 250, 0
    yield "steps with room", steps, 250, 4
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    yield (
        "tree",
        AttentionLayout(
            (0, 4, 7, 24),
            (20, 24, 27),
            True,
            before=(((0, 9),), ((0, 6), (20, 22)), ()),
            visible=(None, mask, torch.eye(17, dtype=torch.bool)),
        ),
        44,
        0,
    )
    # Five answers after one prefix, which is long enough to be read for all of them together, and one that has another.
    yield (
        "shared prefix",
        AttentionLayout(
            (0, 3, 4, 9, 10, 30, 32),
            (100, 103, 104, 109, 110, 130),
            True,
            before=(*[((0, 80),)] * 3, ((0, 95), (140, 150)), ((0, 80),), ((3, 90),)),
            visible=(mask, None, None, None, None, None),
        ),
        150,
        0,
    )
    shared_steps = AttentionLayout(
        tuple(range(6)),
        (100, 110, 120, 130, 140),
        True,
        before=(*[((0, 70), (95 + 5, 100))] * 4, ((0, 66), (135, 140))),
        visible=(None,) * 5,
    )
    yield "steps after a shared prefix", shared_steps, 150, 8
    if thorough:
        yield "one", AttentionLayout((0, 1), (0, 1), True), 1, 0
        yield "none", AttentionLayout((0, 0), (0, 0), True), 0, 0
        yield "long", AttentionLayout((0, 150), (0, 200), True), 200, 0
        yield "long encoder", AttentionLayout((0, 70, 141), (0, 70, 141), False), 141, 0
        yield "speculation", AttentionLayout((0, 5, 8), (0, 300), True, k_lengths=(280, 99)), 400, 0
        pages = tuple((64 * page, 64 * page + 64) for page in (7, 2, 5, 0))
        yield (
            "pages",
            AttentionLayout((0, 1, 4), (448, 60), True, before=(pages, ((128, 192),)), visible=(None, None)),
            512,
            0,
        )


def attention_cases(grid: Grid) -> None:
    from llmasos_cuda.kernels.attention import attend
    from llmasos_cuda.ops import plan_of

    forms = grid.some(((4, 2, 16), (3, 3, 24)), ((8, 8, 4), (40, 1, 16), (2, 1, 130)))
    every = grid.combinations(9, layouts(grid.thorough), forms, grid.dtypes, thorough=2)
    for (name, layout, rows, room), (heads, key_heads, width), dtype in every:
        queries = layout.q_starts[-1]
        gaps = width % 3 == 0
        q = grid.random(max(queries, room), heads, width, dtype=dtype, gaps=gaps)
        k, v = (grid.random(rows, key_heads, width, dtype=dtype, gaps=gaps) for _ in "kv")
        expected = attended(q, k, v, layout, 0.3)
        plan = plan_of(q, k, layout, room)
        grid.compare(
            ("attend_kernel", "combine_kernel") if plan.partial else ("attend_kernel",),
            dtype,
            f"{name} {heads}/{key_heads}x{width}",
            lambda q=q, k=k, v=v, p=plan: attend(q, k, v, p, 0.3),  # type: ignore[misc]
            [expected],
        )


# ---- heads and losses -------------------------------------------------------------------------------------------------


def head_cases(grid: Grid) -> None:
    from llmasos_cuda.kernels.head import head_sums, target_logprobs
    from llmasos_cuda.quantisation import quantise

    shapes = grid.some(((1, 5, 3), (17, 40, 50), (5, 20, 131)), ((0, 8, 9), (33, 128, 257), (2, 130, 33)))
    for (rows, width, vocabulary), dtype, biased in grid.combinations(5, shapes, grid.dtypes, (False, True)):
        x = grid.random(rows, width, dtype=dtype, gaps=biased)
        bias = grid.random(vocabulary, dtype=dtype) if biased else None
        weight = grid.random(vocabulary, width, dtype=dtype, gaps=biased)
        weight.mul_(width**-0.5)
        row = grid.there(torch.arange(rows).repeat_interleave(2))
        targets = grid.integers(vocabulary, len(row))
        for bits in grid.some((0, 8, 4) if dtype == torch.float32 else (0,), (8, 4)):
            packed = quantise(weight.contiguous(), bits) if bits else None
            numbers = weight if packed is None else packed.plain()
            logits = x.double() @ numbers.double().T + (0 if bias is None else bias.double())
            total = logits.logsumexp(1)
            held = (weight, None, None) if packed is None else (packed.data, packed.steps, packed.least)
            case = f"{rows}x{width} V={vocabulary} bias={biased} bits={bits}"
            tolerance = QUANTISED_TOLERANCE if bits else 1e-4

            def run(
                x: Tensor = x, held: Any = held, bias: Tensor | None = bias, logits: Tensor = logits
            ) -> list[Tensor]:
                totals, best = head_sums(x, *held, bias)
                # Either of two that are nearly equal may be the largest: what counts is its logit.
                return [totals, logits.gather(1, best[:, None]).squeeze(1)]

            grid.compare(
                ("head_kernel", "merge_kernel"), dtype, case, run, [total, logits.amax(1)], tolerance
            )
            if packed is None:
                expected = (logits - total[:, None])[row].gather(1, targets[:, None]).squeeze(1)
                sums = total.float()
                grid.compare(
                    ("target_kernel",),
                    dtype,
                    case,
                    lambda x=x, w=weight, b=bias, r=row, t=targets, s=sums: target_logprobs(  # type: ignore[misc]
                        x, w, b, r, t, t, s
                    ),
                    [expected],
                    1e-4,
                )


def loss_cases(grid: Grid) -> None:
    from llmasos_cuda.kernels.cross_entropy import loss_and_slopes

    shapes = grid.some(((1, 5, 3), (7, 20, 130)), ((0, 4, 5), (12, 16, 300), (3, 40, 64)))
    for (rows, width, vocabulary), dtype, mean, biased in grid.combinations(
        3, shapes, grid.dtypes, (True, False), (False, True)
    ):
        for ignored in grid.some((False, True)):
            x = grid.random(rows, width, dtype=dtype)
            weight = grid.random(vocabulary, width, dtype=dtype)
            bias = grid.random(vocabulary, dtype=dtype) if biased else None
            targets = grid.integers(vocabulary, rows)
            if ignored:
                targets[::2] = -100
            leaves = [one.double().detach().requires_grad_() for one in (x, weight)]
            shift = None if bias is None else bias.double().detach().requires_grad_()
            logits = leaves[0] @ leaves[1].T + (0 if shift is None else shift)
            loss = torch.nn.functional.cross_entropy(
                logits, targets, ignore_index=-100, reduction="mean" if mean else "sum"
            )
            counted = bool((targets != -100).any())
            if counted:
                loss.backward()
            slopes = [torch.zeros_like(one) if one.grad is None else one.grad for one in leaves]
            if shift is not None:
                slopes.append(torch.zeros_like(shift) if shift.grad is None else shift.grad)
            # Logits and gradients lie in the element type between the products, where their scale counts.
            wide = dtype == torch.float32
            scale = 1 + max(
                float(one.abs().max()) if one.numel() else 0 for one in [logits.detach(), *slopes]
            )
            grid.compare(
                ("loss_kernel",),
                dtype,
                f"{rows}x{width} V={vocabulary} mean={mean} bias={biased} ignored={ignored}",
                lambda x=x, w=weight, b=bias, t=targets, m=mean: loss_and_slopes(  # type: ignore[misc]
                    x, w, b, t, -100, m, True, True, 3
                )[: 3 if b is None else 4],
                [loss.detach(), *slopes],
                scale * (2e-5 if wide else 4 * torch.finfo(dtype).eps),
            )


# ---- quantised products and sampling ----------------------------------------------------------------------------------


def quantised_cases(grid: Grid) -> None:
    from llmasos_cuda.kernels.quantised import quantised_linear
    from llmasos_cuda.quantisation import quantise

    rows = grid.some((1, 3, 7, 33), (0, 2, 4, 5, 16, 70))
    shapes = grid.some(((24, 40), (5, 300)), ((1, 7), (70, 128), (33, 131)))
    for m, (outputs, inputs), bits, dtype in grid.combinations(3, rows, shapes, (8, 4), grid.dtypes):
        biased = outputs == 24
        packed = quantise(grid.random(outputs, inputs) * inputs**-0.5, bits)
        x = grid.random(m, inputs, dtype=dtype, gaps=not biased)
        bias = grid.random(outputs, dtype=dtype) if biased else None
        expected = x.double() @ packed.plain().double().T + (0 if bias is None else bias.double())
        grid.compare(
            ("vector_kernel",) if m <= 4 else ("matrix_kernel",),
            dtype,
            f"{m}x{inputs} by {outputs} int{bits} bias={biased}",
            lambda x=x, p=packed, b=bias: quantised_linear(x, p.data, p.steps, p.least, b),  # type: ignore[misc]
            [expected],
            QUANTISED_TOLERANCE,
        )


def sample_cases(grid: Grid) -> None:
    from llmasos.pipelines.sampling import filtered
    from llmasos_cuda.kernels.sampling import sample

    settings = [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(temperature=1.3, top_p=0.8),
        SamplingParams(temperature=1.0, min_p=0.1),
        SamplingParams(temperature=0.9, top_k=20, top_p=0.5, min_p=0.02),
        SamplingParams(temperature=0.0),
    ]
    for vocabulary, dtype in grid.combinations(3, grid.some((40, 1), (70, 1000)), grid.dtypes):
        logits = grid.random(len(settings), vocabulary, dtype=dtype) * 3
        uniform = grid.there(torch.rand(len(settings), generator=grid.generator))
        tokens, logprobs = [], []
        for scores, params, u in zip(logits.float(), settings, uniform, strict=True):
            warm = scores.double() / (params.temperature or 1.0)
            if params.temperature:
                # float32 as the kernel divides it, so that both see the same ties.
                kept = filtered(scores[None], params)[0].double()
                cumulative = kept.softmax(0).cumsum(0)
                token = int(torch.searchsorted(cumulative, float(u) * cumulative[-1], right=True))
            else:
                token = int(scores.argmax())
            tokens.append(token)
            logprobs.append(float(warm[token] - warm.logsumexp(0)))

        def run(logits: Tensor = logits, uniform: Tensor = uniform) -> Any:
            return sample(
                logits,
                grid.there([p.temperature for p in settings]),
                grid.there([p.top_k for p in settings], torch.int32),
                grid.there([p.top_p for p in settings]),
                grid.there([p.min_p for p in settings]),
                uniform,
            )

        expected = [grid.there(tokens), grid.there(logprobs, torch.float64)]
        grid.compare(("sample_kernel",), dtype, f"V={vocabulary}", run, expected)


PARTS: dict[str, Callable[[Grid], None]] = {
    "norms": norm_cases,
    "gates": gate_cases,
    "rotary": rotary_cases,
    "attention": attention_cases,
    "head": head_cases,
    "loss": loss_cases,
    "quantised": quantised_cases,
    "sampling": sample_cases,
}


def run(parts: Sequence[str], *, thorough: bool, device: str) -> dict[str, Any]:
    """The scores of some parts, by kernel."""
    grid = Grid(thorough, device)
    for name in parts:
        begin = time.process_time()
        PARTS[name](grid)
        print(f"{name}: {time.process_time() - begin:.1f} s of one core", file=sys.stderr, flush=True)
    return {name: vars(score) for name, score in grid.scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    json.dump(run(options.parts or list(PARTS), thorough=options.thorough, device=options.device), sys.stdout)


if __name__ == "__main__":
    main()
