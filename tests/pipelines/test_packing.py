"""A back end may keep weights in a layout of its own: used when all its weight ops agree with the reference on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmasos.api import WEIGHT_OPS, PackedBatch, PackedWeight, WeightsError
from llmasos.pipelines.binding import bind_ops
from llmasos.pipelines.bound import BoundOps
from llmasos.pipelines.load import opened_model
from llmasos.testing.checkpoints import write_checkpoint

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

class Backend:
    def devices(self):
        return ("cpu",)
    def dtypes(self, device):
        return ("float32",)
    def pack(self, weight, lookup):
        return Turned(weight.T.contiguous(), *weight.shape)

def plain(weight):
    return weight.columns.T if isinstance(weight, Turned) else weight

def linear(x, weight, bias):
    out = x @ plain(weight).T{error}
    return out if bias is None else out + bias

def embedding(ids, weight):
    return plain(weight)[ids]

def token_logprobs(x, weight, bias, targets, rows=None):
    logits = linear(x, weight, bias).float()
    if rows is not None:
        logits = logits[rows]
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1), logits.argmax(-1)

@hookimpl
def llmasos_backends():
    yield BackendDef(name="turned", factory="turned_backend.plugin:Backend", priority=50)

@hookimpl
def llmasos_kernel_ops():
    for op in {ops}:
        yield KernelOp(name="turned." + op, op=op, backend="turned", factory="turned_backend.plugin:" + op, tolerance=1e-4)
"""


def backend_plugin(folder: Path, ops: tuple[str, ...] = WEIGHT_OPS, error: str = "") -> Path:
    package = folder / "turned_backend"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    source = PLUGIN.replace("{ops}", repr(ops)).replace("{error}", error)
    (package / "plugin.py").write_text(source)
    names = [("backend", "turned"), *(("kernel_op", f"turned.{op}") for op in ops)]
    provides = "\n".join(
        f'[[provides]]\nkind = "{kind}"\nname = "{name}"\nsummary = "for a test"\n' for kind, name in names
    )
    (package / "llmasos.toml").write_text(
        'manifest = 1\nid = "turned-backend"\nsummary = "A back end"\nmodule = "turned_backend.plugin"\n'
        'api = ">=1.0,<2"\nlicense = "Apache-2.0"\n' + provides
    )
    return package


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_matrices_are_packed_once_and_give_the_same_numbers(hub, tmp_path: Path, family: str) -> None:
    folder = str(write_checkpoint(tmp_path / "model", family))
    one = hub()
    with opened_model(one, folder) as opened:
        ops = bind_ops(one, "llmasos-transformer/reference", "cpu", "float32")
        plain = opened.architecture.build(opened.checkpoint, ops, dtype="float32", device="cpu")
    model = hub(plugins=[backend_plugin(tmp_path)]).load_model(folder).model
    assert isinstance(model.blocks[0].attention.query.weight, PackedWeight)
    assert not isinstance(model.blocks[0].attention_norm.weight, PackedWeight)
    # Looked up and multiplied with: packed where one table does both.
    assert isinstance(model.embeddings.tokens, PackedWeight) == model.spec.tied
    assert isinstance(model.head_weight, PackedWeight)
    assert model.num_parameters() == plain.num_parameters()
    tokens = torch.tensor([3, 1, 4, 1, 5])
    batch = PackedBatch(tokens=tokens, positions=torch.arange(5), starts=(0, 5))
    with torch.inference_mode():
        logits, wanted_logits = model.logits(model.hidden(batch)), plain.logits(plain.hidden(batch))
        torch.testing.assert_close(logits, wanted_logits, atol=1e-4, rtol=0)
        found, best = model.token_logprobs(model.hidden(batch), tokens)
        wanted, top = plain.token_logprobs(plain.hidden(batch), tokens)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert best.tolist() == top.tolist()


def test_nothing_is_packed_for_ops_that_cannot_all_read_it(hub, tmp_path: Path) -> None:
    one = hub(plugins=[backend_plugin(tmp_path, ops=("linear", "token_logprobs"))])
    bound = bind_ops(one, "turned-backend/turned", "cpu", "float32")
    assert bound.refused == {"turned-backend/turned.pack": "embedding is not its own"}
    weight = torch.ones(2, 3)
    assert bound.pack(weight, True) is weight


