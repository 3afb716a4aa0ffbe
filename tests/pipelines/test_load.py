"""Choosing what loads a model: formats, architectures, back ends and ops, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmasos.errors import (
    AmbiguousName,
    DeviceUnavailable,
    ManifestError,
    ModelNotFound,
    PluginCallError,
    TokenizerError,
    UnknownName,
    UsageError,
    WeightsError,
)
from llmasos.pipelines.binding import bind_ops, dtype_name
from llmasos.testing.checkpoints import write_checkpoint

BACKEND = """
from llmasos.api import BackendDef, KernelOp, hookimpl

class Backend:
    def devices(self):
        return ("cpu",)
    def dtypes(self, device):
        return ("float32",)

def linear(x, weight, bias):
    out = x @ weight.T
    return out if bias is None else out + bias

def off_by_a_little(x, weight, eps):
    return x * weight + 0.25

@hookimpl
def llmasos_backends():
    yield BackendDef(name="acme", factory="acme_backend.plugin:Backend", priority=50)

@hookimpl
def llmasos_kernel_ops():
    yield KernelOp(name="acme.linear", op="linear", backend="acme", factory="acme_backend.plugin:linear",
                   tolerance=1e-4, dtypes=("float32",), devices=("cpu",))
    yield KernelOp(name="acme.rms_norm", op="rms_norm", backend="acme", factory="acme_backend.plugin:off_by_a_little",
                   devices=("cpu",))
