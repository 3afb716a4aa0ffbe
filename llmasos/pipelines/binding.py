"""Which back end a model runs on, and the ops bound to it: chosen once, checked against the reference, explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llmasos.contracts.model import QUANTISED, DTypeName
from llmasos.contracts.runtime import (
    OP_NAMES,
    WEIGHT_OPS,
    Backend,
    BackendDef,
    BackendRequest,
    DescribedBackend,
    KernelOp,
    OpCallable,
    OpName,
    PackingBackend,
    PreparingBackend,
)
from llmasos.contracts.stack import StackBackend
from llmasos.errors import DeviceUnavailable, EnvironmentProblem, LlmasosError, PluginError, UsageError
from llmasos.pipelines.bound import BoundOps
from llmasos.pipelines.offers import Answer, ambiguous, asked, offers, usable

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
    "int8": "int8",
    "int4": "int4",
}

#: The back end that every op is defined by.
REFERENCE = "reference"


def dtype_name(policy: str) -> DTypeName:
    """The element type behind a ``--dtype`` value. Raises UsageError with the choices."""
    try:
        return DTYPES[policy]
    except KeyError:
        raise UsageError(f"unknown dtype {policy!r}", hint=f"choose one of {', '.join(DTYPES)}") from None


@dataclass(frozen=True, slots=True)
class OpVerdict:
    """What is known of one op of a back end on one device in one element type.

    ``difference`` is None where nothing was compared. ``reason`` says why the op is not used, None when it is;
    ``declared`` tells a limit that the plugin states itself from a failure.
    """

    op: OpName
    provider: str
    packed: bool
    allowed: float
    difference: float | None = None
    reason: str | None = None
    declared: bool = False


@dataclass(frozen=True, slots=True)
class PresentBackend:
    """A back end of an enabled plugin, and what it can drive here: devices with the element types, best first."""

    name: str
    definition: BackendDef
    devices: tuple[tuple[str, tuple[str, ...]], ...]

    def serves(self, device: str, dtype: DTypeName) -> str | None:
        """The device it would use for a request; ``auto`` is its best. None when it does not serve it."""
        for here, dtypes in self.devices:
            if dtype in dtypes and device in ("auto", here):
                return here
            if dtype in dtypes and device.split(":")[0] == here:
                return device
        return None


def present_backends(hub: KernelHub) -> list[PresentBackend]:
    """The back ends of all enabled plugins, the most preferred first. One that fails drives nothing, with one warning."""
    found = [
        PresentBackend(name, definition, _devices(hub, name))
        for name, definition in offers(hub, "backend", BackendDef)
    ]
    return sorted(found, key=lambda backend: (-backend.definition.priority, backend.name))


def choose_backend(
    hub: KernelHub, device: str, dtype: DTypeName, present: Sequence[PresentBackend] | None = None
) -> tuple[str, str]:
    """(full name of the back end, device it will use) for a request. ``auto`` takes the best device of the best back end.

    Raises DeviceUnavailable naming what is there.
    """
    present = present_backends(hub) if present is None else present
    served = {
        backend.name: where for backend in present if (where := backend.serves(device, dtype)) is not None
    }
    if not served:
        raise not_served("no enabled back end serves", device, dtype, present)
    names = tuple(served)
    chosen = hub.select_backend(BackendRequest(device, dtype), names)
    if chosen not in names:
        raise UsageError(
            f"select_backend answered {chosen!r}, which is not a candidate",
            hint=f"candidates: {', '.join(names)}",
        )
    return chosen, served[chosen]


def not_served(
    what: str, device: str, dtype: DTypeName, present: Sequence[PresentBackend]
) -> DeviceUnavailable:
    """The error that names what is there instead."""
    here = sorted({name for backend in present for name, _ in backend.devices})
    advice = "on a CPU use --dtype exact or fast"
    if device.partition(":")[0] not in ("auto", *here):
        advice = "`llmasos doctor` says why one is missing"
    return DeviceUnavailable(
        f"{what} device {device!r} with {dtype}",
        hint=f"devices here: {', '.join(here) or 'none'}; {advice}",
    )


#: (bare name of a back end, op) -> descriptor and full name.
Offered = Mapping[tuple[str, str], tuple[KernelOp, str]]


def offered_ops(hub: KernelHub) -> Offered:
    """The ops of all enabled plugins. Raises AmbiguousName when two are the same op of the same back end."""
    offered: dict[tuple[str, str], tuple[KernelOp, str]] = {}
    for name, definition in offers(hub, "kernel_op", KernelOp):
        taken = offered.setdefault((definition.backend, definition.op), (definition, name))
        if taken[1] != name:
            raise ambiguous(f"the op {definition.op} of back end {definition.backend}", [taken[1], name])
    return offered


def bind_ops(hub: KernelHub, backend: str, device: str, dtype: DTypeName) -> BoundOps:
    """Bind every op once: the chosen back end's where it has one that passes its check, the reference's otherwise."""
    offered = offered_ops(hub)
    made = prepared_backend(hub, backend, device, dtype)
    facts = _facts(hub, backend, made)
    with _one_thread():
        return _checked(hub, backend, made, facts, offered, device, dtype)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Checks are of small tensors: threads would mostly wait for each other, on a busy machine for seconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checked(
    hub: KernelHub,
    backend: str,
    made: Backend | None,
    facts: Mapping[str, str],
    offered: Offered,
    device: str,
    dtype: DTypeName,
) -> BoundOps:
    ops: dict[str, OpCallable] = {}
    providers: dict[str, str] = {}
    refused: dict[str, str] = {}
    bare = backend.rsplit("/", 1)[-1]
    for op in OP_NAMES:
        chosen = REFERENCE
        if bare != REFERENCE and (bare, op) in offered:
            verdict = judge(hub, offered, bare, op, device, dtype)
            if verdict.reason is None:
                chosen = bare
            else:
                refused[verdict.provider] = verdict.reason
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
        reason = _packing_refusal(hub, packer, offered, bare, providers, device, dtype)
        if reason is not None:
            packer = None
            refused[f"{backend}.pack"] = reason
    if dtype in QUANTISED and packer is None:
        raise DeviceUnavailable(
            f"{backend} cannot keep weights as {dtype}: {refused.get(f'{backend}.pack', 'it does not pack them')}",
            hint="use --dtype exact or fast",
        )
    bound = BoundOps(
        ops,
        providers,
        refused,
        packer,
        backend=backend,
        facts=facts,
        warn=hub.warn,
        quantised=dtype in QUANTISED,
    )
    if isinstance(made, StackBackend):
        _judge_stacks(hub, made, bound, offered, device, dtype)
    return bound


#: Largest difference in float32 between a stack of two layers and the reference ops, on values of unit scale; and what
#: rounding of the result may add, in spacings of the element type.
_STACK_TOLERANCE, _STACK_SPACINGS = 1e-4, 16
#: The same for quantised weights, whose kernels may round activations to 16 bits or so. Weights themselves are equal.
_QUANTISED_TOLERANCE = 2e-3


def _judge_stacks(
    hub: KernelHub, stacker: StackBackend, bound: BoundOps, offered: Offered, device: str, dtype: DTypeName
) -> None:
    """Let the back end compute whole stacks, or say why not. One that declines all small stacks is not asked again."""
    import torch

    from llmasos.pipelines.stackcheck import stack_difference

    reference: dict[str, OpCallable] = {
        op: hub.get("kernel_op", offered[REFERENCE, op][1]) for op in OP_NAMES
    }
    allowed = _STACK_TOLERANCE
    if dtype in QUANTISED:
        allowed = _QUANTISED_TOLERANCE
    elif dtype != "float32":
        allowed = _STACK_SPACINGS * torch.finfo(getattr(torch, dtype)).eps
    difference = stack_difference(stacker.stack, bound.pack, reference, device=device, dtype=dtype)
    if difference is None:
        return
    if difference > allowed:
        bound.refuse_stacks(f"differs from the reference by {difference:.3g} (allowed {allowed:.3g})")
    else:
        bound.compute_stacks(stacker)


def prepared_backend(hub: KernelHub, backend: str, device: str, dtype: DTypeName) -> Backend | None:
    """The back end, ready to be used; None with one warning when it fails."""
    factory = usable(hub, "backend", backend)
    if factory is None:
        return None

    def prepare() -> Backend:
        made = cast(Backend, factory())
        if isinstance(made, PreparingBackend):
            made.prepare(device, dtype, hub.cache_dir / "backends" / backend.replace("/", "-"))
        return made

    return _answer(hub, backend, prepare)


def _facts(hub: KernelHub, backend: str, made: Backend | None) -> Mapping[str, str]:
    """What a back end says of itself, as text; nothing, with one warning, when it fails at that."""
    if not isinstance(made, DescribedBackend):
        return {}
    described = made
    found = _answer(
        hub, backend, lambda: {str(name): str(value) for name, value in described.facts().items()}
    )
    return found or {}


def judge(
    hub: KernelHub,
    offered: Offered,
    bare: str,
    op: OpName,
    device: str,
    dtype: DTypeName,
    *,
    pack: Callable[[Tensor, bool], Any] | None = None,
    thorough: bool = False,
) -> OpVerdict:
    """Whether the op of a back end may be used: it can be loaded, serves device and dtype, and agrees with the reference.

    With ``pack`` it is given weights as that returns them.
    """
    from llmasos.pipelines.opcheck import compare, packed, unpacked

    definition, provider = offered[bare, op]
    reference = offered.get((REFERENCE, op))
    allowed = definition.tolerance

    def verdict(reason: str | None, difference: float | None = None, *, declared: bool = False) -> OpVerdict:
        return OpVerdict(op, provider, pack is not None, allowed, difference, reason, declared=declared)

    if device.split(":")[0] not in definition.devices:
        return verdict(f"does not run on {device}", declared=True)
    if dtype not in definition.dtypes:
        return verdict(f"does not compute in {dtype}", declared=True)
    if reference is None:
        return verdict("there is no reference to check it against")
    yardstick = cast(OpCallable, hub.get("kernel_op", reference[1]))
    try:
        call = cast(OpCallable, hub.get("kernel_op", provider))
    except (PluginError, EnvironmentProblem) as error:
        return verdict(error.message)
    if pack is not None:
        call = packed(op, call, pack)
        if dtype in QUANTISED:
            yardstick, allowed = unpacked(op, yardstick, pack), max(allowed, _QUANTISED_TOLERANCE)
    difference, problem = compare(op, call, yardstick, device=device, dtype=dtype, thorough=thorough)
    where = "on packed weights " if pack is not None else ""
    if problem is not None:
        return verdict(f"{where}{problem}", difference)
    if difference > allowed:
        return verdict(
            f"{where}differs from the reference by {difference:.3g} (allowed {allowed:.3g})",
            difference,
        )
    return verdict(None, difference)


def _packing_refusal(
    hub: KernelHub,
    packer: PackingBackend,
    offered: Offered,
    bare: str,
    providers: Mapping[str, str],
    device: str,
    dtype: DTypeName,
) -> str | None:
    """Why weights stay as they are, or None: an op that cannot read packed ones, or reads them wrongly."""
    for op in WEIGHT_OPS:
        if bare == REFERENCE or (bare, op) not in offered or providers[op] != offered[bare, op][1]:
            return f"{op} is not its own"
        verdict = judge(hub, offered, bare, op, device, dtype, pack=packer.pack)
        if verdict.reason is not None:
            return f"{op} {verdict.reason}"
    return None


def _devices(hub: KernelHub, name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Devices of a back end, with the element types each computes in; none, with one warning, when it fails."""
    factory = usable(hub, "backend", name)
    if factory is None:
        return ()

    def ask() -> tuple[tuple[str, tuple[str, ...]], ...]:
        backend = cast(Backend, factory())
        return tuple((device, tuple(backend.dtypes(device))) for device in backend.devices())

    return _answer(hub, name, ask) or ()


def _answer(hub: KernelHub, backend: str, question: Callable[[], Answer]) -> Answer | None:
    """What a back end answers, or None with one warning. Whatever it raises is about itself: it is not given the user's files."""
    try:
        return asked(hub, "backend", backend, question)
    except LlmasosError as error:
        hub.warn(f"backend {backend} was left out: {error.message}")
        return None
