"""Attention over every layout, from plans: prefill, decode split along the keys, trees, prefixes that sequences share.

The softmax is taken as the keys come by (Milakov & Gimelshein 2018; Dao et al. 2022), parts of it are weighed by their sums.

Letters: N queries, K rows of keys, Hq query heads, Hk key/value heads, E head width, P rows of parts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.configurations import configuration
from llmasos_cuda.kernels.language import LOG2_E, dot
from llmasos_cuda.launching import launch, power_of_two
from llmasos_cuda.plan import ITEM, AttentionPlan

_ITEM = tl.constexpr(ITEM)


@triton.jit
def meet(
    query,
    key,
    value,
    rows,
    shown,
    present,
    scale,
    k_row,
    v_row,
    peak,
    total,
    mixed,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One block of keys: the new (peak [M], total [M], mixed [M, E]). ``scale`` has log2(e) in it.

    ``present`` [N] are keys that exist, ``shown`` [M, N] those that each row sees.
    """
    element = tl.arange(0, BLOCK_E)
    rows = rows.to(tl.int64)
    there = present[:, None] & (element < WIDTH)[None, :]
    keys = tl.load(key + rows[:, None] * k_row + element[None, :], mask=there, other=0.0)
    start = tl.zeros((query.shape[0], rows.shape[0]), tl.float32)
    scores = tl.where(shown, dot(query, tl.trans(keys), start) * scale, float("-inf"))
    grown = tl.maximum(peak, tl.max(scores, axis=1))
    # A row that has seen no key yet has no peak; nothing is weighed against it.
    level = tl.where(grown == float("-inf"), 0.0, grown)
    weights = tl.exp2(scores - level[:, None])
    fade = tl.exp2(peak - level)
    values = tl.load(value + rows[:, None] * v_row + element[None, :], mask=there, other=0.0)
    mixed = dot(weights.to(values.dtype), values, mixed * fade[:, None])
    return grown, total * fade + tl.sum(weights, axis=1), mixed


