"""The CUDA back end where there is no device, and what can be known of it without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmasos.api import (
    OP_NAMES,
    ConfigError,
    DeviceUnavailable,
    PackedWeight,
    QuantisedWeight,
    UsageError,
    WeightsError,
)
from llmasos.cli.main import run
from llmasos.testing.conformance import assert_conforms
from llmasos.testing.conformance.backend import CHECKS
from llmasos_cuda import backend
from llmasos_cuda.backend import CudaBackend
from llmasos_cuda.devices import CudaDevice, Found
from llmasos_cuda.plugin import llmasos_kernel_ops
from llmasos_cuda.quantisation import quantise

pytest.importorskip("triton", reason="triton is not installed: pip install 'llmasos[cuda]'")

from llmasos_cuda import configurations, ops
from llmasos_cuda.tuning import DECIDES, candidates, tune_kernels, write

no_device = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@no_device
@pytest.mark.parametrize("name", [(), ("cuda",)], ids=["any", "by name"])
def test_checking_without_a_device_is_one_clear_error(capsys, name: tuple[str, ...]) -> None:
    assert run(["backend", "check", *name, "--device", "cuda"]) == 4
    said = capsys.readouterr().err
    assert "device 'cuda' with float32" in said
    assert "hint: devices here:" in said
    assert "`llmasos doctor` says why one is missing" in said
    assert "Traceback" not in said


@no_device
def test_tuning_without_a_device_says_what_was_found(capsys) -> None:
    assert run(["backend", "tune"]) == 4
    assert "no device 'cuda' to measure" in capsys.readouterr().err


@no_device
def test_it_is_listed_and_takes_no_place_of_another(capsys) -> None:
    assert run(["backend", "list", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    one = next(row for row in value["backends"] if row["name"] == "llmasos-cuda/cuda")
    assert one["devices"] == []
    assert value["auto"]["exact"]["device"] == "cpu"


def test_it_keeps_the_contract_of_back_ends() -> None:
    assert_conforms(CHECKS, CudaBackend())


def test_every_op_of_the_contract_is_its_own() -> None:
    definitions = {one.op: one for one in llmasos_kernel_ops()}
    assert set(definitions) == set(OP_NAMES)
    assert all(one.devices == ("cuda",) for one in definitions.values())
    assert all(callable(getattr(ops, op)) for op in OP_NAMES)


def test_devices_that_are_too_old_are_not_driven(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_torch_has_cuda", lambda: True)
    old, new = CudaDevice("Old", (7, 5), 1 << 30, 40), CudaDevice("New", (8, 6), 1 << 30, 80)
    monkeypatch.setattr(backend, "found", lambda: Found((old,)))
    assert CudaBackend().devices() == ()
    monkeypatch.setattr(backend, "found", lambda: Found((old, new)))
    assert CudaBackend().devices() == ("cuda",)
    assert "int4" in CudaBackend().dtypes("cuda:1")
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert CudaBackend().dtypes("cuda") == ("float32", "bfloat16", "float16")
    with pytest.raises(DeviceUnavailable, match="no device cuda:2"):
        CudaBackend().prepare("cuda:2", "float32", Path("nowhere"))


def test_kernels_refuse_devices_they_are_not_for() -> None:
    with pytest.raises(DeviceUnavailable, match="no kernels for the device 'cpu'"):
        ops.attention(*(torch.ones(1, 1, 4) for _ in "qkv"), ops.AttentionLayout((0, 1), (0, 1), True), 1.0)
    with pytest.raises(UsageError, match="unknown activation"):
        ops.activation(torch.ones(1, 1), "swish")


# ---- quantised weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "size", "error"), [(8, 8.3, 0.008), (4, 5.1, 0.09)], ids=["int8", "int4"])
def test_quantised_weights_are_small_and_close(bits: int, size: float, error: float) -> None:
    torch.manual_seed(2)
    weight = torch.randn(64, 256)
    found = quantise(weight, bits)
    assert isinstance(found, PackedWeight)
    assert isinstance(found, QuantisedWeight)
    assert found.nbytes * 8 / weight.numel() < size
    assert 0 < (found.plain() - weight).pow(2).mean().sqrt() < error
    # What was quantised once is not changed by quantising it again.
    again = quantise(found.plain(), bits)
    torch.testing.assert_close(again.plain(), found.plain(), atol=2e-3, rtol=0)
    assert torch.equal(found.rows(torch.tensor([3, 3, 0])), found.plain()[[3, 3, 0]])


def test_what_weights_stand_for_is_not_rounded_to_their_element_type() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    found = quantise(weight, 8)
    steps = found.data.view(4, -1, 128).float() * found.steps[..., None]
    assert torch.equal(found.plain(), steps.flatten(1)[:, :64])
    assert found.rows(torch.tensor([1])).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 131), (5, 32)])
def test_widths_that_are_no_whole_groups(outputs: int, inputs: int, bits: int) -> None:
    weight = torch.randn(outputs, inputs)
    assert quantise(weight, bits).plain().shape == weight.shape
    assert torch.equal(quantise(torch.zeros(2, 40), bits).plain(), torch.zeros(2, 40))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    weight = torch.ones(4, 32)
    weight[2, 5] = value
    with pytest.raises(WeightsError, match="NaN or infinity"):
        quantise(weight, 8)
    with pytest.raises(WeightsError, match="65,504"):
        quantise(torch.full((1, 32), 1e30).cumsum(1), 4)


def test_a_table_that_is_looked_up_keeps_eight_bits(tmp_path: Path) -> None:
    one = CudaBackend()
    one.prepare("cpu", "int4", tmp_path)
    assert one.pack(torch.ones(4, 64), True).nbytes > one.pack(torch.ones(4, 64), False).nbytes
    one.prepare("cpu", "float32", tmp_path)
    weight = torch.ones(4, 64)
    assert one.pack(weight, False) is weight


# ---- sizes of kernels -------------------------------------------------------------------------------------------------


def test_sizes_fall_back_to_the_nearest_that_is_known() -> None:
    assert {"base", "sm_90", "interpreter"} <= set(configurations.shipped())
    plain = configurations.settings("sm_80", "attention", "many.half.128")
    assert configurations.settings("sm_86", "attention", "many.half.128") == plain
    assert configurations.settings("sm_90", "attention", "many.half.128") != plain
    assert configurations.settings("sm_100", "attention", "many.half.128")["rows"] == 128
    with pytest.raises(KeyError, match="no configuration of nothing"):
        configurations.settings("sm_80", "nothing", "many")


@pytest.mark.parametrize(
    "text",
    [
        "[base",
        "[base.head.plain]\nrows = 0",
        "[base.head.plain]\nrows = 'many'",
        "[base.head]\nrows = 16",
        "rows = 1e9",
    ],
    ids=["cut off", "zero", "text", "too shallow", "no table"],
)
def test_a_damaged_file_of_sizes_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / configurations.TUNED
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tuned\.toml") as caught:
        configurations.adopt(tmp_path)
    assert "llmasos backend tune" in caught.value.hint
    assert configurations.adopt(tmp_path / "elsewhere") is None


def test_what_was_tuned_is_used_and_only_then(tmp_path: Path) -> None:
    before = dict(configurations.settings("sm_90", "head", "plain"))
    write(tmp_path / configurations.TUNED, {"sm_90": {"head": {"plain": {**before, "rows": 32}}}})
    try:
        assert configurations.adopt(tmp_path) == tmp_path / configurations.TUNED
        assert configurations.settings("sm_90", "head", "plain")["rows"] == 32
        assert configurations.settings("sm_80", "head", "plain") == before
    finally:
        configurations.adopt(tmp_path / "elsewhere")
    assert dict(configurations.settings("sm_90", "head", "plain")) == before
    assert [path.name for path in tmp_path.iterdir()] == [configurations.TUNED]


def test_tuning_keeps_the_fastest(monkeypatch) -> None:
    tried: list[dict[str, int]] = []

    def time(call) -> float:
        now = dict(configurations.settings("interpreter", "vocabulary", "row"))
        tried.append(now)
        return 1.0 if now["block"] == 2048 and now["warps"] == 4 else 2.0

    class Silent:
        def phase(self, *arguments: object) -> None: ...
        def advance(self) -> None: ...

    from llmasos_cuda import tuning

    monkeypatch.setattr(tuning, "architecture", lambda tensor: "interpreter")
    monkeypatch.setattr(tuning.catalogue, "cases", lambda: iter([Sample()]))
    found = tune_kernels("cpu", frozenset(["vocabulary"]), Silent(), time)
    assert found.table == {"interpreter": {"vocabulary": {"row": {**tried[0], "block": 2048, "warps": 4}}}}
    assert [(gain.before, gain.after) for gain in found.gains] == [(2000.0, 1000.0)]
    assert len(tried) == 1 + len(list(candidates("vocabulary", "row")))


class Sample:
    name = "sample"

    def build(self, make):
        return lambda: None


def test_what_is_tuned_is_in_the_catalogue_and_has_sizes() -> None:
    from llmasos_cuda import catalogue

    assert set(DECIDES) <= {case.name for case in catalogue.cases()}
    for kernel, variant in DECIDES.values():
        known = configurations.settings("sm_90", kernel, variant)
        assert all(set(one) <= set(known) for one in candidates(kernel, variant))
