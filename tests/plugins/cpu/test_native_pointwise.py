"""Native norms, rotary angles and activations against plain torch in float64, on every instruction set of the machine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from native_builds import LEVELS, native
from torch import Tensor

from llmasos_cpu.structures import (
    ACTIVATIONS,
    ELEMENT_TYPES,
    NORMS,
    ActivationStruct,
    NormStruct,
    RotaryStruct,
)
from llmasos_transformer import ops

OK, BAD_ARGUMENT, BAD_SHAPE = 0, -1, -2
CANARY = 777.0
WIDTHS = [1, 3, 8, 16, 17, 63, 576, 770]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def framed(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows to write to, and the larger tensor of canaries they lie in."""
    held = torch.full((rows + 2, width + 3), CANARY, dtype=dtype)
    return held[1:-1, :width], held


def untouched(held: Tensor, width: int) -> bool:
    return bool(
        (held[0] == CANARY).all() and (held[-1] == CANARY).all() and (held[:, width:] == CANARY).all()
    )


def pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def norm_call(x: Tensor, out: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str) -> NormStruct:
    return NormStruct(
        out=out.data_ptr(),
        x=x.data_ptr(),
        weight=pointer(weight),
        bias=pointer(bias),
        rows=x.shape[0],
        width=x.shape[1],
        out_stride=out.stride(0),
        x_stride=x.stride(0),
        kind=NORMS[kind],
        type=ELEMENT_TYPES[str(x.dtype)],
        weight_type=0 if weight is None else ELEMENT_TYPES[str(weight.dtype)],
        eps=1e-5,
    )


def tolerance(dtype: torch.dtype, fp32: float) -> dict[str, float]:
    return {"rtol": fp32, "atol": fp32} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
