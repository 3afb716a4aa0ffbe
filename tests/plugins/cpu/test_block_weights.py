"""Matrices that a file keeps in blocks: computed with as they are, or as the numbers they stand for."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from llmasos.api import BlockWeight, WeightsError
from llmasos_cpu import packing
from llmasos_cpu.library import Absence, library
from llmasos_transformer.weights.gguf import GgufBlocks

found = library()
pytestmark = pytest.mark.skipif(isinstance(found, Absence), reason="there is no native library here")
#: Type -> numbers of a block.
KINDS = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q4_K": 256, "Q5_0": 32, "Q6_K": 256}


def blocks(kind: str, outputs: int, inputs: int, seed: int = 0) -> GgufBlocks:
    """Random blocks: those of types that the gguf package cannot make are random bytes with small scales."""
    random = np.random.default_rng(seed)
    code = gguf.GGMLQuantizationType[kind]
    if kind.endswith("_K"):
        size = gguf.GGML_QUANT_SIZES[code][1]
        data = random.integers(0, 256, (outputs, inputs // 256, size), dtype=np.uint8)
        scale = np.array([0.01], dtype=np.float16).view(np.uint8)
        for at in (0, 2) if kind == "Q4_K" else (208,):
            data[:, :, at : at + 2] = scale
        data = data.reshape(outputs, -1)
    else:
        data = gguf.quants.quantize(random.standard_normal((outputs, inputs)).astype(np.float32), code)
    return GgufBlocks(kind, torch.from_numpy(data), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_computed_with_as_they_are_or_in_finer_groups(kind: str) -> None:
    inputs = 2 * KINDS[kind]
    table = blocks(kind, 70, inputs)
    assert isinstance(table, BlockWeight)
    kept = packing.pack(found, table, "int8")
    plain = table.plain()
    same = kind in ("Q8_0", "Q4_0", "Q4_1", "Q4_K")
    allowed = 1e-6 if same else 0.005 * float(plain.abs().max())
    torch.testing.assert_close(kept.plain(), plain, rtol=0, atol=allowed)
    assert kept.nbytes < 1.15 * (table.nbytes if same else 70 * inputs * 34 / 32) * 96 / 70
    x = torch.randn(3, inputs, generator=torch.Generator().manual_seed(1))
    wanted = x.double() @ kept.plain().double().T
    assert float((kept.product(x, None) - wanted).abs().max()) <= 1e-3 * float(wanted.abs().max())


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_where_nothing_is_to_be_quantised_they_are_numbers(kind: str) -> None:
    table = blocks("Q4_1", 70, 64)
    made = packing.pack(found, table, kind)
    assert made.kind == kind
    wanted = table.plain() if kind == "fp32" else table.plain().bfloat16()
    assert torch.equal(made.plain(), wanted)


def test_large_matrices_are_converted_a_few_rows_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(packing, "_PIECE", 64 * 32)
    table, numbers = blocks("Q4_1", 70, 64), torch.randn(70, 64)
    assert torch.equal(packing.pack(found, table, "fp32").plain(), table.plain())
    whole = packing.pack(found, numbers, "q4_1").plain()
    monkeypatch.undo()
    assert torch.equal(whole, packing.pack(found, numbers, "q4_1").plain())


@pytest.mark.parametrize("kind", ["fp32", "int8", "Q8_0", "Q4_0", "Q4_1", "Q4_K"])
@pytest.mark.parametrize("outputs", [64, 70])
def test_two_matrices_in_turns(kind: str, outputs: int) -> None:
    inputs, is_blocks = KINDS.get(kind, 32), kind in KINDS
    pair = [blocks(kind if is_blocks else "Q8_0", outputs, inputs, seed) for seed in (1, 2)]
    gate, up = pair if is_blocks else [one.plain() for one in pair]
    made = packing.alternating(found, gate, up, "int8" if is_blocks else kind).plain()
    panels = made.view(-1, 2, 32, inputs)
    for place, part in enumerate((gate, up)):
        numbers = panels[:, place].reshape(-1, inputs)
        wanted = part if isinstance(part, torch.Tensor) else part.plain()
        torch.testing.assert_close(numbers[:outputs], wanted, rtol=0, atol=0.02 if kind == "int8" else 1e-6)
        assert not numbers[outputs:].any()


def test_matrices_of_several_types_in_one_are_kept_in_eight_bits() -> None:
    parts = [blocks("Q4_0", 33, 64, 1), blocks("Q8_0", 20, 64, 2), torch.randn(5, 64)]
    made = packing.stacked(found, parts, "q4_1")
    assert made.kind == "q8_0"
    wanted = torch.cat([part if isinstance(part, torch.Tensor) else part.plain() for part in parts])
    torch.testing.assert_close(made.plain(), wanted, rtol=0, atol=0.02)
    alike = packing.stacked(found, parts[:1] * 2, "int8")
    assert alike.kind == "q4_0"
    assert torch.equal(alike.plain(), torch.cat([parts[0].plain()] * 2))


@pytest.mark.parametrize("bits", [0x7C00, 0x7E01], ids=["infinity", "NaN"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_0"])
def test_a_scale_that_is_no_number_is_a_damaged_file(kind: str, bits: int) -> None:
    table = blocks(kind, 40, 2 * KINDS[kind])
    table.data[35, 0], table.data[35, 1] = bits & 255, bits >> 8
    with pytest.raises(WeightsError, match="NaN or infinity") as caught:
        packing.pack(found, table, "int8")
    assert "download it again" in (caught.value.hint or "")
