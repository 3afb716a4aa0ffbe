"""The ops of a model that is trained: the reference's, which torch differentiates, and a back end's where they agree with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from llmasos.contracts.model import DTypeName
from llmasos.contracts.runtime import OP_NAMES, AttentionLayout, OpCallable
from llmasos.contracts.training import TrainingBackend, TrainingKernels, TrainingOps
from llmasos.errors import DeviceUnavailable, LlmasosError
from llmasos.pipelines.binding import REFERENCE, choose_backend, offered_ops, prepared_backend
from llmasos.pipelines.bound import BoundOps

if TYPE_CHECKING:
    from torch import Tensor

    from llmasos.kernel.hub import KernelHub

#: Ops that a back end may have for training.
TRAINED = ("linear", "attention", "linear_cross_entropy")
#: Largest difference from the reference in float64, of values and gradients, relative to the largest of each.
_ALLOWED: Mapping[str, float] = {"float32": 1e-5, "bfloat16": 4e-2}


def bind_training(hub: KernelHub, device: str, dtype: DTypeName) -> TrainingOps:
    """Ops for a model that will be trained on ``device``; ``bfloat16`` rounds the factors of its products, never its weights.

    ``providers`` and ``refused`` say what came from where. Raises DeviceUnavailable for an element type that is not trained in.
    """
    if dtype not in _ALLOWED:
        raise DeviceUnavailable(f"models are not trained in {dtype}", hint="use float32 or bfloat16")
    backend, where = choose_backend(hub, device, dtype)
    offered = offered_ops(hub)
    ops: dict[str, OpCallable] = {}
    providers: dict[str, str] = {}
    for op in OP_NAMES:
        if (REFERENCE, op) not in offered:
            raise DeviceUnavailable(
                f"no enabled plugin provides the op {op!r}",
                hint="enable llmasos-transformer, see `llmasos doctor`",
            )
        providers[op] = offered[REFERENCE, op][1]
        ops[op] = cast(OpCallable, hub.get("kernel_op", providers[op]))
    ops["linear_cross_entropy"] = linear_cross_entropy
    providers["linear_cross_entropy"] = "llmasos/training.linear_cross_entropy"
    refused: dict[str, str] = {}
    made = prepared_backend(hub, backend, where, dtype)
    if isinstance(made, TrainingBackend):
        kernels = _kernels(made, where, dtype, refused, backend)
        for name in TRAINED if kernels is not None else ():
            call = cast(OpCallable, getattr(kernels, name))
            reason = _refusal(call, ops[name], name, where, _ALLOWED[dtype])
            if reason is None:
                ops[name], providers[name] = call, f"{backend}.training.{name}"
            else:
                refused[f"{backend}.training.{name}"] = reason
    return cast(TrainingOps, BoundOps(ops, providers, refused, backend=backend, warn=hub.warn))


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignored: int = -100,
    mean: bool = True,
    smoothing: float = 0.0,
) -> Tensor:
    """The meaning of ``TrainingKernels.linear_cross_entropy``, with all scores in memory."""
    import torch.nn.functional as F

    return F.cross_entropy(
        F.linear(x, weight, bias),
        targets,
        ignore_index=ignored,
        reduction="mean" if mean else "sum",
        label_smoothing=smoothing,
    )


def _kernels(
    backend: TrainingBackend, device: str, dtype: str, refused: dict[str, str], name: str
) -> TrainingKernels | None:
    try:
        return backend.training(device, dtype)
    except LlmasosError as error:
        refused[f"{name}.training"] = error.message
    except Exception as error:  # whatever a provider raises, it is not usable here
        refused[f"{name}.training"] = f"raised {type(error).__name__}: {error}"
    return None


def _refusal(call: OpCallable, reference: OpCallable, op: str, device: str, allowed: float) -> str | None:
    """Why an op is not used: what it raised, or how far its values or gradients are from the reference's in float64."""
    import torch

    worst = 0.0
    for arguments, rest, options in _samples(op, device):
        found = []
        for kind, which in ((torch.float32, call), (torch.float64, reference)):
            given = [None if x is None else x.to(kind).requires_grad_() for x in arguments]
            wanted = [x for x in given if x is not None]
            try:
                value = which(*given, *rest, **options)
                slope = torch.linspace(0.5, 1.5, value.numel(), device=device, dtype=kind).view(value.shape)
                found.append([value.detach(), *torch.autograd.grad(value, wanted, slope)])
            except Exception as error:  # as above; the reference does not fail on these
                said = (str(error).strip().splitlines() or [""])[0]
                return f"raised {type(error).__name__}: {said}"
        for mine, other in zip(*found, strict=True):
            if mine.shape != other.shape:
                return f"gave the shape {list(mine.shape)} instead of {list(other.shape)}"
            size = max(1.0, float(other.abs().max()))
            difference = float((mine.double() - other).abs().max()) / size
            worst = difference if difference != difference else max(worst, difference)
            if not worst <= allowed:  # NaN is not either
                return f"differs from the reference by {worst:.3g} (allowed {allowed:.3g})"
    return None


def _samples(op: str, device: str) -> list[tuple[tuple[Tensor | None, ...], tuple[Any, ...], dict[str, Any]]]:
    """Inputs that gradients are taken of, other arguments, options."""
    import torch

    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    rows = 33
    targets = torch.arange(rows, device=device) % 17
    targets[::4] = -100
    makers: dict[str, Callable[[], list[Any]]] = {
        "linear": lambda: [
            ((random(rows, 40), random(64, 40), random(64)), (), {}),
            ((random(rows, 64), random(31, 64)), (None,), {}),
        ],
        "attention": lambda: [
            (
                (random(rows, 4, 8), random(rows, 2, 8), random(rows, 2, 8)),
                (AttentionLayout(starts, starts, causal), 0.3),
                {},
            )
            for starts in ((0, 11, 22, rows), (0, 5, rows))
            for causal in (True, False)
        ],
        "linear_cross_entropy": lambda: [
            ((random(rows, 32), random(50, 32), bias), (targets,), {"mean": mean, "smoothing": smoothing})
            for bias, mean, smoothing in ((None, True, 0.0), (random(50), False, 0.1))
        ],
    }
    return makers[op]()
