"""What this plugin contributes: descriptors only; torch is imported when one of them is used."""

from __future__ import annotations

from collections.abc import Iterable

from llmasos.api import OP_NAMES, BackendDef, KernelOp, ModelArchitecture, WeightLoader, hookimpl


@hookimpl
def llmasos_model_architectures() -> Iterable[ModelArchitecture]:
    yield ModelArchitecture(name="llama", factory="llmasos_transformer.architecture:LlamaArchitecture")
    yield ModelArchitecture(name="gpt2", factory="llmasos_transformer.architecture:Gpt2Architecture")
    yield ModelArchitecture(name="bert", factory="llmasos_transformer.architecture:BertArchitecture")


@hookimpl
def llmasos_weight_loaders() -> Iterable[WeightLoader]:
    weights = "llmasos_transformer.weights"
    yield WeightLoader(name="safetensors", factory=f"{weights}.safetensors:SafetensorsFormat", priority=30)
    yield WeightLoader(name="gguf", factory=f"{weights}.gguf:GgufFormat", priority=20)
    yield WeightLoader(name="pickle", factory=f"{weights}.pickle:PickleFormat", priority=10)


@hookimpl
def llmasos_backends() -> Iterable[BackendDef]:
    yield BackendDef(name="reference", factory="llmasos_transformer.backend:ReferenceBackend")


@hookimpl
def llmasos_kernel_ops() -> Iterable[KernelOp]:
    for op in OP_NAMES:
        yield KernelOp(
            name=f"reference.{op}",
            op=op,
            backend="reference",
            factory=f"llmasos_transformer.ops:{op}",
            devices=("cpu", "cuda", "mps"),
        )
