"""Native attention against plain torch in float64: all layouts, odd sizes, every instruction set of the machine."""

from __future__ import annotations

import ctypes

import pytest
import torch
from native_builds import LEVELS, native
from torch import Tensor

from llmasos.api import AttentionLayout
from llmasos_cpu.structures import AttentionStruct, FilledLayout, LayoutStruct, attention_call
from llmasos_transformer.ops import attention as reference

OK, BAD_ARGUMENT, BAD_SHAPE, UNSUPPORTED = 0, -1, -2, -3
HEADS = [(3, 3, 64), (9, 3, 64), (4, 1, 80), (6, 2, 20), (2, 2, 128), (2, 1, 7), (8, 1, 33)]
CANARY = 12345.0


def run(
    level: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: AttentionLayout,
    scale: float,
    *,
    window: int = 0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attention by the library, into rows with canaries between and around them."""
    held = torch.full((q.shape[0] + 2, q.shape[1] * q.shape[2] + 5), CANARY, dtype=q.dtype)
    out = held[1:-1, :-5].unflatten(1, q.shape[1:])
    filled = FilledLayout(layout, window=window)
    call = attention_call(out, q, k, v, scale, slopes)
    assert native(level).llmc_attention(ctypes.byref(call), ctypes.byref(filled.struct)) == OK
    assert (held[0] == CANARY).all()
    assert (held[-1] == CANARY).all()
    assert (held[:, -5:] == CANARY).all()
    return out


def exact(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    return reference(q.double(), k.double(), v.double(), layout, scale).float()


def starts(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sum(lengths[:i]) for i in range(len(lengths) + 1))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_packed_sequences_of_all_lengths(level: str, heads: tuple[int, int, int], causal: bool) -> None:
    torch.manual_seed(0)
    query_heads, key_heads, width = heads
    edges = starts((5, 1, 0, 130, 16, 17, 48, 49, 97))
    # One tensor holds all three, as a fused product leaves them: rows are strided.
    fused = torch.randn(edges[-1], query_heads + 2 * key_heads, width)
    q, k, v = fused.split((query_heads, key_heads, key_heads), dim=1)
    layout = AttentionLayout(edges, edges, causal)
    scale = width**-0.5
    found = run(level, q, k, v, layout, scale)
    torch.testing.assert_close(found, exact(q, k, v, layout, scale), rtol=2e-6, atol=2e-6)
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    found = run(level, q, k, v, layout, scale)
    torch.testing.assert_close(found.float(), exact(q, k, v, layout, scale), rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("heads", HEADS[:4], ids=str)
def test_cached_keys_in_any_order(
    level: str, heads: tuple[int, int, int], dtype: torch.dtype, causal: bool
) -> None:
    torch.manual_seed(1)
    query_heads, key_heads, width = heads
    new, past, room = (1, 1, 2, 3, 1, 7, 40, 0), (0, 63, 64, 700, 200, 130, 90, 3), 720
    edges = starts(new)
    k, v = (torch.randn(len(new) * room, key_heads, width, dtype=dtype) for _ in range(2))
    slots = (3, 1, 0, 5, 2, 7, 6, 4)
    lengths = tuple(a + b for a, b in zip(new, past, strict=True))
    for slot, length in zip(slots, lengths, strict=True):
        # What lies behind a sequence is no number: nothing of it may be read.
        k[slot * room + length : (slot + 1) * room] = torch.nan
        v[slot * room + length : (slot + 1) * room] = torch.nan
    q = torch.randn(edges[-1], query_heads, width, dtype=dtype)
    layout = AttentionLayout(edges, tuple(slot * room for slot in slots), causal, lengths)
    found = run(level, q, k, v, layout, width**-0.5)
    tolerance = 2e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(
        found.float(), exact(q, k, v, layout, width**-0.5), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("heads", HEADS[:4], ids=str)
def test_trees(level: str, heads: tuple[int, int, int]) -> None:
    torch.manual_seed(2)
    query_heads, key_heads, width = heads
    own = (3, 70, 1, 20, 0, 130)
    before = (
        ((0, 50),),
        ((0, 200), (210, 210), (220, 227)),
        ((0, 7), (100, 101)),
        (),
        ((0, 3),),
        ((5, 6), (9, 14)),
    )
    edges = starts(own)
    rows = 240 + edges[-1]
    k, v = (torch.randn(rows, key_heads, width) for _ in range(2))
    q = torch.randn(edges[-1], query_heads, width)
    masks = [(torch.rand(n, n) < 0.6).tril() | torch.eye(n, dtype=torch.bool) for n in own]
    visible = (masks[0], masks[1], None, masks[3], None, masks[5])
    layout = AttentionLayout(
        edges, tuple(240 + start for start in edges[:-1]), True, before=before, visible=visible
    )
    found = run(level, q, k, v, layout, width**-0.5)
    torch.testing.assert_close(found, exact(q, k, v, layout, width**-0.5), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", [0, 1, 40])
@pytest.mark.parametrize("alibi", [False, True], ids=["plain", "alibi"])
def test_windows_and_alibi(level: str, window: int, alibi: bool) -> None:
    torch.manual_seed(3)
    query_heads, key_heads, width = 6, 2, 24
    for new, past in ((200, 0), (1, 300), (30, 100), (60, 7)):
        keys = new + past
        q = torch.randn(new, query_heads, width)
        k, v = (torch.randn(keys, key_heads, width) for _ in range(2))
        slopes = 2.0 ** -torch.arange(1.0, 7.0)
        place = torch.arange(past, keys)[:, None] - torch.arange(keys)  # how far back each key lies
        bias = torch.where(place < 0, -torch.inf, 0.0).double()
        if window:
            bias = bias.masked_fill(place >= window, -torch.inf)
        bias = bias.expand(query_heads, new, keys)
        if alibi:
            bias = bias - slopes.double()[:, None, None] * place
        expected = torch.nn.functional.scaled_dot_product_attention(
            q.double().transpose(0, 1),
            k.double().transpose(0, 1).repeat_interleave(3, 0),
            v.double().transpose(0, 1).repeat_interleave(3, 0),
            attn_mask=bias,
            scale=0.3,
        ).transpose(0, 1)
        layout = AttentionLayout((0, new), (0,), True, (keys,))
        found = run(level, q, k, v, layout, 0.3, window=window, slopes=slopes if alibi else None)
        torch.testing.assert_close(found, expected.float(), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_results_do_not_depend_on_the_number_of_threads(level: str) -> None:
    torch.manual_seed(4)
    new, past = (1, 100, 2, 1, 17), (900, 0, 300, 65, 40)
    edges = starts(new)
    q, k, v = torch.randn(edges[-1], 6, 40), torch.randn(5000, 2, 40), torch.randn(5000, 2, 40)
    lengths = tuple(a + b for a, b in zip(new, past, strict=True))
    layout = AttentionLayout(edges, (0, 1000, 2000, 3000, 4000), True, lengths)
    library = native(level)
    results = []
    try:
        for threads in (1, 2, 5):
            assert library.llmc_set_threads(threads) == 0
            results.append(run(level, q, k, v, layout, 0.2).clone())
    finally:
        library.llmc_set_threads(2)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("level", LEVELS)
def test_scores_of_any_size(level: str) -> None:
    """Neither large scores nor keys far below the best one overflow; what is not a number stays so where it is seen."""
    torch.manual_seed(5)
    for queries in (1, 40):
        q, k, v = torch.randn(queries, 2, 32) * 100, torch.randn(300, 2, 32) * 100, torch.randn(300, 2, 32)
        layout = AttentionLayout((0, queries), (0, 300), False)
        torch.testing.assert_close(
            run(level, q, k, v, layout, 1.0), exact(q, k, v, layout, 1.0), rtol=1e-4, atol=1e-4
        )
        k[7] = torch.nan
        assert run(level, q, k, v, layout, 1.0).isnan().all()
        k[7] = 0.0
        causal = AttentionLayout((0, 1, 1 + 4), (0, 100, 200), True, (90, 90))
        v[200:] = torch.nan
        found = run(level, torch.randn(5, 2, 32), k, v, causal, 1.0)
        assert found.isfinite().all()


def test_a_sequence_without_keys_gets_zeros() -> None:
    layout = AttentionLayout((0, 1, 40), (0, 0), False, (0, 0))
    q, k = torch.randn(40, 2, 8), torch.randn(3, 2, 8)
    assert (run("portable", q, k, k, layout, 1.0) == 0).all()


def broken(layout: AttentionLayout, call: dict[str, object], fields: dict[str, object]) -> int:
    """The status of a call that is well-formed but for these fields."""
    q, k = torch.randn(6, 4, 8), torch.randn(10, 2, 8)
    out = torch.empty_like(q)
    filled = FilledLayout(layout)
    struct = attention_call(out, q, k, k, 1.0)
    for name, value in call.items():
        setattr(struct, name, value)
    for name, value in fields.items():
        setattr(filled.struct, name, value)
    return int(native("portable").llmc_attention(ctypes.byref(struct), ctypes.byref(filled.struct)))


CACHED = AttentionLayout((0, 2, 6), (0, 5), True, (4, 5))
TREE = AttentionLayout((0, 2, 6), (4, 6), True, before=(((0, 3),), ()), visible=(None, None))


@pytest.mark.parametrize(
    ("layout", "call", "fields", "status"),
    [
        (CACHED, {}, {}, OK),
        (TREE, {}, {}, OK),
        (CACHED, {"q": None}, {}, BAD_ARGUMENT),
        (CACHED, {"type": 7}, {}, BAD_ARGUMENT),
        (CACHED, {"key_heads": 3}, {}, BAD_SHAPE),
        (CACHED, {"key_heads": 0}, {}, BAD_ARGUMENT),
        (CACHED, {"width": -1}, {}, BAD_ARGUMENT),
        (CACHED, {"k_stride": 15}, {}, BAD_SHAPE),
        (CACHED, {"queries": 5}, {}, BAD_SHAPE),
        (CACHED, {"keys": 9}, {}, BAD_SHAPE),
        (CACHED, {}, {"q_starts": None}, BAD_ARGUMENT),
        (CACHED, {}, {"sequences": -1}, BAD_ARGUMENT),
        (CACHED, {}, {"window": -1}, BAD_SHAPE),
        (CACHED, {}, {"window": 3, "causal": 0}, UNSUPPORTED),
        (TREE, {}, {"window": 3}, UNSUPPORTED),
        (AttentionLayout((0, 3, 2), (0, 5), True, (4, 5)), {}, {}, BAD_SHAPE),
        (AttentionLayout((0, 2, 7), (0, 5), True, (4, 5)), {}, {}, BAD_SHAPE),
        (AttentionLayout((0, 2, 6), (0, -1), True, (4, 5)), {}, {}, BAD_SHAPE),
        (AttentionLayout((0, 2, 6), (0, 5), True, (4, 3)), {}, {}, BAD_SHAPE),
        (AttentionLayout((0, 2, 6), (0, 5), True, (4, 2**62)), {}, {}, BAD_SHAPE),
        (
            AttentionLayout((0, 2, 6), (4, 6), True, before=(((3, 2),), ()), visible=(None, None)),
            {},
            {},
            BAD_SHAPE,
        ),
        (
            AttentionLayout((0, 2, 6), (4, 7), True, before=(((0, 3),), ()), visible=(None, None)),
            {},
            {},
            BAD_SHAPE,
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    layout: AttentionLayout, call: dict[str, object], fields: dict[str, object], status: int
) -> None:
    assert broken(layout, call, fields) == status


def test_null_structures_are_refused() -> None:
    library = native("portable")
    assert library.llmc_attention(None, ctypes.byref(LayoutStruct())) == BAD_ARGUMENT
    assert library.llmc_attention(ctypes.byref(AttentionStruct()), None) == BAD_ARGUMENT
