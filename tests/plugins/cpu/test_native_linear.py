"""Native linear layers against float64: every kind of matrix, odd shapes, every instruction set of the machine."""

from __future__ import annotations

import ctypes
import functools

import pytest
import torch
from native_builds import native
from torch import Tensor

from llmasos_cpu import library as cpu
from llmasos_cpu.structures import ACTIVATIONS as CONTRACT
from llmasos_cpu.structures import ELEMENT_TYPES, LinearStruct, MatrixInfoStruct

BAD_ARGUMENT, BAD_SHAPE, UNSUPPORTED, BAD_DATA = -1, -2, -3, -5
LEVELS = ("portable", "avx2", "avx512", "amx")
ROWS = (1, 2, 3, 5, 8, 14, 15, 16, 17, 33, 100)
SHAPES = ((1, 1), (33, 7), (64, 300), (70, 1030))
CANARY = 12345.0
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

#: What the library knows besides the activations of the contract.
CODES = {**CONTRACT, "none": 0, "gelu_tanh": CONTRACT["gelu_new"], "gelu_quick": 5, "relu2": 6}


@functools.cache
def library(level: str) -> ctypes.CDLL:
    handle = native(level)
    for name, (result, arguments) in cpu.FUNCTIONS.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    return handle


def packed(level: str, weight: Tensor, kind: str, group: int = 0, split: int = 0) -> Tensor:
    """The matrix packed, with its first `split` rows set apart from the rest."""
    functions = library(level)
    code = cpu.MATRIX_KINDS[kind]
    size = functions.llmc_matrix_bytes(code, group, *weight.shape)
    held = torch.full((size + 128,), 0x5A, dtype=torch.uint8)
    matrix = held[64:-64]
    assert functions.llmc_matrix_begin(code, group, *weight.shape, matrix.data_ptr(), size) == cpu.OK
    row_bytes = weight.stride(0) * weight.element_size()
    for first, last in ((0, split), (split, len(weight))):
        status = functions.llmc_matrix_set_rows(
            matrix.data_ptr(),
            size,
            first,
            last - first,
            TYPES[weight.dtype],
            weight[first:].data_ptr(),
            row_bytes,
        )
        assert status == cpu.OK
    assert (held[:64] == 0x5A).all()
    assert (held[-64:] == 0x5A).all()
    return matrix


