"""The checks of back ends that lay out weights, and that describe themselves, tell right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmasos.contracts.runtime import WEIGHT_OPS
from llmasos.testing.conformance import backend
from llmasos.testing.conformance.collect import _ops
from llmasos.testing.tmp import manifest, write_plugin


@dataclass
class Turned:
    """A matrix [O, I] kept as [I, O]."""

    columns: Tensor
    outputs: int
    inputs: int

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes


def turn(weight: Tensor, lookup: bool) -> Turned:
    return Turned(weight.T.contiguous(), weight.shape[0], weight.shape[1])


def plain(weight: Any) -> Tensor:
    return weight.columns.T if isinstance(weight, Turned) else weight


def embedding(ids: Tensor, weight: Any) -> Tensor:
    return plain(weight)[ids]


def linear(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, plain(weight), bias)


def token_logprobs(
    x: Tensor, weight: Any, bias: Tensor | None, targets: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    logits = linear(x, weight, bias).float()
    logits = logits if rows is None else logits[rows]
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1), logits.argmax(-1)


OPS: dict[Any, Callable[..., Any]] = {
    "embedding": embedding,
    "linear": linear,
    "token_logprobs": token_logprobs,
}
ALL = (*backend.OP_CHECKS, *backend.PACKED_CHECKS)


def breaks(checks: Any, subject: Any) -> set[str]:
    findings = [check.run(subject) for check in checks]
    return {finding.check for finding in findings if finding.outcome == "broken"}


def subject(
    op: Any, pack: Any, call: Callable[..., Any] | None = None, dtype: Any = "float32"
) -> backend.OpSubject:
    return backend.OpSubject(op, call or OPS[op], OPS[op], dtype=dtype, pack=pack)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", WEIGHT_OPS)
def test_a_right_layout_passes(op: Any, dtype: Any) -> None:
    assert breaks(ALL, subject(op, turn, dtype=dtype)) == set()
    # A back end may decide not to lay out a matrix.
    assert breaks(ALL, subject(op, lambda weight, lookup: weight, dtype=dtype)) == set()


def wrong_number(weight: Tensor, lookup: bool) -> Turned:
    found = turn(weight, lookup)
    found.columns[-1, -1] += 1
    return found


def reads_past_gaps(weight: Tensor, lookup: bool) -> Turned:
    """Reads memory as if rows followed each other."""
    rows = torch.as_strided(weight, weight.shape, (weight.shape[1], 1))
    return turn(rows, lookup)


def swapped(weight: Tensor, lookup: bool) -> Turned:
    return Turned(weight.T.contiguous(), weight.shape[1], weight.shape[0])


def nothing_held(weight: Tensor, lookup: bool) -> Turned:
    class Weightless(Turned):
        nbytes = 0

    return Weightless(weight.T.contiguous(), *weight.shape)


def in_place(weight: Tensor, lookup: bool) -> Turned:
    return turn(weight.mul_(0.5), lookup)


def bare(weight: Tensor, lookup: bool) -> Any:
    return [weight]


def other_tensor(weight: Tensor, lookup: bool) -> Tensor:
    return weight * 2


class Shared:
    """One piece of memory for all matrices."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def __call__(self, weight: Tensor, lookup: bool) -> Turned:
        if self.buffer.numel() < weight.numel():
            self.buffer = weight.new_empty(weight.numel())
        columns = self.buffer[: weight.numel()].view(weight.shape[1], weight.shape[0])
        columns.copy_(weight.T)
        return Turned(columns, weight.shape[0], weight.shape[1])


WRONG: list[tuple[Any, str]] = [
    (wrong_number, "op.reference"),
    (wrong_number, "op.definition"),
    (wrong_number, "op.accepted"),
    (reads_past_gaps, "op.reference"),
    (swapped, "pack.result"),
    (nothing_held, "pack.result"),
    (in_place, "pack.result"),
    (in_place, "op.inputs_unchanged"),
    (bare, "pack.result"),
    (other_tensor, "pack.result"),
    (Shared, "pack.apart"),
]


