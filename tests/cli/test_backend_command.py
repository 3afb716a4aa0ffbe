"""``llmasos backend``: what is bound and why, whether it is right, and how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmasos.cli.backend import BackendGroup
from llmasos.cli.main import import_command, run
from llmasos.contracts.runtime import OP_NAMES
from llmasos.testing.tmp import manifest, write_plugin

REFERENCE = "llmasos-transformer/reference"

PLUGIN = """
from dataclasses import dataclass
import torch
from llmasos.api import BackendDef, KernelOp, hookimpl

@dataclass
class Turned:
    columns: torch.Tensor  # [I, O]
    outputs: int
    inputs: int
    @property
    def nbytes(self):
        return self.columns.nbytes

class Chip:
    def __init__(self):
        self.ready = "no"
    def devices(self):
        return ("cpu",)
    def dtypes(self, device):
        return ("float32", "bfloat16")
    def prepare(self, device, dtype, folder):
        self.ready = dtype
    def facts(self):
        return {"kernels": "turned", "ready for": self.ready, "threads": 1}
    def pack(self, weight, lookup):
        return Turned(weight.T.contiguous(), *weight.shape)

def plain(weight):
    return weight.columns.T if isinstance(weight, Turned) else weight

def linear(x, weight, bias):
    return torch.nn.functional.linear(x, plain(weight), bias)

def embedding(ids, weight):
    return plain(weight)[ids]

def token_logprobs(x, weight, bias, targets, rows=None):
    logits = linear(x, weight, bias).float()
    if rows is not None:
        logits = logits[rows]
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1), logits.argmax(-1)

def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps).to(x.dtype) * weight

OPS = {"linear": 1e-4, "embedding": 0.0, "token_logprobs": 1e-4, "rms_norm": 1e-4}

@hookimpl
def llmasos_backends():
    yield BackendDef(name="chip", factory="acme_chip.plugin:Chip", priority=50)

@hookimpl
def llmasos_kernel_ops():
    for op, tolerance in OPS.items():
        dtypes = ("float32",) if op == "rms_norm" else ("float32", "bfloat16")
        yield KernelOp(name="chip." + op, op=op, backend="chip", factory="acme_chip.plugin:" + op, tolerance=tolerance,
                       dtypes=dtypes)
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))


def chip(folder: Path, *changes: tuple[str, str], **keys: Any) -> str:
    """The folder of a plugin with a back end that packs, its source changed."""
    source = PLUGIN
    for old, new in changes:
        assert old in source
        source = source.replace(old, new, 1)
    names = [("backend", "chip"), *(("kernel_op", f"chip.{op}") for op in OP_NAMES if f"def {op}(" in PLUGIN)]
    provides = [{"kind": kind, "name": name, "summary": f"The {name}"} for kind, name in names]
    table = manifest("acme-chip", provides=provides, **keys)
    return str(write_plugin(folder / "acme_chip", table, {"plugin.py": source}))


def backend(*words: str, plugin: str | None = None, code: int = 0) -> None:
    """Run ``llmasos backend`` with the reference and at most one other plugin."""
    flags = ["--only", "llmasos-transformer", *(["--plugin", plugin] if plugin else [])]
    assert run([*flags, "backend", *words]) == code


def answer(capsys: pytest.CaptureFixture[str], *words: str, plugin: str | None = None, code: int = 0) -> Any:
    backend(*words, "--json", plugin=plugin, code=code)
    return json.loads(capsys.readouterr().out)


def refused(value: dict[str, Any]) -> dict[str, str]:
    return {one["op"]: one["refused"]["reason"] for one in value["ops"] if one["refused"]}


# ---- commands ----


