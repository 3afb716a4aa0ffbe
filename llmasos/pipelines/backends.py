"""What back ends there are, what would be bound to a model, and whether their ops are right: ``llmasos backend``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmasos.contracts.model import DTypeName
from llmasos.contracts.runtime import OP_NAMES, WEIGHT_OPS, PackingBackend
from llmasos.errors import DeviceUnavailable, UnknownName
from llmasos.pipelines.binding import (
    REFERENCE,
    OpVerdict,
    PresentBackend,
    bind_ops,
    choose_backend,
    dtype_name,
    judge,
    not_served,
    offered_ops,
    prepared_backend,
    present_backends,
)

if TYPE_CHECKING:
    from llmasos.contracts.evaluation import Progress
    from llmasos.kernel.hub import KernelHub

#: The precisions that ``auto`` is answered for.
POLICIES = ("exact", "fast")


def list_backends(hub: KernelHub) -> dict[str, Any]:
    """Every back end of the enabled plugins, the most preferred first, and which one ``--device auto`` takes."""
    present = present_backends(hub)
    auto: dict[str, dict[str, str] | None] = {}
    for policy in POLICIES:
        try:
            backend, device = choose_backend(hub, "auto", dtype_name(policy), present)
        except DeviceUnavailable:
            auto[policy] = None
        else:
            auto[policy] = {"backend": backend, "device": device}
    return {"backends": [_row(hub, backend) for backend in present], "auto": auto}


def _row(hub: KernelHub, backend: PresentBackend) -> dict[str, Any]:
    provided = next(p for p in hub.names("backend") if p.full_name == backend.name)
    return {
        "name": backend.name,
        "version": provided.plugin.version,
        "priority": backend.definition.priority,
        "devices": [{"device": device, "dtypes": list(dtypes)} for device, dtypes in backend.devices],
        "summary": provided.summary,
    }


def placed(
    hub: KernelHub,
    name: str | None,
    device: str,
    dtype: str,
    present: Sequence[PresentBackend] | None = None,
) -> tuple[str, str, DTypeName]:
    """(full name, device, element type) of the back end called ``name``, or of the one that a model would get.

    Raises UnknownName and AmbiguousName for the name, DeviceUnavailable when it does not serve the request, UsageError for
    the precision, and what loading it raises: what is named fails hard.
    """
    precision = dtype_name(dtype)
    if name is None:
        return *choose_backend(hub, device, precision, present), precision
    full = hub.catalog.find("backend", name).full_name
    hub.get("backend", full)
    named = [backend for backend in present or present_backends(hub) if backend.name == full]
    where = named[0].serves(device, precision) if named else None
    if where is None:
        raise not_served(f"the back end {full} does not serve", device, precision, named)
    return full, where, precision


def describe_backend(hub: KernelHub, name: str | None, device: str, dtype: str) -> dict[str, Any]:
    """What a model would be bound to: each op with its provider and what was refused, and what the back end says of itself.

    Raises what ``placed`` raises.
    """
    present = present_backends(hub)
    full, where, precision = placed(hub, name, device, dtype, present)
    bound = bind_ops(hub, full, where, precision)
    bare = full.rpartition("/")[2]
    offered = offered_ops(hub)
    ops = []
    for op in OP_NAMES:
        own = offered[bare, op][1] if (bare, op) in offered else None
        reason = bound.refused.get(own) if own is not None else None
        refused = None if reason is None else {"provider": own, "reason": reason}
        ops.append({"op": op, "provider": bound.providers[op], "refused": refused})
    return {
        **next(_row(hub, backend) for backend in present if backend.name == full),
        "device": where,
        "dtype": precision,
        "facts": bound.facts,
        "packs": bound.packs,
        "pack_refused": bound.refused.get(f"{full}.pack"),
        "ops": ops,
        "candidates": [
            {"name": backend.name, "verdict": _verdict(backend, full, device, precision)}
            for backend in present
        ],
    }


def _verdict(backend: PresentBackend, chosen: str, device: str, dtype: DTypeName) -> str:
    """Why a back end was or was not taken for a request."""
    if backend.name == chosen:
        return "taken"
    if backend.serves(device, dtype) is not None:
        return f"serves it with priority {backend.definition.priority}"
    if not backend.devices:
        return "drives no device here"
    drives = ", ".join(f"{here} ({', '.join(dtypes)})" for here, dtypes in backend.devices)
    return f"does not serve it; drives {drives}"


def check_backend(
    hub: KernelHub,
    name: str | None,
    device: str,
    dtype: str,
    *,
    thorough: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The self-check of every op of a back end, on plain weights and on those it packed.

    ``passed`` is False when an op failed; limits that the plugin declares are none. Raises what ``placed`` raises.
    """
    full, where, precision = placed(hub, name, device, dtype)
    offered = offered_ops(hub)
    made = prepared_backend(hub, full, where, precision)
    bare = full.rpartition("/")[2]
    packer = made if isinstance(made, PackingBackend) and bare != REFERENCE else None
    own = [op for op in OP_NAMES if (bare, op) in offered]
    if not own:
        raise UnknownName(f"the back end {full} has no ops", hint="`llmasos plugin check` tries its plugin")
    tasks = [
        (op, packed) for op in own for packed in ((False, True) if packer and op in WEIGHT_OPS else (False,))
    ]
    if progress is not None:
        progress.phase(f"checking {full}", len(tasks))
    verdicts: list[OpVerdict] = []
    for op, packed in tasks:
        pack = packer.pack if packer is not None and packed else None
        verdicts.append(judge(hub, offered, bare, op, where, precision, pack=pack, thorough=thorough))
        if progress is not None:
            progress.advance()
    return {
        "name": full,
        "device": where,
        "dtype": precision,
        "thorough": thorough,
        "passed": made is not None and all(v.reason is None or v.declared for v in verdicts),
        "checks": [asdict(verdict) for verdict in verdicts],
        "missing": [op for op in OP_NAMES if op not in own],
    }
