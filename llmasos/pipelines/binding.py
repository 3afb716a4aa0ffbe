"""Which back end a model runs on, and the ops bound to it: chosen once, checked against the reference, explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from llmasos.contracts.model import DTypeName
from llmasos.contracts.runtime import (
    OP_NAMES,
    WEIGHT_OPS,
    Backend,
    BackendDef,
    BackendRequest,
    KernelOp,
    OpCallable,
    PackedWeight,
    PackingBackend,
    PreparingBackend,
)
from llmasos.errors import DeviceUnavailable, UsageError
from llmasos.pipelines.offers import ambiguous, asked, offers, usable

if TYPE_CHECKING:
    from torch import Tensor

    from llmasos.kernel.hub import KernelHub

#: Names a user may give for a precision, and the element type each stands for.
DTYPES: Mapping[str, DTypeName] = {
    "exact": "float32",
    "fast": "bfloat16",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}

#: The back end that every op is defined by.
REFERENCE = "reference"


def dtype_name(policy: str) -> DTypeName:
    """The element type behind a ``--dtype`` value. Raises UsageError with the choices."""
    try:
        return DTYPES[policy]
    except KeyError:
        raise UsageError(f"unknown dtype {policy!r}", hint=f"choose one of {', '.join(DTYPES)}") from None


class BoundOps:
    """The ops of one model, an attribute each; ``providers`` says where each came from (``--explain``, the record)."""

    def __init__(
        self,
        ops: Mapping[str, OpCallable],
        providers: Mapping[str, str],
        refused: Mapping[str, str],
        packer: PackingBackend | None = None,
    ) -> None:
        self.providers = dict(providers)
        self._packer = packer
        #: full name -> why an op was not used.
        self.refused = dict(refused)
        for name, call in ops.items():
            setattr(self, name, call)

    def pack(self, weight: Tensor, lookup: bool) -> Tensor | PackedWeight:
        """``weight`` as the bound ops read it fastest."""
        return weight if self._packer is None else self._packer.pack(weight, lookup)


def choose_backend(hub: KernelHub, device: str, dtype: DTypeName) -> tuple[str, str]:
    """(full name of the back end, device it will use) for a request. ``auto`` takes the best device of the best back end.

    Raises DeviceUnavailable naming what is there.
    """
    served: list[tuple[int, str, str]] = []
    present: set[str] = set()
    for name, definition in offers(hub, "backend", BackendDef):
        for candidate, dtypes in _devices(hub, name):
            present.add(candidate)
            wanted = device == "auto" or candidate == device or candidate == device.split(":")[0]
            if wanted and dtype in dtypes:
                served.append((-definition.priority, name, candidate if device == "auto" else device))
                break
    if not served:
        raise DeviceUnavailable(
            f"no enabled back end serves device {device!r} with {dtype}",
            hint=f"devices here: {', '.join(sorted(present)) or 'none'}; on a CPU use --dtype exact or fast",
        )
    served.sort()
    names = tuple(name for _, name, _ in served)
    chosen = hub.select_backend(BackendRequest(device, dtype), names)
    if chosen not in names:
        raise UsageError(
            f"select_backend answered {chosen!r}, which is not a candidate",
            hint=f"candidates: {', '.join(names)}",
        )
    return chosen, next(where for _, name, where in served if name == chosen)


def bind_ops(hub: KernelHub, backend: str, device: str, dtype: DTypeName) -> BoundOps:
    """Bind every op once: the chosen back end's where it has one that passes its check, the reference's otherwise."""
    offered: dict[tuple[str, str], tuple[KernelOp, str]] = {}
    for name, definition in offers(hub, "kernel_op", KernelOp):
        taken = offered.setdefault((definition.backend, definition.op), (definition, name))
        if taken[1] != name:
            raise ambiguous(f"the op {definition.op} of back end {definition.backend}", [taken[1], name])
    made = _prepared(hub, backend, device, dtype)
    ops: dict[str, OpCallable] = {}
    providers: dict[str, str] = {}
    refused: dict[str, str] = {}
    bare = backend.rsplit("/", 1)[-1]
    for op in OP_NAMES:
        chosen = REFERENCE
        own = offered.get((bare, op))
        if bare != REFERENCE and own is not None:
            definition, full_name = own
            reason = _refusal(hub, definition, full_name, offered.get((REFERENCE, op)), device, dtype)
            if reason is None:
                chosen = bare
            else:
                refused[full_name] = reason
        entry = offered.get((chosen, op))
        if entry is None:
            raise DeviceUnavailable(
                f"no enabled plugin provides the op {op!r}",
                hint="enable llmasos-transformer, see `llmasos doctor`",
            )
        ops[op] = cast(OpCallable, hub.get("kernel_op", entry[1]))
        providers[op] = entry[1]
    packer = made if isinstance(made, PackingBackend) else None
    if packer is not None:
        reason = _packing_refusal(hub, packer, offered, providers, device, dtype)
        if reason is not None:
            packer = None
            refused[f"{backend}.pack"] = reason
    return BoundOps(ops, providers, refused, packer)


def _prepared(hub: KernelHub, backend: str, device: str, dtype: DTypeName) -> Backend | None:
    """The back end, ready to be used; None with one warning when it fails."""
    factory = usable(hub, "backend", backend)
    if factory is None:
        return None

    def prepare() -> Backend:
        made = cast(Backend, factory())
        if isinstance(made, PreparingBackend):
            made.prepare(device, dtype, hub.cache_dir / "backends" / backend.replace("/", "-"))
        return made

    return asked(hub, "backend", backend, prepare)


def _packing_refusal(
    hub: KernelHub,
    packer: PackingBackend,
    offered: Mapping[tuple[str, str], tuple[KernelOp, str]],
    providers: Mapping[str, str],
    device: str,
    dtype: DTypeName,
) -> str | None:
    """Why weights stay as they are, or None: an op that cannot read packed ones, or reads them wrongly."""
    from llmasos.pipelines.opcheck import largest_difference, packed

    for op in WEIGHT_OPS:
        reference = offered[REFERENCE, op][1]
        definition = next((d for d, name in offered.values() if name == providers[op]), None)
        if definition is None or providers[op] == reference:
            return f"{op} is not its own"
        call = packed(op, cast(OpCallable, hub.get("kernel_op", providers[op])), packer.pack)
        difference = largest_difference(op, call, hub.get("kernel_op", reference), device=device, dtype=dtype)
        if difference > definition.tolerance:
            return f"{op} on packed weights differs from the reference by {difference:.3g} (allowed {definition.tolerance:.3g})"
    return None


def _refusal(
    hub: KernelHub,
    definition: KernelOp,
    full_name: str,
    reference: tuple[KernelOp, str] | None,
    device: str,
    dtype: DTypeName,
) -> str | None:
    """Why an op is not used, or None: device, dtype, or the largest difference from the reference."""
    from llmasos.pipelines.opcheck import largest_difference

    if device.split(":")[0] not in definition.devices:
        return f"does not run on {device}"
    if dtype not in definition.dtypes:
        return f"does not compute in {dtype}"
    if reference is None:
        return "there is no reference to check it against"
    difference = largest_difference(
        definition.op,
        hub.get("kernel_op", full_name),
        hub.get("kernel_op", reference[1]),
        device=device,
        dtype=dtype,
    )
    if difference > definition.tolerance:
        return f"differs from the reference by {difference:.3g} (allowed {definition.tolerance:.3g})"
    return None


def _devices(hub: KernelHub, name: str) -> Sequence[tuple[str, Sequence[str]]]:
    """Devices of a back end, with the element types each computes in."""
    factory = usable(hub, "backend", name)
    if factory is None:
        return ()

    def ask() -> list[tuple[str, Sequence[str]]]:
        backend = cast(Backend, factory())
        return [(device, backend.dtypes(device)) for device in backend.devices()]

    return asked(hub, "backend", name, ask) or ()
