"""What this plugin contributes: descriptors only; torch and triton are loaded when one of them is used."""

from __future__ import annotations

from collections.abc import Iterable

from llmasos.api import OP_NAMES, WEIGHT_OPS, BackendDef, CommandDef, KernelOp, hookimpl

_PLAIN = ("float32", "bfloat16", "float16")


@hookimpl
def llmasos_backends() -> Iterable[BackendDef]:
    # Above the CPU back end: who has such a device wants it used.
    yield BackendDef(name="cuda", factory="llmasos_cuda.backend:CudaBackend", priority=20)


@hookimpl
def llmasos_kernel_ops() -> Iterable[KernelOp]:
    for op in OP_NAMES:
        yield KernelOp(
            name=f"cuda.{op}",
            op=op,
            backend="cuda",
            factory=f"llmasos_cuda.ops:{op}",
            devices=("cuda",),
            dtypes=(*_PLAIN, "int8", "int4"),
            # Sums in another order than torch's, and float32 products in three passes of tensor cores.
            tolerance=5e-5 if op in WEIGHT_OPS or op == "attention" else 2e-5,
        )


@hookimpl
def llmasos_commands() -> Iterable[CommandDef]:
    """``llmasos backend tune``."""
    yield CommandDef(name="backend.tune", factory="llmasos_cuda.command:tune")
