"""What this plugin contributes: descriptors only; torch and the library are loaded when one of them is used."""

from __future__ import annotations

from collections.abc import Iterable

from llmasos.api import WEIGHT_OPS, BackendDef, KernelOp, OpName, hookimpl

#: What the native library does besides.
NATIVE_OPS: tuple[OpName, ...] = (
    "rms_norm",
    "layer_norm",
    "rotary",
    "attention",
    "activation",
    "gated_activation",
)


@hookimpl
def llmasos_backends() -> Iterable[BackendDef]:
    yield BackendDef(name="cpu", factory="llmasos_cpu.backend:CpuBackend", priority=10)


@hookimpl
def llmasos_kernel_ops() -> Iterable[KernelOp]:
    for op in WEIGHT_OPS:
        yield KernelOp(
            name=f"cpu.{op}",
            op=op,
            backend="cpu",
            factory=f"llmasos_cpu.weights:{op}",
            devices=("cpu",),
            dtypes=("float32", "bfloat16", "int8", "int4"),
            # Sums in another order than torch's.
            tolerance=2e-5,
        )
    for op in NATIVE_OPS:
        yield KernelOp(
            name=f"cpu.{op}",
            op=op,
            backend="cpu",
            factory=f"llmasos_cpu.native_ops:{op}",
            devices=("cpu",),
            dtypes=("float32", "bfloat16", "int8", "int4"),
            tolerance=2e-5,
        )
