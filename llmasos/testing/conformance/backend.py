"""Checks of the ``Backend`` contract and of each op of a back end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmasos.contracts.model import DTypeName
from llmasos.contracts.runtime import (
    Backend,
    DescribedBackend,
    OpCallable,
    OpName,
    PackedWeight,
    PreparingBackend,
)
from llmasos.errors import LlmasosError
from llmasos.pipelines.opcheck import WEIGHT_PLACE, largest_difference, packed, sample_inputs, tensors
from llmasos.testing.conformance.check import Observation, broken, check, does_not_apply, kept
from llmasos.testing.conformance.oracle import oracle

if TYPE_CHECKING:
    from torch import Tensor

DTYPES: tuple[DTypeName, ...] = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class OpSubject:
    """One op of a back end on one device in one element type.

    ``tolerance`` is what its KernelOp declares, for float32; in narrower types rounding of the result is allowed on top.
    With ``pack``, that of a ``PackingBackend``, every check gives the op weights that were packed; then the checks of
    ``PACKED_CHECKS`` apply, too.
    """

    op: OpName
    call: OpCallable
    reference: OpCallable
    device: str = "cpu"
    dtype: DTypeName = "float32"
    tolerance: float = 1e-5
    pack: Callable[[Tensor, bool], Any] | None = None

    @property
    def tried(self) -> OpCallable:
        """The op as it is checked: on packed weights where there is a ``pack``."""
        return self.call if self.pack is None else packed(self.op, self.call, self.pack)

    def allowed(self, expected: Tensor) -> Tensor:
        """Largest difference allowed at each element of ``expected``."""
        import torch

        # Two roundings: one of an operand inside the op (norms scale after rounding), one of the result.
        rounding = 0.0 if self.dtype == "float32" else 2 * torch.finfo(getattr(torch, self.dtype)).eps
        return self.tolerance + rounding * (1 + expected.abs())


def _inputs(subject: OpSubject) -> Iterator[tuple[Any, ...]]:
    for strided in (False, True):
        yield from sample_inputs(subject.op, device=subject.device, dtype=subject.dtype, strided=strided)


def _shape(arguments: tuple[Any, ...]) -> str:
    import torch

    shown = [
        f"{list(a.shape)}{'' if a.is_contiguous() else ' strided'}"
        if isinstance(a, torch.Tensor)
        else repr(a)
        for a in arguments
    ]
    return ", ".join(shown)


def _worst(subject: OpSubject, yardstick: Callable[..., Any], name: str) -> Observation:
    """Compare on every sample input with a definition; the arg-max of token_logprobs is compared by its score."""
    worst, count = 0.0, 0
    for arguments in _inputs(subject):
        expected, actual = tensors(yardstick(*arguments)), tensors(subject.tried(*arguments))
        if [tuple(t.shape) for t in actual] != [tuple(t.shape) for t in expected]:
            return broken(f"{subject.op}({_shape(arguments)}) gave shapes {[tuple(t.shape) for t in actual]}")
        if subject.op == "token_logprobs":
            x, weight, bias, _, *rows = arguments
            scores = oracle("linear")(x[rows[0].to(x.device)] if rows else x, weight, bias)
            best = scores.gather(1, actual[1][:, None]).squeeze(1) if len(scores) else scores.new_zeros(0)
            actual, expected = [actual[0], best], [expected[0], scores.amax(-1) if len(scores) else best]
        for left, right in zip(actual, expected, strict=True):
            if left.numel() == 0:
                continue
            gap = (left.double() - right.double()).abs()
            over = gap - subject.allowed(right.double())
            if not bool((over <= 0).all()):  # written so that NaN is over
                return broken(
                    f"{subject.op}({_shape(arguments)}) differs from {name} by {float(gap.max()):.3g} "
                    f"(allowed {float(subject.allowed(right.double()).min()):.3g})"
                )
            worst = max(worst, float(gap.max()))
            count += left.numel()
    return kept(f"{count} values within {worst:.2g} of {name}")


@check(
    "op.reference",
    rule="the op gives what the reference gives: empty, odd, longer and strided inputs, every head layout and kind",
    fix="compute statistics and sums in float32; handle empty input and views with gaps; else narrow dtypes or devices",
)
def equals_reference(subject: OpSubject) -> Observation:
    return _worst(subject, subject.reference, "the reference")


@check(
    "op.definition",
    rule="the op gives what its definition gives in float64",
    fix="if the reference differs too, the reference is wrong: report it",
)
def equals_definition(subject: OpSubject) -> Observation:
    return _worst(subject, oracle(subject.op), "the definition in float64")


@check(
    "op.accepted",
    rule="the kernel's own self-check accepts the op for float32 models",
    fix="the number is the largest difference from the reference; raise KernelOp.tolerance only with a reason",
)
def accepted(subject: OpSubject) -> Observation:
    found = largest_difference(
        subject.op, subject.tried, subject.reference, device=subject.device, dtype="float32"
    )
    if not found <= subject.tolerance:
        return broken(f"largest difference {found:.3g}, allowed {subject.tolerance:.3g}")
    return kept(f"largest difference {found:.2g}")


@check(
    "op.result_type",
    rule="results have the element type of the input; token_logprobs gives float32 and int64",
    fix="convert back at the end; keep log-probabilities in float32",
)
def result_type(subject: OpSubject) -> Observation:
    import torch

    wanted = [getattr(torch, subject.dtype)]
    if subject.op == "token_logprobs":
        wanted = [torch.float32, torch.int64]
    for arguments in _inputs(subject):
        actual = [t.dtype for t in tensors(subject.tried(*arguments))]
        if actual != wanted:
            return broken(f"{subject.op}({_shape(arguments)}) gave {actual}, not {wanted}")
    return kept(", ".join(str(kind) for kind in wanted))


@check(
    "op.inputs_unchanged",
    rule="an op writes to nothing it was given",
    fix="clone before writing, or write to a new tensor",
)
def inputs_unchanged(subject: OpSubject) -> Observation:
    import torch

    count = 0
    for arguments in _inputs(subject):
        before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        subject.tried(*arguments)
        for place, (now, then) in enumerate(zip(arguments, before, strict=True)):
            if isinstance(now, torch.Tensor) and not torch.equal(now, then):
                return broken(f"{subject.op}({_shape(arguments)}) changed argument {place}")
        count += 1
    return kept(f"{count} calls")


@check(
    "op.deterministic",
    rule="the same input gives the same bits",
    fix="use a fixed order of summation; no atomics on floating point",
)
def deterministic(subject: OpSubject) -> Observation:
    import torch

    count = 0
    for arguments in _inputs(subject):
        first, second = tensors(subject.tried(*arguments)), tensors(subject.tried(*arguments))
        if not all(torch.equal(left, right) for left, right in zip(first, second, strict=True)):
            return broken(f"{subject.op}({_shape(arguments)}) gave other bits the second time")
        count += 1
    return kept(f"{count} calls, twice each")


#: Checks of one op.
OP_CHECKS = (equals_reference, equals_definition, accepted, result_type, inputs_unchanged, deterministic)


def _weights(subject: OpSubject) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Sample arguments, and which of them is the matrix of weights."""
    for arguments in _inputs(subject):
        yield arguments, arguments[WEIGHT_PLACE[subject.op]]