@DTYPES
def test_norms(level: str, kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for width in WIDTHS:
        for rows in (0, 1, 5, 40):
            # Far from zero, where a variance taken as a difference of squares would be lost.
            x = (torch.randn(rows, width + 2) * 3 + 50).to(dtype)[:, :width]
            weight, bias = torch.randn(width).to(dtype), torch.randn(width).to(dtype)
            out, held = framed(rows, width, dtype)
            call = norm_call(x, out, weight, bias if kind == "layer" else None, kind)
            assert native(level).llmc_norm(ctypes.byref(call)) == OK
            assert untouched(held, width)
            if kind == "rms":
                expected = ops.rms_norm(x.double(), weight.double(), 1e-5)
            else:
                expected = ops.layer_norm(x.double(), weight.double(), bias.double(), 1e-5)
            # In float32 the mean of numbers near 50 is good to 4e-6 of a deviation of 3.
            torch.testing.assert_close(out.double(), expected.double(), **tolerance(dtype, 2e-5))


@pytest.mark.parametrize("level", LEVELS)
@DTYPES
@pytest.mark.parametrize("keep", ["apart", "in place", "none"])
def test_a_norm_of_a_sum(level: str, dtype: torch.dtype, keep: str) -> None:
    torch.manual_seed(1)
    for width in (5, 64, 130):
        x, add = torch.randn(9, width).to(dtype), torch.randn(9, width).to(dtype)
        total = x + add
        expected = ops.rms_norm(total, torch.ones(width, dtype=dtype), 1e-5)
        out = torch.empty_like(x)
        kept = {"apart": torch.empty_like(x), "in place": x, "none": None}[keep]
        call = norm_call(x, out, None, None, "rms")
        call.add, call.add_stride = add.data_ptr(), add.stride(0)
        if kept is not None:
            call.sum, call.sum_stride = kept.data_ptr(), kept.stride(0)
        assert native(level).llmc_norm(ctypes.byref(call)) == OK
        torch.testing.assert_close(out, expected, **tolerance(dtype, 1e-6))
        if kept is not None:
            assert torch.equal(kept, total)


@pytest.mark.parametrize("level", LEVELS)
@DTYPES
def test_rotary_angles_in_place_and_into_a_cache(level: str, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    for width, turned, heads in ((64, 64, 3), (80, 32, 2), (12, 6, 1), (20, 0, 4), (128, 128, 9)):
        rows = 7
        x = torch.randn(rows, heads * width + 5).to(dtype)[:, : heads * width]
        angles = torch.randn(rows, turned // 2) * 100
        cos, sin = angles.cos(), angles.sin()
        expected = ops.rotary(x.double().unflatten(1, (heads, width)), cos, sin).flatten(1)
        places = torch.tensor([3, 9, 0, 1, 11, 5, 6])
        cache, held = framed(12, heads * width, torch.float32)
        call = RotaryStruct(
            out=cache.data_ptr(),
            x=x.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            out_rows=places.data_ptr(),
            rows=rows,
            out_count=12,
            out_stride=cache.stride(0),
            x_stride=x.stride(0),
            angle_stride=turned // 2,
            heads=heads,
            width=width,
            turned=turned,
            type=ELEMENT_TYPES[str(dtype)],
            out_type=0,
        )
        assert native(level).llmc_rotary(ctypes.byref(call)) == OK
        assert untouched(held, heads * width)
        torch.testing.assert_close(cache[places].double(), expected.double(), rtol=1e-5, atol=1e-5)
        others = [i for i in range(12) if i not in places.tolist()]
        assert (cache[others] == CANARY).all()
        call.out, call.out_rows, call.out_stride = x.data_ptr(), None, x.stride(0)
        call.out_type = ELEMENT_TYPES[str(dtype)]
        assert native(level).llmc_rotary(ctypes.byref(call)) == OK
        torch.testing.assert_close(x.double(), expected.double(), **tolerance(dtype, 1e-5))


@pytest.mark.parametrize("level", LEVELS)
@DTYPES
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(level: str, kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    special = torch.tensor([0.0, -0.0, 1e-30, 100.0, -100.0, 5.0, -5.0, torch.inf, torch.nan])
    for width in (1, 9, 16, 100, 1536):
        x = torch.cat((special, torch.randn(4 * width - 9 if 4 * width > 9 else 0) * 3))[: 4 * width]
        x = x[: x.numel() // width * width].view(-1, width).to(dtype)
        up = torch.randn_like(x)
        out, held = framed(x.shape[0], width, dtype)
        call = ActivationStruct(
            out=out.data_ptr(),
            x=x.data_ptr(),
            rows=x.shape[0],
            width=width,
            out_stride=out.stride(0),
            x_stride=x.stride(0),
            type=ELEMENT_TYPES[str(dtype)],
            activation=ACTIVATIONS[kind],
        )
        assert native(level).llmc_activation(ctypes.byref(call)) == OK
        assert untouched(held, width)
        expected = ops.activation(x.double(), kind)
        torch.testing.assert_close(
            out.double(), expected, **tolerance(dtype, 4e-7), equal_nan=True, check_dtype=False
        )
        call.up, call.up_stride = up.data_ptr(), up.stride(0)
        assert native(level).llmc_activation(ctypes.byref(call)) == OK
        torch.testing.assert_close(
            out.double(), expected * up.double(), **tolerance(dtype, 4e-6), equal_nan=True, check_dtype=False
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("kind", "exact", "low", "high", "ulps"),
    [("tanh", torch.tanh, -10.0, 10.0, 3), ("silu", F.silu, -20.0, 80.0, 4)],
    ids=["tanh", "silu"],
)
def test_errors_in_units_of_the_last_place(
    level: str, kind: str, exact: Callable[[Tensor], Tensor], low: float, high: float, ulps: float
) -> None:
    """tanh itself, and e^x through x / (1 + e^-x)."""
    x = torch.linspace(low, high, 200_000)[None]
    out = torch.empty_like(x)
    call = ActivationStruct(
        out=out.data_ptr(), x=x.data_ptr(), rows=1, width=x.shape[1], type=0, activation=ACTIVATIONS[kind]
    )
    assert native(level).llmc_activation(ctypes.byref(call)) == OK
    expected = exact(x.double())
    size = torch.finfo(torch.float32).eps * 2.0 ** expected.abs().clamp(min=1e-30).log2().floor()
    assert ((out.double() - expected).abs() / size).max() <= ulps


def test_what_does_not_fit_is_refused() -> None:
    library = native("portable")
    x = torch.randn(4, 8)
    norm = norm_call(x, x, None, None, "rms")
    for field, value, status in (
        ("kind", 9, BAD_ARGUMENT),
        ("type", 2, BAD_ARGUMENT),
        ("x", None, BAD_ARGUMENT),
        ("rows", -1, BAD_ARGUMENT),
        ("x_stride", 7, BAD_SHAPE),
    ):
        before = getattr(norm, field)
        setattr(norm, field, value)
        assert library.llmc_norm(ctypes.byref(norm)) == status, field
        setattr(norm, field, before)
    assert library.llmc_norm(None) == BAD_ARGUMENT
    places = torch.tensor([0, 1, 2, 4])
    rotary = RotaryStruct(
        out=x.data_ptr(),
        x=x.data_ptr(),
        out_rows=places.data_ptr(),
        rows=4,
        out_count=4,
        out_stride=8,
        x_stride=8,
        heads=2,
        width=4,
        turned=0,
    )
    assert library.llmc_rotary(ctypes.byref(rotary)) == BAD_SHAPE
    places[3] = 3
    assert library.llmc_rotary(ctypes.byref(rotary)) == OK
    rotary.turned = 3
    assert library.llmc_rotary(ctypes.byref(rotary)) == BAD_SHAPE
    rotary.turned = 2
    assert library.llmc_rotary(ctypes.byref(rotary)) == BAD_ARGUMENT
    assert (
        library.llmc_activation(ctypes.byref(ActivationStruct(rows=1, width=1, activation=99)))
        == BAD_ARGUMENT
    )