@pytest.mark.parametrize(
    ("pack", "rule"), WRONG, ids=lambda value: getattr(value, "__name__", str(value).partition(" ")[0])
)
def test_a_wrong_layout_is_found(pack: Any, rule: str) -> None:
    made = pack() if pack is Shared else pack
    assert rule in breaks([check for check in ALL if check.name == rule], subject("linear", made))


def test_only_the_check_for_it_finds_memory_that_is_shared() -> None:
    assert breaks(ALL, subject("linear", Shared())) == {"pack.apart"}


def test_every_packing_check_is_shown_to_fail() -> None:
    assert {check.name for check in backend.PACKED_CHECKS} <= {rule for _, rule in WRONG}
    findings = [check.run(subject("linear", None)) for check in backend.PACKED_CHECKS]
    assert {finding.outcome for finding in findings} == {"does not apply"}


# ---- facts ----


class Described:
    """A back end that says ``answer`` of itself once it is prepared."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.prepared = False

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def dtypes(self, device: str) -> tuple[str, ...]:
        return ("float32",) if device == "cpu" else ()

    def prepare(self, device: str, dtype: str, folder: Path) -> None:
        self.prepared = (device, dtype) == ("cpu", "float32")

    def facts(self) -> Any:
        assert self.prepared
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ({"kernels": "AVX2", "threads": "2"}, True),
        ({}, True),
        ({"threads": 2}, False),
        ({"kernels": "one\ntwo"}, False),
        (["AVX2"], False),
        (OSError("no sensor"), False),
    ],
    ids=["lines", "nothing", "number", "two-lines", "list", "raises"],
)
def test_facts_are_lines_of_text(answer: Any, right: bool) -> None:
    assert breaks(backend.CHECKS, Described(answer)) == (set() if right else {"backend.facts"})


# ---- collected ----


def test_a_plugin_that_packs_is_tried_on_packed_weights(hub: Any, tmp_path: Path) -> None:
    source = (
        "from llmasos.api import BackendDef, KernelOp, hookimpl\n\n"
        "class Chip:\n"
        "    def devices(self): return ('cpu',)\n"
        "    def dtypes(self, device): return ('float32',) if device == 'cpu' else ()\n"
        "    def prepare(self, device, dtype, folder): self.scale = 2.0\n"
        "    def pack(self, weight, lookup): return weight * self.scale\n\n"
        "def linear(x, weight, bias):\n"
        "    out = x @ weight.T\n"
        "    return out if bias is None else out + bias\n\n"
        "def rms_norm(x, weight, eps): return x\n\n"
        "@hookimpl\n"
        "def llmasos_backends():\n"
        "    yield BackendDef(name='chip', factory='acme_chip.plugin:Chip')\n\n"
        "@hookimpl\n"
        "def llmasos_kernel_ops():\n"
        "    for op in ('linear', 'rms_norm'):\n"
        "        yield KernelOp(name='chip.' + op, op=op, backend='chip', factory='acme_chip.plugin:' + op, tolerance=1e-4)\n"
    )
    names = [("backend", "chip"), ("kernel_op", "chip.linear"), ("kernel_op", "chip.rms_norm")]
    provides = [{"kind": kind, "name": name, "summary": "x"} for kind, name in names]
    folder = write_plugin(
        tmp_path / "acme_chip", manifest("acme-chip", provides=provides), {"plugin.py": source}
    )
    one = hub(plugins=[folder])
    found = {about: (checks, build) for about, checks, build in _ops(one, "acme-chip/chip.linear")}
    assert list(found) == [
        "op acme-chip/chip.linear cpu float32",
        "op acme-chip/chip.linear cpu float32 packed",
    ]
    checks, build = found["op acme-chip/chip.linear cpu float32"]
    assert breaks(checks, build()) == set()
    checks, build = found["op acme-chip/chip.linear cpu float32 packed"]
    assert breaks(checks, build()) == {"op.reference", "op.definition", "op.accepted", "pack.result"}
    assert [about for about, _, _ in _ops(one, "acme-chip/chip.rms_norm")] == [
        "op acme-chip/chip.rms_norm cpu float32"
    ]
