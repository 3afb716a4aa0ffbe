"""Rotary positions, alone or on the way of keys and values into a cache.

Letters: N tokens, H heads, Hq query heads, Hk key/value heads, E head width, R rotated part of a head, K rows of a cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.launching import launch, power_of_two


@triton.jit
def turn(
    source,
    target,
    cos,
    sin,
    live,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    """Heads at ``source`` [H] to ``target`` [H] (pointers): pairs (j, j + HALF) turned by ``cos``, ``sin``; the rest copied."""
    if HALF > 0:
        pair = tl.arange(0, BLOCK_HALF)
        inside = live & (pair < HALF)[None, :]
        c = tl.load(cos + pair, mask=pair < HALF, other=0.0)[None, :]
        s = tl.load(sin + pair, mask=pair < HALF, other=0.0)[None, :]
        first = tl.load(source + pair[None, :], mask=inside, other=0.0).to(tl.float32)
        second = tl.load(source + HALF + pair[None, :], mask=inside, other=0.0).to(tl.float32)
        kind = target.dtype.element_ty
        tl.store(target + pair[None, :], (first * c - second * s).to(kind), mask=inside)
        tl.store(target + HALF + pair[None, :], (second * c + first * s).to(kind), mask=inside)
    if 2 * HALF < WIDTH:
        rest = 2 * HALF + tl.arange(0, BLOCK_REST)
        inside = live & (rest < WIDTH)[None, :]
        value = tl.load(source + rest[None, :], mask=inside, other=0.0)
        tl.store(target + rest[None, :], value, mask=inside)


@triton.jit
def rotary_kernel(
    x,
    cos,
    sin,
    out,
    heads,
    x_row,
    x_head,
    angle_row,
    out_row,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """BLOCK_H heads of one token."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    live = head < heads
    source, target = x + row * x_row + head * x_head, out + row * out_row + head * WIDTH
    angle = row * angle_row
    turn(source, target, cos + angle, sin + angle, live, HALF, WIDTH, BLOCK_HALF, BLOCK_REST)


@triton.jit
def store_kernel(
    qkv,
    cos,
    sin,
    rows,
    keys,
    values,
    query_heads,
    key_heads,
    qkv_row,
    angle_row,
    slab_row,
    slab_head,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """BLOCK_H heads of one token: queries are turned where they are, keys turned into the cache, values copied into it."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    # A token that is only there to fill a step up has no place. Read once a head, so that masks need no broadcast of one bit.
    place = tl.load(rows + token + 0 * head)
    kept = place >= 0
    source = qkv + token * qkv_row + head * WIDTH
    slab = place * slab_row
    cos += token * angle_row
    sin += token * angle_row
    if HALF > 0:
        turn(source, source, cos, sin, head < query_heads, HALF, WIDTH, BLOCK_HALF, BLOCK_REST)
    key = head - query_heads
    is_key = (key >= 0) & (key < key_heads) & kept
    turn(source, keys + slab + key * slab_head, cos, sin, is_key, HALF, WIDTH, BLOCK_HALF, BLOCK_REST)
    value = key - key_heads
    element = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = (value >= 0) & (value < key_heads) & kept & (element < WIDTH)
    copied = tl.load(source + element, mask=inside, other=0.0)
    tl.store(values + slab + value * slab_head + element, copied, mask=inside)


def _blocks(half: int, width: int) -> dict[str, int]:
    return {
        "HALF": half,
        "WIDTH": width,
        "BLOCK_HALF": power_of_two(half),
        "BLOCK_REST": power_of_two(width - 2 * half),
    }


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, H, E] with the first R of each head turned by the angles of ``cos``, ``sin`` [N, R/2] float32 (Su et al. 2021)."""
    tokens, heads, width = x.shape
    if x.stride(-1) != 1:
        x = x.contiguous()
    out = torch.empty((tokens, heads, width), dtype=x.dtype, device=x.device)
    block = min(8, power_of_two(heads))
    cos, sin = cos.contiguous(), sin.contiguous()
    launch(
        rotary_kernel,
        (tokens, triton.cdiv(heads, block)),
        x,
        cos,
        sin,
        out,
        heads,
        x.stride(0),
        x.stride(1),
        cos.stride(0),
        out.stride(0),
        **_blocks(cos.shape[1], width),
        BLOCK_H=block,
        warps=1,
        stages=1,
    )
    return out


def rotary_store(
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    rows: Tensor,
    keys: Tensor,
    values: Tensor,
    query_heads: int,
) -> None:
    """Turn the queries of ``qkv`` [N, (Hq + 2 Hk) E] in place, and put turned keys and values into rows ``rows`` [N] int64 of the
    slabs ``keys`` and ``values`` [K, Hk, E]. A negative row is not stored. Without angles nothing is turned."""
    tokens = qkv.shape[0]
    _, key_heads, width = keys.shape
    half = 0 if cos is None else cos.shape[1]
    assert keys.stride() == values.stride(), "slabs of one cache"
    assert qkv.stride(-1) == keys.stride(-1) == 1, "heads without gaps"
    angles = (rows, rows) if cos is None or sin is None else (cos, sin)  # any pointer where none is read
    block = min(8, power_of_two(query_heads + 2 * key_heads))
    launch(
        store_kernel,
        (tokens, triton.cdiv(query_heads + 2 * key_heads, block)),
        qkv,
        *angles,
        rows,
        keys,
        values,
        query_heads,
        key_heads,
        qkv.stride(0),
        half,
        keys.stride(0),
        keys.stride(1),
        **_blocks(half, width),
        BLOCK_WIDTH=power_of_two(width),
        BLOCK_H=block,
        warps=1,
        stages=1,
    )