@check(
    "pack.result",
    rule="pack() gives a tensor with the same numbers, or a PackedWeight that knows its shape and its bytes; the weight stays",
    fix="outputs and inputs are those of the matrix [O, I]; nbytes is what it holds in memory; copy before changing",
)
def pack_result(subject: OpSubject) -> Observation:
    import torch

    if subject.pack is None:
        return does_not_apply("weights are not packed")
    count = 0
    for _, weight in _weights(subject):
        before = weight.clone()
        for lookup in (False, True):
            found = subject.pack(weight, lookup)
            what = f"pack({list(weight.shape)}, lookup={lookup})"
            if not torch.equal(weight, before):
                return broken(f"{what} changed the weight it was given")
            if isinstance(found, torch.Tensor):
                if not torch.equal(found, weight):
                    return broken(f"{what} gave a tensor with other numbers")
            elif not isinstance(found, PackedWeight):
                return broken(f"{what} gave a {type(found).__name__} without outputs, inputs and nbytes")
            elif (found.outputs, found.inputs) != tuple(weight.shape):
                return broken(f"{what} says it is [{found.outputs}, {found.inputs}]")
            elif found.nbytes < 1:
                return broken(f"{what} says it holds {found.nbytes} bytes")
            count += 1
    return kept(f"{count} matrices")