"""


def backend_plugin(folder: Path) -> Path:
    package = folder / "acme_backend"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(BACKEND)
    names = [("backend", "acme"), ("kernel_op", "acme.linear"), ("kernel_op", "acme.rms_norm")]
    provides = "\n".join(
        f'[[provides]]\nkind = "{kind}"\nname = "{name}"\nsummary = "for a test"\n' for kind, name in names
    )
    (package / "llmasos.toml").write_text(
        'manifest = 1\nid = "acme-backend"\nsummary = "A back end"\nmodule = "acme_backend.plugin"\n'
        'api = ">=1.0,<2"\nlicense = "Apache-2.0"\n' + provides
    )
    return package


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loads_a_directory_and_says_what_it_used(hub, tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family)
    loaded = hub().load_model(str(folder))
    assert loaded.facts["architecture"] == f"llmasos-transformer/{family}"
    assert loaded.facts["loader"] == "llmasos-transformer/safetensors"
    assert loaded.facts["backend"] == "llmasos-cpu/cpu"
    assert loaded.facts["parameters"] == loaded.model.num_parameters()
    assert len(loaded.facts["files"]["model.safetensors"]) == 64


def test_an_encoder_is_not_a_causal_model(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "bert")
    with pytest.raises(UsageError, match="encoder"):
        hub().load_model(str(folder))


def test_an_unknown_architecture_names_what_would_be_needed(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "rwkv7", "architectures": ["RwkvForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownName, match="rwkv7") as caught:
        hub().load_model(str(folder))
    assert "model_architecture" in (caught.value.hint or "")
    assert "llama" in (caught.value.hint or "")


def test_a_model_may_name_its_architecture(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "my-llama"}))
    (folder / "llmasos.toml").write_text('architecture = "llmasos-transformer/llama"\n')
    assert hub().load_model(str(folder)).facts["architecture"] == "llmasos-transformer/llama"
    (folder / "llmasos.toml").write_text('architecture = "llmasos-transformer/llamb"\n')
    with pytest.raises(UnknownName, match="llamb"):
        hub().load_model(str(folder))
    (folder / "llmasos.toml").write_text("architecture = 3\n")
    with pytest.raises(ManifestError, match="not a string"):
        hub().load_model(str(folder))


def test_a_directory_without_weights_lists_what_is_there(hub, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(ModelNotFound, match=r"notes\.md") as caught:
        hub().load_model(str(tmp_path))
    assert "*.safetensors" in (caught.value.hint or "")


def test_a_model_without_a_tokenizer_says_so(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(TokenizerError, match="no tokenizer"):
        hub().load_model(str(folder))


def test_two_plugins_for_one_architecture_are_ambiguous(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    package = tmp_path / "acme_llama"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(
        "from llmasos.api import ModelArchitecture, hookimpl\n\n@hookimpl\ndef llmasos_model_architectures():\n"
        '    yield ModelArchitecture(name="llama", factory="acme_llama.plugin:Nothing")\n'
    )
    (package / "llmasos.toml").write_text(
        'manifest = 1\nid = "acme-llama"\nsummary = "Another Llama"\nmodule = "acme_llama.plugin"\n'
        'api = ">=1.0,<2"\nlicense = "Apache-2.0"\n[[provides]]\nkind = "model_architecture"\nname = "llama"\n'
        'summary = "Another"\nmatches = { model_type = ["llama"], architectures = ["LlamaForCausalLM"] }\n'
    )
    with pytest.raises(AmbiguousName, match="acme-llama/llama") as caught:
        hub(plugins=[package]).load_model(str(folder))
    assert "llmasos-transformer/llama" in caught.value.message


def test_a_back_end_is_used_where_it_agrees_and_refused_where_it_does_not(hub, tmp_path: Path) -> None:
    one = hub(plugins=[backend_plugin(tmp_path)])
    loaded = one.load_model(str(write_checkpoint(tmp_path / "model", "llama")))
    assert loaded.facts["backend"] == "acme-backend/acme"
    assert loaded.facts["ops"]["linear"] == "acme-backend/acme.linear"
    assert loaded.facts["ops"]["rms_norm"] == "llmasos-transformer/reference.rms_norm"
    reason = loaded.facts["ops_refused"]["acme-backend/acme.rms_norm"]
    assert reason.startswith("differs from the reference by ")
    assert float(reason.split()[5]) > 0.2


def test_an_op_is_refused_for_an_element_type_or_device_it_does_not_declare(hub, tmp_path: Path) -> None:
    one = hub(plugins=[backend_plugin(tmp_path)])
    name = "acme-backend/acme.linear"
    assert (
        bind_ops(one, "acme-backend/acme", "cpu", "bfloat16").refused[name] == "does not compute in bfloat16"
    )
    assert bind_ops(one, "acme-backend/acme", "cuda", "float32").refused[name] == "does not run on cuda"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import no_such_package", "needs the package `no_such_package`, which is not installed"),
        ("1 / 0", "cannot be loaded from acme_backend.kernels:linear: ZeroDivisionError: division by zero"),
        ("from llmasos.api import DeviceUnavailable; raise DeviceUnavailable('no AVX2')", "no AVX2"),
        ("def linear(x, weight, bias): raise OSError('no kernel\\nimage')", "raised OSError: no kernel"),
        (
            "def linear(x, weight, bias): return x",
            "gave the shapes [[0, 40]] instead of [[0, 24]]",
        ),
        ("def linear(x, weight, bias): return x @ weight.T * float('nan')", "gave NaN"),
    ],
    ids=["package", "import", "device", "raises", "shape", "nan"],
)
def test_an_op_that_cannot_be_used_says_why_and_the_model_runs(
    hub, tmp_path: Path, line: str, reason: str
) -> None:
    package = backend_plugin(tmp_path)
    source = (
        (package / "plugin.py")
        .read_text()
        .replace("acme_backend.plugin:linear", "acme_backend.kernels:linear")
    )
    (package / "plugin.py").write_text(source)
    (package / "kernels.py").write_text(line + "\n")
    loaded = hub(plugins=[package]).load_model(str(write_checkpoint(tmp_path / "model", "llama")))
    assert loaded.facts["backend"] == "acme-backend/acme"
    assert loaded.facts["ops"]["linear"] == "llmasos-transformer/reference.linear"
    assert loaded.facts["ops_refused"]["acme-backend/acme.linear"].endswith(reason)


@pytest.mark.parametrize("error", ["RuntimeError('driver')", "api.DeviceUnavailable('driver')"])
def test_a_back_end_that_cannot_say_its_devices_is_left_out(hub, tmp_path: Path, error: str) -> None:
    package = backend_plugin(tmp_path)
    source = (package / "plugin.py").read_text().replace('return ("cpu",)', f"raise {error}", 1)
    (package / "plugin.py").write_text("from llmasos import api\n" + source)
    warnings: list[str] = []
    loaded = hub(plugins=[package], warn=warnings.append).load_model(
        str(write_checkpoint(tmp_path / "model", "llama"))
    )
    assert loaded.facts["backend"] == "llmasos-cpu/cpu"
    assert (
        [text for text in warnings if "acme-backend/acme" in text and text.endswith("driver")]
        == warnings
        != []
    )


def test_unknown_device_and_dtype(hub, tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "model", "llama"))
    with pytest.raises(DeviceUnavailable, match="tpu"):
        hub().load_model(folder, device="tpu")
    with pytest.raises(UsageError, match="float99"):
        hub().load_model(folder, dtype="float99")
    assert dtype_name("exact") == "float32"


def test_weights_that_changed_after_they_were_fetched_are_refused(hub, tmp_path: Path, monkeypatch) -> None:
    from dataclasses import replace

    one = hub()
    folder = write_checkpoint(tmp_path / "model", "llama")
    resolved = replace(one.resolve_model(str(folder)), files={"model.safetensors": "0" * 64})
    monkeypatch.setattr(one, "locate_model", lambda ref, **_: resolved)
    with pytest.raises(WeightsError, match="vouches"):
        one.load_model(str(folder))


def test_the_tokenizer_of_a_model_without_its_weights(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    (folder / "model.safetensors").unlink()
    tokenizer = hub().load_tokenizer(str(folder))
    assert tokenizer.decode(tokenizer.encode("héllo")) == "héllo"


def test_describe_reads_no_weights(hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "gpt2")
    described = hub().describe(str(folder))
    assert described["architecture"]["family"] == "gpt2"
    assert described["tensors"]["count"] == len(described["tensors"]["list"])
    assert described["tensors"]["bytes"] == sum(t["bytes"] for t in described["tensors"]["list"])
    assert described["plugins"] == {
        "weight_loader": "llmasos-transformer/safetensors",
        "architecture": "llmasos-transformer/gpt2",
    }


def test_a_chosen_plugin_that_raises_is_named_with_its_version(hub, tmp_path: Path) -> None:
    package = tmp_path / "acme_broken"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(
        "from llmasos.api import TokenizerDef, hookimpl\n\nclass Form:\n    def accepts(self, path):\n        return True\n"
        "    def open(self, path, checkpoint=None):\n        raise ValueError('no such vocabulary')\n\n"
        "@hookimpl\ndef llmasos_tokenizers():\n"
        '    yield TokenizerDef(name="odd", factory="acme_broken.plugin:Form", priority=99)\n'
    )
    (package / "llmasos.toml").write_text(
        'manifest = 1\nid = "acme-broken"\nsummary = "Broken"\nmodule = "acme_broken.plugin"\n'
        'api = ">=1.0,<2"\nlicense = "Apache-2.0"\n[[provides]]\nkind = "tokenizer"\nname = "odd"\nsummary = "Odd"\n'
    )
    folder = write_checkpoint(tmp_path / "model", "llama")
    with pytest.raises(PluginCallError, match=r"acme-broken/odd .*ValueError: no such vocabulary") as caught:
        hub(plugins=[package]).load_model(str(folder))
    assert "acme-broken" in (caught.value.hint or "")