def test_nothing_is_packed_when_the_packed_numbers_are_wrong(hub, tmp_path: Path) -> None:
    wrong = " + (0.5 if isinstance(weight, Turned) else 0.0)"
    one = hub(plugins=[backend_plugin(tmp_path, error=wrong)])
    bound = bind_ops(one, "turned-backend/turned", "cpu", "float32")
    assert bound.providers["linear"] == "turned-backend/turned.linear"  # on plain weights it is right
    reason = bound.refused["turned-backend/turned.pack"]
    assert reason.startswith("linear on packed weights differs from the reference by 0.5")


def test_a_back_end_is_prepared_before_its_ops_are_checked(hub, tmp_path: Path) -> None:
    package = backend_plugin(tmp_path)
    source = (package / "plugin.py").read_text()
    prepare = """
    def prepare(self, device, dtype, folder):
        folder.mkdir(parents=True)
        (folder / "measured").write_text(f"{device} {dtype}")
    def pack("""
    (package / "plugin.py").write_text(source.replace("\n    def pack(", prepare))
    one = hub(plugins=[package])
    assert bind_ops(one, "turned-backend/turned", "cpu", "float32").refused == {}
    kept = one.cache_dir / "backends" / "turned-backend-turned" / "measured"
    assert kept.read_text() == "cpu float32"


@pytest.mark.parametrize("when", ["False", "weight.shape[0] > 64"], ids=["never", "large"])
def test_a_back_end_that_fails_at_packing_leaves_weights_as_they_are(hub, tmp_path: Path, when: str) -> None:
    """Found out by the self-check, or only with a matrix of a model: then it is said once."""
    package = backend_plugin(tmp_path)
    source = (package / "plugin.py").read_text()
    limit = "" if when == "False" else f"if {when}: "
    (package / "plugin.py").write_text(
        source.replace(
            "        return Turned(",
            f"        {limit}raise MemoryError('no huge pages')\n        return Turned(",
        )
    )
    warnings: list[str] = []
    one = hub(plugins=[package], warn=warnings.append)
    loaded = one.load_model(str(write_checkpoint(tmp_path / "model", "llama")))
    reason = loaded.facts["ops_refused"]["turned-backend/turned.pack"]
    assert reason.endswith("raised MemoryError: no huge pages")
    assert loaded.facts["ops"]["linear"] == "turned-backend/turned.linear"
    assert isinstance(loaded.model.head_weight, torch.Tensor)
    assert isinstance(loaded.model.blocks[0].attention.query.weight, PackedWeight) == bool(limit)
    assert len(warnings) == bool(limit)


@pytest.mark.parametrize(
    ("error", "quantised", "raised"),
    [
        (WeightsError("NaN in row 3"), False, WeightsError),
        (WeightsError("NaN in row 3"), True, WeightsError),
        (RuntimeError("driver"), True, RuntimeError),
        (RuntimeError("driver"), False, None),
    ],
    ids=["weights", "quantised weights", "quantised", "plain"],
)
def test_only_a_failure_of_the_back_end_leaves_weights_as_they_are(error, quantised, raised) -> None:
    """What is said about the weights is the user's, and other weights than quantised ones would not be what was asked for."""

    class Failing:
        def devices(self):
            return ("cpu",)

        def dtypes(self, device):
            return ("float32",)

        def pack(self, weight, lookup):
            raise error

    warnings: list[str] = []
    bound = BoundOps({}, {}, {}, Failing(), backend="acme/a", warn=warnings.append, quantised=quantised)
    weight = torch.ones(2, 3)
    if raised is None:
        assert bound.pack(weight, False) is weight
        assert bound.pack(weight, False) is weight
        assert warnings == ["weights are used as they are: acme/a.pack of [2, 3] raised RuntimeError: driver"]
    else:
        with pytest.raises(raised):
            bound.pack(weight, False)
        assert warnings == []