def values(level: str, matrix: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix as numbers."""
    out = torch.empty(outputs, inputs)
    order = torch.arange(outputs)
    status = library(level).llmc_matrix_gather(
        matrix.data_ptr(), order.data_ptr(), outputs, ELEMENT_TYPES["torch.float32"], out.data_ptr(), inputs
    )
    assert status == cpu.OK
    return out


def linear_call(matrix: Tensor, x: Tensor, y: Tensor, **options: object) -> LinearStruct:
    call = LinearStruct(matrix=matrix.data_ptr(), x=x.data_ptr(), y=y.data_ptr(), rows=len(x))
    call.x_stride, call.y_stride = x.stride(0), y.stride(0)
    call.x_type, call.y_type = TYPES[x.dtype], TYPES[y.dtype]
    for name in ("residual", "multiply", "bias"):
        tensor = options.get(name)
        if isinstance(tensor, Tensor):
            setattr(call, name, tensor.data_ptr())
            if name != "bias":
                setattr(call, name + "_stride", tensor.stride(0))
    call.activation = CODES[str(options.get("activation", "none"))]
    call.activation_bits = int(str(options.get("bits", 0)))
    return call


def linear(
    level: str, matrix: Tensor, outputs: int, x: Tensor, dtype: torch.dtype = torch.float32, **options: object
) -> Tensor:
    """y of the library, written between canaries."""
    held = torch.full((len(x) + 2, outputs + 5), CANARY, dtype=dtype)
    y = held[1:-1, :-5]
    call = linear_call(matrix, x, y, **options)
    assert library(level).llmc_linear(ctypes.byref(call)) == cpu.OK
    expected = torch.tensor(CANARY, dtype=dtype)
    assert (held[0] == expected).all()
    assert (held[-1] == expected).all()
    assert (held[:, -5:] == expected).all()
    return y


def strided(rows: int, inputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows with a gap of NaN between them: a kernel that reads beyond a row shows it."""
    held = torch.full((rows, inputs + 3), float("nan"), dtype=dtype)
    held[:, :inputs] = torch.randn(rows, inputs)
    return held[:, :inputs]


# Kind, group, bits of activations -> error relative to sqrt(inputs), against the products of the packed numbers.
EXACTNESS = {
    ("fp32", 0, 0): 5e-6,
    ("bf16", 0, 0): 5e-6,
    ("int8", 0, 16): 2e-4,
    ("int8", 0, 8): 6e-2,
    ("int8", 32, 16): 2e-4,
    ("int8", 32, 8): 6e-2,
    ("int4", 0, 16): 2e-4,
    ("int4", 0, 8): 6e-2,
}
KINDS = tuple(EXACTNESS)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_agree_with_float64(level: str, kind: tuple[str, int, int], shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    outputs, inputs = shape
    name, group, bits = kind
    matrix = packed(level, torch.randn(outputs, inputs), name, group, split=outputs // 3)
    weight = values(level, matrix, outputs, inputs).double()
    for rows in ROWS:
        x = strided(rows, inputs)
        y = linear(level, matrix, outputs, x, bits=bits)
        seen = x.bfloat16().double() if name == "bf16" else x.double()
        bound = EXACTNESS[kind]
        torch.testing.assert_close(y.double(), seen @ weight.T, rtol=0, atol=bound * inputs**0.5)


@pytest.mark.parametrize("level", LEVELS)
def test_every_bit_of_a_float_counts(level: str) -> None:
    """fp32 on AMX is made of bf16 products: nothing of a number may be lost on the way, whatever its size."""
    torch.manual_seed(0)
    weight = torch.randn(40, 1) * torch.logspace(-25, 18, 40)[:, None]
    matrix = packed(level, weight, "fp32")
    for factor in (1.0, 3e-7, 0.1, 1e18):
        x = torch.full((3, 1), factor)
        y = linear(level, matrix, 40, x)
        torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=2**-22, atol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_float_sums_stay_near_float64_where_a_few_inputs_are_large(level: str) -> None:
    """As in models, whose activations have channels in the thousands. The bound is that of common fp32 libraries."""
    torch.manual_seed(0)
    weight = torch.randn(64, 2100)
    x = torch.randn(40, 2100) * torch.exp(2 * torch.randn(2100))
    exact = x.double() @ weight.double().T
    y = linear(level, packed(level, weight, "fp32"), 64, x).double()
    assert (y - exact).square().mean().sqrt() / exact.square().mean().sqrt() < 6e-7


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_packing_keeps_what_it_can(level: str, kind: tuple[str, int, int]) -> None:
    torch.manual_seed(1)
    name, group, _ = kind
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        held = torch.randn(45, 133).to(dtype)
        weight = held[:, :130]
        seen = values(level, packed(level, weight, name, group, split=40), 45, 130)
        if name == "fp32":
            assert torch.equal(seen, weight.float())
        elif name == "bf16":
            assert torch.equal(seen, weight.float().bfloat16().float())
        else:
            # Numbers of variance 1: about a quarter of a percent and 8 percent of it is lost.
            assert (seen - weight.float()).square().mean().sqrt() < (0.01 if name == "int8" else 0.09)


def random_blocks(source: str, rows: int, groups: int, seed: int) -> torch.Tensor:
    """Rows of GGUF blocks: random bits, with scales between 0.5 and 2."""
    generator = torch.Generator().manual_seed(seed)
    size, scales = {"q8_0": (34, 1), "q4_0": (18, 1), "q4_1": (20, 2), "q4_k": (144, 2)}[source]
    blocks = torch.randint(0, 256, (rows, groups, size), dtype=torch.uint8, generator=generator)
    halves = torch.rand(rows, groups, scales, generator=generator).mul(1.5).add(0.5).half()
    blocks[..., : 2 * scales] = halves.view(torch.uint8)
    return blocks.flatten(1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("source", "kind"), [("q8_0", "int8"), ("q4_0", "int4"), ("q4_1", "q4_1"), ("q4_k", "q4_k")]
)
def test_blocks_of_a_gguf_file_keep_their_numbers(level: str, source: str, kind: str) -> None:
    quants = pytest.importorskip("gguf.quants")
    types = pytest.importorskip("gguf").GGMLQuantizationType
    functions = library(level)
    outputs, groups = 45, 5 if source != "q4_k" else 6
    inputs = groups * (256 if source == "q4_k" else 32)
    blocks = random_blocks(source, outputs, groups, 5)
    expected = torch.from_numpy(quants.dequantize(blocks.numpy(), types[source.upper()]).copy())
    code, group = cpu.MATRIX_KINDS[kind], 32 if kind == "int8" else 0
    size = functions.llmc_matrix_bytes(code, group, outputs, inputs)
    matrix = torch.empty(size, dtype=torch.uint8)
    assert functions.llmc_matrix_begin(code, group, outputs, inputs, matrix.data_ptr(), size) == cpu.OK

    def set_rows(first: int, last: int) -> int:
        return int(
            functions.llmc_matrix_set_rows(
                matrix.data_ptr(),
                size,
                first,
                last - first,
                cpu.SOURCES[source],
                blocks[first:].data_ptr(),
                blocks.shape[1],
            )
        )

    assert set_rows(0, 10) == cpu.OK
    assert set_rows(10, outputs) == cpu.OK
    torch.testing.assert_close(values(level, matrix, outputs, inputs), expected, rtol=1e-6, atol=1e-6)
    for rows in (1, 2, 7, 16, 17, 40):
        x = strided(rows, inputs)
        exact = x.double() @ expected.double().T
        size_of_sums = x.double().abs() @ expected.double().abs().T
        for bits, bound in ((16, 3e-5), (8, 8e-3)):
            y = linear(level, matrix, outputs, x, bits=bits)
            assert ((y.double() - exact).abs() <= bound * size_of_sums).all()
    blocks[44, :2] = torch.tensor([0, 0x7C], dtype=torch.uint8)  # an infinite scale
    assert set_rows(0, outputs) == BAD_DATA


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_row_gives_the_same_result_in_every_batch_and_with_any_threads(
    level: str, kind: tuple[str, int, int]
) -> None:
    torch.manual_seed(2)
    functions = library(level)
    name, group, bits = kind
    matrix = packed(level, torch.randn(70, 1130), name, group)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(300, 1130).to(dtype)
        alone = torch.cat([linear(level, matrix, 70, x[i : i + 1], bits=bits) for i in range(0, 300, 37)])
        for threads, rows in ((1, 8), (1, 50), (2, 14), (2, 300), (3, 16), (3, 100)):
            assert functions.llmc_set_threads(threads) == cpu.OK
            together = linear(level, matrix, 70, x[:rows], bits=bits)[::37]
            assert torch.equal(together, alone[: len(together)])
    assert functions.llmc_set_threads(2) == cpu.OK


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[2]], ids=str)
def test_vnni_and_tiles_give_the_same_numbers(kind: tuple[str, int, int]) -> None:
    name, group, bits = kind
    weight, x = torch.randn(70, 1130), torch.randn(19, 1130)
    results = [
        linear(level, packed(level, weight, name, group), 70, x, bits=bits) for level in ("avx512", "amx")
    ]
    if "avx512_vnni" not in library("avx512").llmc_features().decode():
        pytest.skip("no VNNI")
    assert torch.equal(*results)


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation_factor_and_residual_are_part_of_the_product(level: str, activation: str) -> None:
    torch.manual_seed(3)
    weight, bias = torch.randn(45, 20), torch.randn(45)
    matrix = packed(level, weight, "fp32")
    for rows, dtype in ((1, torch.float32), (19, torch.float32), (19, torch.bfloat16)):
        x = torch.randn(rows, 20)
        factor, residual = (torch.randn(rows, 60).to(dtype)[:, 4:49] for _ in range(2))
        y = linear(
            level, matrix, 45, x, dtype, bias=bias, multiply=factor, residual=residual, activation=activation
        )
        product = ACTIVATIONS[activation](x.double() @ weight.double().T + bias.double())
        expected = product * factor.double() + residual.double()
        torch.testing.assert_close(
            y.double(), expected, rtol=1e-5 if dtype == torch.float32 else 4e-3, atol=3e-5
        )


@pytest.mark.parametrize("level", LEVELS)
def test_several_products_run_in_order_within_one_call(level: str) -> None:
    torch.manual_seed(4)
    first, second = torch.randn(65, 33), torch.randn(33, 65)
    matrices = [packed(level, first, "fp32"), packed(level, second, "fp32")]
    x, middle = torch.randn(4, 33), torch.empty(4, 65)
    y = x.clone()
    calls = (LinearStruct * 2)(
        linear_call(matrices[0], x, middle), linear_call(matrices[1], middle, y, residual=y)
    )
    assert library(level).llmc_linears(ctypes.byref(calls), 2) == cpu.OK
    torch.testing.assert_close(y, x + x @ first.T @ second.T, rtol=1e-4, atol=1e-4)


def test_values_that_are_not_numbers_stay_visible() -> None:
    matrix = packed("portable", torch.ones(40, 50), "fp32")
    x = torch.ones(3, 50)
    x[1, 7] = float("nan")
    y = linear("portable", matrix, 40, x)
    assert y[1].isnan().all()
    assert (y[0] == 50).all()


def test_malformed_arguments_are_refused() -> None:
    functions = library("portable")
    kind = cpu.MATRIX_KINDS["fp32"]
    for arguments in (
        (kind, 0, 0, 5),
        (kind, 0, 5, -1),
        (kind, 32, 5, 5),
        (99, 0, 5, 5),
        (kind, 0, 1 << 40, 5),
    ):
        assert functions.llmc_matrix_bytes(*arguments) == BAD_SHAPE
    weight = torch.randn(40, 20)
    matrix = packed("portable", weight, "fp32")
    size = len(matrix)
    assert functions.llmc_matrix_begin(kind, 0, 40, 20, matrix.data_ptr(), size - 1) == BAD_SHAPE
    assert functions.llmc_matrix_begin(kind, 0, 40, 20, None, size) == BAD_ARGUMENT

    def set_rows(first: int, count: int, source: int, row_bytes: int) -> int:
        return int(
            functions.llmc_matrix_set_rows(
                matrix.data_ptr(), size, first, count, source, weight.data_ptr(), row_bytes
            )
        )

    assert set_rows(39, 2, 0, 80) == BAD_SHAPE
    assert set_rows(-1, 1, 0, 80) == BAD_SHAPE
    assert set_rows(0, 1, 0, 79) == BAD_SHAPE
    assert set_rows(0, 1, 42, 80) == BAD_ARGUMENT
    assert set_rows(0, 1, cpu.SOURCES["q8_0"], 80) == UNSUPPORTED

    x, y = torch.randn(3, 20), torch.empty(3, 40)
    for field, value, status in (
        ("matrix", None, BAD_ARGUMENT),
        ("x", None, BAD_ARGUMENT),
        ("y", None, BAD_ARGUMENT),
        ("rows", -1, BAD_ARGUMENT),
        ("x_stride", 19, BAD_SHAPE),
        ("y_stride", 39, BAD_SHAPE),
        ("x_type", 2, BAD_ARGUMENT),
        ("y_type", 7, BAD_ARGUMENT),
        ("activation", 99, BAD_ARGUMENT),
        ("activation_bits", 4, BAD_ARGUMENT),
    ):
        call = linear_call(matrix, x, y)
        setattr(call, field, value)
        assert functions.llmc_linear(ctypes.byref(call)) == status, field
    assert functions.llmc_linear(None) == BAD_ARGUMENT
    empty = linear_call(matrix, x[:0], y[:0])
    assert functions.llmc_linear(ctypes.byref(empty)) == cpu.OK

    info = MatrixInfoStruct()
    assert functions.llmc_matrix_describe(matrix.data_ptr(), size, ctypes.byref(info)) == cpu.OK
    assert (info.outputs, info.inputs, info.kind, info.bytes) == (40, 20, kind, size)
    for position, length in (
        (0, size),
        (8, size),
        (12, size),
        (24, size),
        (40, size),
        (0, 100),
        (-1, size + 1),
    ):
        broken = torch.cat([matrix, matrix[:8]])
        if position >= 0:
            broken[position] += 100
        assert functions.llmc_matrix_describe(broken.data_ptr(), length, ctypes.byref(info)) == BAD_DATA
    out = torch.empty(1, 20)
    for index in (-1, 40):
        wrong = torch.tensor([index])
        status = functions.llmc_matrix_gather(
            matrix.data_ptr(), wrong.data_ptr(), 1, ELEMENT_TYPES["torch.float32"], out.data_ptr(), 20
        )
        assert status == BAD_ARGUMENT
