"""A back end may compute all layers in one call: used when it agrees with the reference ops on small stacks of each form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmasos.api import OP_NAMES, PackedBatch, StackPlan, TreeTile
from llmasos.pipelines.binding import bind_ops
from llmasos.pipelines.load import opened_model
from llmasos.pipelines.stackcheck import reference_stack, sample_passes, sample_plans, stack_difference
from llmasos.testing.checkpoints import write_checkpoint

PLUGIN = """
from dataclasses import fields, replace
from llmasos.api import BackendDef, hookimpl
from llmasos.pipelines.binding import bind_ops
from llmasos.pipelines.load import opened_model
from llmasos.pipelines.stackcheck import reference_stack
from llmasos_transformer import ops

NAMES = ("embedding", "rms_norm", "layer_norm", "linear", "rotary", "attention", "activation", "gated_activation")

def copied(block):
    return replace(block, **{
        one.name: replace(value, weight=value.weight.clone())
        for one in fields(block) if hasattr(value := getattr(block, one.name), "weight")
    })

class Backend:
    ran = 0
    def devices(self):
        return ("cpu",)
    def dtypes(self, device):
        return ("float32", "bfloat16")
    def stack(self, plan):
        {stack}
        plan = replace(plan, blocks=[copied(block) for block in plan.blocks])
        def run(given):
            Backend.ran += 1
            return reference_stack(plan, given, {name: getattr(ops, name) for name in NAMES}) + {error}
        return run

@hookimpl
def llmasos_backends():
    yield BackendDef(name="whole", factory="whole_backend.plugin:Backend", priority=50)
"""


def backend_plugin(folder: Path, *, stack: str = "pass", error: float = 0.0) -> Path:
    package = folder / "whole_backend"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(PLUGIN.replace("{stack}", stack).replace("{error}", str(error)))
    (package / "llmasos.toml").write_text(
        'manifest = 1\nid = "whole-backend"\nsummary = "A back end"\nmodule = "whole_backend.plugin"\n'
        'api = ">=1.0,<2"\nlicense = "Apache-2.0"\n'
        '[[provides]]\nkind = "backend"\nname = "whole"\nsummary = "for a test"\n'
    )
    return package


def passes(model) -> list[torch.Tensor]:
    """Hidden states of plain sequences, of a cache in two steps and, for decoders, of a tile of a tree."""
    tokens = torch.tensor([3, 1, 4, 1, 5, 9])
    found = [model.hidden(PackedBatch(tokens=tokens, positions=torch.arange(6) % 3, starts=(0, 3, 6)))]
    if model.spec.kind == "encoder":
        return found
    cache, path = model.new_cache(2, 8), model.new_path(12)
    for step in (tokens[:4], tokens[4:]):
        half = len(step) // 2
        past = cache.lengths[0]
        positions = torch.arange(past, past + half).repeat(2)
        found.append(
            model.hidden(
                PackedBatch(tokens=step, positions=positions, starts=(0, half, 2 * half), slots=(1, 0)), cache
            )
        )
    chain = TreeTile(prefix=(0,), ancestors=((),), visible=(None,), keep=0, kept=((0, 4),))
    model.hidden(PackedBatch(tokens=tokens[:4], positions=torch.arange(4), starts=(0, 4), tree=chain), path)
    mask = torch.tensor([[1, 0], [0, 1]], dtype=torch.bool)
    leaves = TreeTile(
        prefix=(4,), ancestors=((),), visible=(mask,), keep=4, kept=(), wanted=torch.tensor([1])
    )
    batch = PackedBatch(tokens=tokens[4:], positions=torch.tensor([4, 4]), starts=(0, 2), tree=leaves)
    return [*found, model.hidden(batch, path)]


def reference_model(hub, folder: str):
    one = hub()
    with opened_model(one, folder) as opened:
        ops = bind_ops(one, "llmasos-transformer/reference", "cpu", "float32")
        return opened.architecture.build(opened.checkpoint, ops, dtype="float32", device="cpu")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_in_one_call_give_what_block_by_block_gives(hub, tmp_path: Path, family: str) -> None:
    folder = str(write_checkpoint(tmp_path / "model", family))
    plain = reference_model(hub, folder)
    assert plain.runner is None
    loaded = hub(plugins=[backend_plugin(tmp_path)]).load_model(folder)
    assert loaded.facts["ops"]["stack"] == "whole-backend/whole.stack"
    assert loaded.model.runner is not None
    assert loaded.model.num_parameters() == plain.num_parameters() == loaded.facts["parameters"]
    assert not list(loaded.model.blocks[0].attention.query.parameters())[
        1:
    ]  # a bias at most: the matrix was taken
    with torch.inference_mode():
        for mine, wanted in zip(passes(loaded.model), passes(plain), strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)


def test_a_stack_that_is_wrong_is_refused_with_the_number(hub, tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "model", "llama"))
    wrong = hub(plugins=[backend_plugin(tmp_path, error=0.25)]).load_model(folder)
    reason = wrong.facts["ops_refused"]["whole-backend/whole.stack"]
    assert reason == "differs from the reference by 0.25 (allowed 0.0001)"
    assert wrong.model.runner is None


def test_a_stack_that_raises_is_refused(hub, tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "model", "llama"))
    raising = backend_plugin(tmp_path, stack="raise ValueError('no')")
    loaded = hub(plugins=[raising]).load_model(folder)
    assert loaded.facts["ops_refused"]["whole-backend/whole.stack"].startswith(
        "differs from the reference by inf"
    )
    assert loaded.model.runner is None


def test_a_back_end_may_decline_a_stack(hub, tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "model", "llama"))
    loaded = hub(plugins=[backend_plugin(tmp_path, stack="return None")]).load_model(folder)
    assert loaded.model.runner is None
    assert "stack" not in loaded.facts["ops"]
    assert loaded.facts["ops_refused"] == {}


@pytest.fixture
def reference(hub):
    one = hub()
    return {op: one.get("kernel_op", f"reference.{op}") for op in OP_NAMES}


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: replace(plan, activation="relu"),
        lambda plan: replace(plan, norm_first=not plan.norm_first),
        lambda plan: replace(plan, blocks=list(plan.blocks)[:1]),
        lambda plan: replace(plan, blocks=tuple(replace(b, scale=b.scale * 1.01) for b in plan.blocks)),
    ],
    ids=["activation", "norms", "layers", "scale"],
)
def test_a_stack_of_another_meaning_is_found_out(reference, change) -> None:
    def build(plan: StackPlan):
        return lambda given: reference_stack(change(plan), given, reference)

    def honest(plan: StackPlan):
        return lambda given: reference_stack(plan, given, reference)

    def pack(weight, lookup):
        return weight

    assert stack_difference(honest, pack, reference, device="cpu", dtype="float32") == 0.0
    assert stack_difference(build, pack, reference, device="cpu", dtype="float32") > 1e-3


def test_the_samples_have_every_form(reference) -> None:
    plans = list(sample_plans(device="cpu", dtype="float32"))
    assert {plan.blocks[0].attention_norm.kind for plan in plans} == {"rms", "layer"}
    assert {plan.norm_first for plan in plans} == {True, False}
    assert {plan.blocks[0].gate is None for plan in plans} == {True, False}
    given = list(sample_passes(plans[0], device="cpu", dtype="float32"))
    assert any(one.layout.before is not None for one in given)
    assert any(one.layout.k_lengths is not None for one in given)
    assert any(one.wanted is not None for one in given)
    assert {plan.frequencies is None for plan in plans} == {
        plan.embedding.positions is not None for plan in plans
    }