@check(
    "pack.apart",
    rule="what was packed keeps its numbers when other matrices are packed and read",
    fix="give every packed weight memory of its own; a model holds hundreds of them",
)
def pack_apart(subject: OpSubject) -> Observation:
    import torch

    if subject.pack is None:
        return does_not_apply("weights are not packed")
    place, lookup = WEIGHT_PLACE[subject.op], subject.op == "embedding"
    samples = list(_weights(subject))
    alone = [tensors(subject.tried(*arguments)) for arguments, _ in samples]
    together = [subject.pack(weight, lookup) for _, weight in samples]
    for (arguments, _), weight, expected in zip(samples, together, alone, strict=True):
        actual = tensors(subject.call(*arguments[:place], weight, *arguments[place + 1 :]))
        if not all(torch.equal(left, right) for left, right in zip(actual, expected, strict=True)):
            return broken(
                f"{subject.op}({_shape(arguments)}) gave other numbers once other matrices were packed"
            )
    return kept(f"{len(samples)} matrices at a time")


#: Checks of one op of a back end that packs, beside ``OP_CHECKS``; both want ``OpSubject.pack``.
PACKED_CHECKS = (pack_result, pack_apart)


@check(
    "backend.devices",
    rule="devices() names the devices present, the same each time; each computes in at least one known type; others in none",
    fix="probe without side effects; dtypes() of a device that is not there is empty, or DeviceUnavailable",
)
def devices(backend: Backend) -> Observation:
    present = backend.devices()
    if not isinstance(present, tuple) or not all(isinstance(name, str) and name for name in present):
        return broken(f"devices() gave {present!r}, not a tuple of names")
    if present != backend.devices():
        return broken("devices() gave two different answers")
    for device in present:
        types = backend.dtypes(device)
        if not types or not set(types) <= set(DTYPES):
            return broken(f"dtypes({device!r}) gave {types!r}; known: {', '.join(DTYPES)}")
    try:
        nowhere = backend.dtypes("no-such-device")
    except LlmasosError:
        nowhere = ()
    if nowhere:
        return broken(f"dtypes('no-such-device') gave {nowhere!r}")
    return kept(f"present: {', '.join(present) or 'none'}")


@check(
    "backend.facts",
    rule="facts(), where there is one, gives names and lines of text once the back end is prepared",
    fix="return a mapping of short names to single lines; say what is absent instead of raising",
)
def facts(backend: Backend) -> Observation:
    import tempfile
    from collections.abc import Mapping
    from pathlib import Path

    if not isinstance(backend, DescribedBackend):
        return does_not_apply("it does not describe itself")
    with tempfile.TemporaryDirectory(prefix="llmasos-conformance-") as folder:
        device = next(iter(backend.devices()), None)
        if device is not None and isinstance(backend, PreparingBackend):
            backend.prepare(device, backend.dtypes(device)[0], Path(folder, "backend"))
        found: object = backend.facts()
    if not isinstance(found, Mapping):
        return broken(f"facts() gave a {type(found).__name__}, not a mapping")
    for name, text in found.items():
        if not (isinstance(name, str) and isinstance(text, str) and name and len(text.splitlines()) <= 1):
            return broken(f"facts() gave {name!r}: {text!r}, not a name and a line of text")
    return kept(f"{len(found)} facts: {', '.join(found)}")


#: Checks of a back end as a whole.
CHECKS = (devices, facts)