@pytest.mark.parametrize("name", sorted(BackendGroup.core))
def test_the_list_says_what_the_commands_say(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, summary = BackendGroup.core[name]
    assert import_command(path).get_short_help_str(limit=200) == summary
    backend(name, "--help")
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "--quiet" in shown


def test_help_imports_neither_torch_nor_plugins() -> None:
    code = (
        "import sys; from llmasos.cli.main import run\n"
        "for words in (['backend', '--help'], ['backend', 'bench', '--help']):\n"
        "    assert run(words) == 0\n"
        "print([name for name in sys.modules if name in ('torch', 'numpy') or name.startswith('llmasos_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [
        name for name in json.loads(done.stdout.splitlines()[-1].replace("'", '"')) if "editable" not in name
    ] == []


# ---- list ----


def test_list_shows_every_back_end_and_which_one_auto_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = chip(tmp_path)
    value = answer(capsys, "list", plugin=plugin)
    assert [(row["name"], row["priority"]) for row in value["backends"]] == [
        ("acme-chip/chip", 50),
        (REFERENCE, 0),
    ]
    assert value["backends"][0]["devices"] == [{"device": "cpu", "dtypes": ["float32", "bfloat16"]}]
    taken = {"backend": "acme-chip/chip", "device": "cpu"}
    assert value["auto"] == {"exact": taken, "fast": taken}
    backend("list", plugin=plugin)
    shown = capsys.readouterr().out
    assert "The chip" in shown
    assert "--device auto --dtype exact: acme-chip/chip on cpu" in shown


def test_list_without_back_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--no-plugins", "backend", "list"]) == 0
    assert "no back ends" in capsys.readouterr().out
    assert run(["--no-plugins", "backend", "list", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == {"backends": [], "auto": {"exact": None, "fast": None}}


def test_a_back_end_that_fails_is_listed_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = chip(tmp_path, ('return ("cpu",)', "raise OSError('no driver')"))
    backend("list", "--json", plugin=plugin)
    shown = capsys.readouterr()
    value = json.loads(shown.out)
    assert value["backends"][0]["devices"] == []
    assert value["auto"]["exact"]["backend"] == REFERENCE
    assert shown.err.count("no driver") == 1


# ---- info ----


def test_info_says_what_is_bound_and_what_the_back_end_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = chip(tmp_path)
    value = answer(capsys, "info", plugin=plugin)
    assert (value["name"], value["device"], value["dtype"]) == ("acme-chip/chip", "cpu", "float32")
    assert value["facts"] == {"kernels": "turned", "ready for": "float32", "threads": "1"}
    assert (value["packs"], value["pack_refused"]) == (True, None)
    providers = {one["op"]: one["provider"] for one in value["ops"]}
    assert set(providers) == set(OP_NAMES)
    assert providers["linear"] == "acme-chip/chip.linear"
    assert providers["attention"] == f"{REFERENCE}.attention"
    assert refused(value) == {}
    backend("--explain", plugin=plugin)
    shown = capsys.readouterr().out
    assert "ready for  float32" in shown
    assert "laid out by the back end" in shown
    assert "serves it with priority 0" in shown
    backend("info", "reference", plugin=plugin)
    assert "as they are" in capsys.readouterr().out


def test_info_says_why_ops_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = chip(
        tmp_path,
        ("* weight\n", "* weight + 0.25\n"),
        ("def embedding(ids, weight):\n", "def embedding(ids, weight):\n    import no_such_package\n"),
    )
    value = answer(capsys, "info", plugin=plugin)
    found = refused(value)
    assert found["rms_norm"].startswith("differs from the reference by 0.25")
    assert "No module named 'no_such_package'" in found["embedding"]
    assert value["packs"] is False
    assert value["pack_refused"] == "embedding is not its own"
    backend("info", plugin=plugin)
    shown = capsys.readouterr().out
    assert "acme-chip/chip.rms_norm" in shown
    assert "as they are: embedding is not its own" in shown
    value = answer(capsys, "info", "--dtype", "fast", plugin=plugin)
    assert refused(value)["rms_norm"] == "does not compute in bfloat16"
    assert value["facts"]["ready for"] == "bfloat16"


@pytest.mark.parametrize("facts", ["raise OSError('no sensor')", "return 3"], ids=["raises", "number"])
def test_facts_that_fail_are_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: str
) -> None:
    plugin = chip(tmp_path, ("    def facts(self):\n", f"    def facts(self):\n        {facts}\n"))
    backend("info", "--json", plugin=plugin)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["facts"] == {}
    assert shown.err.count("warning: ") == 1
    assert "acme-chip/chip" in shown.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["info", "chp"], 5, "chip"),
        (["check", "acme-chip/reference"], 5, "acme-chip/reference"),
        (
            ["info", "chip", "--device", "cuda:3"],
            4,
            "the back end acme-chip/chip does not serve device 'cuda:3'",
        ),
        (["check", "chip", "--dtype", "float16"], 4, "devices here: cpu"),
        (["info", "--device", "tpu"], 4, "no enabled back end serves device 'tpu'"),
        (["bench", "--dtype", "float99"], 2, "unknown dtype 'float99'"),
        (["bench", "--rows", "1,x"], 2, "--rows 1,x"),
        (["bench", "--rows", "0"], 2, "--rows 0"),
        (["bench", "--width", "100"], 2, "take a multiple of 64"),
        (["chek"], 2, "did you mean `check`?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    backend(*words, plugin=chip(tmp_path), code=code)
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_named_back_end_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = chip(tmp_path, ("plugin:Chip", "driver:Chip"))
    Path(plugin, "driver.py").write_text("import no_such_package")
    for verb in ("info", "check", "bench"):
        backend(verb, "chip", plugin=plugin, code=4)
        assert "no_such_package" in capsys.readouterr().err


# ---- check ----


@pytest.mark.parametrize(
    "flags", [(), ("--thorough",), ("--dtype", "fast")], ids=["quick", "thorough", "fast"]
)
def test_check_passes_what_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    plugin = chip(tmp_path)
    value = answer(capsys, "check", *flags, plugin=plugin)
    assert value["passed"]
    kinds = [(one["op"], one["packed"]) for one in value["checks"]]
    weighty = ["embedding", "linear", "token_logprobs"]
    assert sorted(kinds) == sorted(
        [(op, packed) for op in weighty for packed in (False, True)] + [("rms_norm", False)]
    )
    assert all(one["difference"] <= one["allowed"] for one in value["checks"] if one["reason"] is None)
    limited = [one["op"] for one in value["checks"] if one["reason"] is not None]
    assert limited == (["rms_norm"] if "fast" in flags else [])
    assert set(value["missing"]) == set(OP_NAMES) - {*weighty, "rms_norm"}
    backend("check", *flags, plugin=plugin)
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1].endswith("passes")
    assert "REFUSED" not in shown


@pytest.mark.parametrize(
    ("change", "op", "packed", "reason"),
    [
        (("* weight\n", "* weight + 0.25\n"), "rms_norm", False, "differs from the reference by 0.25"),
        (("* weight\n", "* weight * float('nan')\n"), "rms_norm", False, "gave NaN"),
        (("* weight\n", "* weight[1]\n"), "rms_norm", False, "differs"),
        (
            ("return weight.columns.T", "return weight.columns.T + 1"),
            "linear",
            True,
            "on packed weights differs",
        ),
        (
            ("return Turned(", "1 / 0; return Turned("),
            "linear",
            True,
            "on packed weights raised ZeroDivisionError",
        ),
        (('plugin:" + op', 'kernels:" + op'), "linear", False, "cannot be loaded"),
    ],
    ids=["offset", "nan", "scalar", "packed", "pack", "module"],
)
def test_check_exits_with_1_when_an_op_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    op: str,
    packed: bool,
    reason: str,
) -> None:
    plugin = chip(tmp_path, change)
    value = answer(capsys, "check", "chip", plugin=plugin, code=1)
    assert not value["passed"]
    (found,) = [one for one in value["checks"] if (one["op"], one["packed"]) == (op, packed)]
    assert reason in found["reason"]
    backend("check", "chip", plugin=plugin, code=1)
    shown = capsys.readouterr().out
    assert f"REFUSED: {found['reason']}"[:40] in shown
    assert " fails " in shown