@triton.jit
def attend_kernel(
    q,
    k,
    v,
    out,
    sums,
    items,
    spans,
    mask,
    scale,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    out_head,
    heads,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One item of a plan and one key head; rows of the tile are queries, each with the GROUP heads that read the key head.

    With ``sums`` [P, Hq] the result goes to rows of parts, and the logarithm of its weight to ``sums``.
    """
    item = items + tl.program_id(0) * _ITEM
    key_head = tl.program_id(1)
    first, count = tl.load(item), tl.load(item + 1)
    span, last_span = tl.load(item + 2), tl.load(item + 3)
    own, own_count, place = tl.load(item + 4), tl.load(item + 5), tl.load(item + 6)
    mask_at, mask_row, part = tl.load(item + 7), tl.load(item + 8), tl.load(item + 9)

    row = tl.arange(0, BLOCK_M)
    query = row // GROUP
    head = key_head * GROUP + row % GROUP
    live = query < count
    element = tl.arange(0, BLOCK_E)
    whole = live[:, None] & (element < WIDTH)[None, :]
    q_at = q + (first + query).to(tl.int64)[:, None] * q_row + head[:, None] * q_head + element[None, :]
    query_tile = tl.load(q_at, mask=whole, other=0.0)
    key, value = k + key_head * k_head, v + key_head * v_head
    scale = scale * LOG2_E
    step = tl.arange(0, BLOCK_N)

    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    for at_span in range(span, last_span):
        begin, end = tl.load(spans + 2 * at_span), tl.load(spans + 2 * at_span + 1)
        for at in range(begin, end, BLOCK_N):
            rows = at + step
            present = rows < end
            shown = tl.broadcast_to(present[None, :], (BLOCK_M, BLOCK_N))
            peak, total, mixed = meet(
                query_tile,
                key,
                value,
                rows,
                shown,
                present,
                scale,
                k_row,
                v_row,
                peak,
                total,
                mixed,
                WIDTH,
                BLOCK_E,
            )
    for at in range(0, own_count, BLOCK_N):
        later = at + step
        present = later < own_count
        shown = present[None, :] & (later[None, :] <= (place + query)[:, None])
        if mask is not None:  # noqa: SIM102 - the first is known when the kernel is compiled, the second is not
            if mask_at >= 0:
                bits = mask + mask_at.to(tl.int64) + (place + query)[:, None] * mask_row + later[None, :]
                shown = shown & (tl.load(bits, mask=shown & live[:, None], other=0) != 0)
        peak, total, mixed = meet(
            query_tile,
            key,
            value,
            own + later,
            shown,
            present,
            scale,
            k_row,
            v_row,
            peak,
            total,
            mixed,
            WIDTH,
            BLOCK_E,
        )

    mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
    target = first + query
    if sums is not None:
        target = part + query
        tl.store(sums + target.to(tl.int64) * heads + head, peak + tl.log2(total), mask=live)
    out_at = out + target.to(tl.int64)[:, None] * out_row + head[:, None] * out_head + element[None, :]
    tl.store(out_at, mixed.to(out.dtype.element_ty), mask=whole)


@triton.jit
def combine_kernel(
    found,
    sums,
    offsets,
    parts,
    out,
    heads,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One head of one query: its parts weighed together; nothing, so zeros, where it has none."""
    query, head = tl.program_id(0), tl.program_id(1)
    element = tl.arange(0, BLOCK_E)
    inside = element < WIDTH
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    mixed = tl.zeros((BLOCK_E,), tl.float32)
    for at in range(tl.load(offsets + query), tl.load(offsets + query + 1)):
        place = tl.load(parts + at).to(tl.int64) * heads + head
        level = tl.load(sums + place)
        grown = tl.maximum(peak, level)
        safe = tl.where(grown == float("-inf"), 0.0, grown)
        fade, weight = tl.exp2(peak - safe), tl.exp2(level - safe)
        mixed = mixed * fade + weight * tl.load(found + place * WIDTH + element, mask=inside, other=0.0)
        total = total * fade + weight
        peak = grown
    mixed = mixed / tl.where(total > 0.0, total, 1.0)
    at_out = out + (query.to(tl.int64) * heads + head) * WIDTH + element
    tl.store(at_out, mixed.to(out.dtype.element_ty), mask=inside)


def attend(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """softmax(q kᵀ · scale) v as ``plan`` says: q [N, Hq, E], k and v [K, Hk, E] -> [N, Hq, E]."""
    queries, heads, width = q.shape
    key_heads = k.shape[1]
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty((queries, heads, width), dtype=q.dtype, device=q.device)
    found, sums = out, None
    if plan.partial:
        found = torch.empty((plan.part_rows, heads, width), dtype=torch.float32, device=q.device)
        sums = torch.empty((plan.part_rows, heads), dtype=torch.float32, device=q.device)
    block = power_of_two(width, 16)
    chosen = configuration(q, "attention", variant("few" if plan.few else "many", q))
    launch(
        attend_kernel,
        (plan.count, key_heads),
        q,
        k,
        v,
        found,
        sums,
        plan.items,
        plan.spans,
        plan.mask,
        scale,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        found.stride(0),
        found.stride(1),
        heads,
        GROUP=heads // key_heads,
        WIDTH=width,
        BLOCK_E=block,
        BLOCK_M=plan.rows,
        BLOCK_N=chosen["keys"],
        warps=chosen["warps"],
        stages=chosen["stages"],
    )
    if plan.partial:
        launch(
            combine_kernel,
            (queries, heads),
            found,
            sums,
            plan.offsets,
            plan.parts,
            out,
            heads,
            WIDTH=width,
            BLOCK_E=block,
            warps=1,
            stages=1,
        )
    return out


def variant(size: str, q: Tensor) -> str:
    """The name of a configuration for queries ``few`` or ``many``, by element type and head width."""
    return f"{size}.{'wide' if q.dtype == torch.float32 else 'half'}.{power_of_two(q.shape[-1], 16)}"