def test_only_a_thorough_check_finds_what_is_wrong_in_large_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = chip(tmp_path, ("* weight\n", "* weight + 0.5 * (x.shape[0] > 100)\n"))
    assert answer(capsys, "check", plugin=plugin)["passed"]
    assert not answer(capsys, "check", "--thorough", plugin=plugin, code=1)["passed"]


# ---- bench ----


def test_bench_times_every_op_beside_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmasos.pipelines import opbench

    # Three times four megabytes instead of the gigabytes that keep weights out of the cache.
    small = {"cold": 1 << 20, "vocabulary": 1000}
    full = opbench.bench_backend
    monkeypatch.setattr(opbench, "bench_backend", lambda *words, **keys: full(*words, **keys, **small))
    monkeypatch.setattr(opbench, "BUFFER", 1 << 20)
    monkeypatch.setattr(opbench, "PAUSE", 0.0)
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0.0, 0.0))
    plugin = chip(tmp_path, ("* weight\n", "* weight + 0.25\n"))
    words = ("bench", "--rows", "1,4", "--width", "64", "--seconds", "0")
    backend(*words, "--json", plugin=plugin)
    shown = capsys.readouterr()
    value = json.loads(shown.out)
    assert "timing linear 64 -> 256: 0/2" in shown.err
    assert shown.err.count("the machine is busy") == 1
    assert value["load"] == 1e6
    assert value["read_bandwidth_gb_s"] > 0
    assert "differs" in value["refused"]["acme-chip/chip.rms_norm"]
    timings = value["timings"]
    assert {one["op"] for one in timings} == set(OP_NAMES)
    assert {one["rows"] for one in timings} == {1, 4}
    assert all(one["microseconds"] > 0 and one["gb_s"] > 0 for one in timings)
    assert {one["op"] for one in timings if one["packed"]} == {"embedding", "linear", "token_logprobs"}
    for one in timings:
        assert one["ratio"] == pytest.approx(one["reference_microseconds"] / one["microseconds"])
        assert (one["provider"] == f"{REFERENCE}.{one['op']}") == (
            one["op"] not in ("embedding", "linear", "token_logprobs")
        )
    (one,) = [one for one in timings if (one["shape"], one["rows"]) == ("64 -> 256", 4)]
    assert one["gflops"] == pytest.approx(2 * 4 * 64 * 256 / one["microseconds"] / 1e3)
    moved = 4 * (64 * 256 + 4 * (64 + 256))
    assert one["gb_s"] == pytest.approx(moved / one["microseconds"] / 1e3)
    shapes = {one["shape"].split()[0] for one in timings if one["op"] == "attention"}
    assert shapes == {"prefill", "decode"}
    backend(*words, "--dtype", "fast", plugin=plugin)
    page = capsys.readouterr().out
    assert "in bfloat16; torch " in page
    assert "packed weights" in page
    assert "GB/s from memory" in page
