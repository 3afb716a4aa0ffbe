"""The ops, stacks and operators of the CUDA back end against the reference and torch's own checks, interpreted on the CPU.

    TRITON_INTERPRET=1 python contract_grid.py [--thorough]

prints, by what was checked, [difference, problem] as JSON; both as ``llmasos backend check`` finds them on a device. A quick run
adds the quick grid of kernels, so that torch and triton are imported once for both.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kernel_grid
import torch
from torch import Tensor

from llmasos.api import OP_NAMES, QUANTISED, WEIGHT_OPS, AttentionLayout, StackPlan
from llmasos.pipelines.opcheck import compare, packed, unpacked
from llmasos.pipelines.stackcheck import reference_stack, sample_passes, sample_plans, stack_difference
from llmasos_cuda import ops
from llmasos_cuda.backend import CudaBackend
from llmasos_cuda.graphs import Graphs
from llmasos_cuda.operators import operators
from llmasos_cuda.stack import CudaStack
from llmasos_transformer import ops as reference


class Repeater:
    """A recorder without a device: what it recorded, it runs again."""

    replays = 0

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        result = work()

        def replay() -> None:
            Repeater.replays += 1
            result.copy_(work())

        return replay, result


def op_results(dtype: str) -> dict[str, Any]:
    """Each op as models call it."""
    found = {}
    backend = CudaBackend()
    with tempfile.TemporaryDirectory() as folder:
        backend.prepare("cpu", dtype, Path(folder))
    for op in OP_NAMES:
        call, yardstick = getattr(ops, op), getattr(reference, op)
        if dtype in QUANTISED:
            if op not in WEIGHT_OPS:
                continue
            call, yardstick = packed(op, call, backend.pack), unpacked(op, yardstick, backend.pack)
        found[f"{op} {dtype}"] = compare(op, call, yardstick, device="cpu", dtype=dtype)  # type: ignore[arg-type]
    return found


def quick_stack() -> float:
    """The stack of a Llama in float32: sequences end to end, a recorded step of decoding twice, part of a tree."""
    calls = {op: getattr(reference, op) for op in OP_NAMES}
    plan = next(sample_plans(device="cpu", dtype="float32"))
    stack = CudaStack(plan, None, Graphs(Repeater(), patience=0))
    passes = list(sample_passes(plan, device="cpu", dtype="float32"))
    worst = 0.0
    for given in (passes[2], passes[3], passes[3], passes[-1]):
        mine = replace(given, keys=copied(given.keys), values=copied(given.values))
        theirs = replace(given, keys=copied(given.keys), values=copied(given.values))
        pairs = [(stack(mine), reference_stack(plan, theirs, calls)), (mine.keys, theirs.keys)]
        for left, right in (*pairs, (mine.values, theirs.values)):
            if left is not None and right is not None:
                worst = max(worst, float((left - right).abs().max()))
    return worst


def copied(slab: Tensor | None) -> Tensor | None:
    return None if slab is None else slab.clone()


def stack_results(dtype: str, *, recorded: bool) -> float | None:
    """Whole stacks of each form; ``recorded``: steps of decoding are replayed."""
    backend = CudaBackend()
    with tempfile.TemporaryDirectory() as folder:
        backend.prepare("cpu", dtype, Path(folder))
    bits = {"int8": 8, "int4": 4}.get(dtype)

    def build(plan: StackPlan) -> CudaStack:
        return CudaStack(plan, bits, Graphs(Repeater(), patience=0) if recorded else None)

    calls = {op: getattr(reference, op) for op in OP_NAMES}
    return stack_difference(build, backend.pack, calls, device="cpu", dtype=dtype)  # type: ignore[arg-type]


def operator_results(thorough: bool) -> dict[str, Any]:
    """torch's own checks of operators: schema, shapes without numbers, derivative; and a compiled call."""
    from torch.library import opcheck

    named = operators()
    utilities: tuple[str, ...] = ("test_schema", "test_autograd_registration", "test_faketensor")
    if thorough:
        utilities += ("test_aot_dispatch_dynamic",)
    torch.manual_seed(4)
    x, weight, targets = torch.randn(5, 8), torch.randn(9, 8), torch.tensor([1, 0, -100, 8, 3])
    rows, ones = torch.arange(5), torch.ones(5)
    q, k = torch.randn(5, 4, 8), torch.randn(90, 2, 8)
    mask = torch.eye(2, dtype=torch.bool)
    layout = AttentionLayout((0, 2, 5), (80, 82), True, before=(((0, 70),), ((0, 70),)), visible=(mask, None))
    plan = ops.plan_of(q, k, layout)
    places = [number for place in plan.places for number in place]
    cases: dict[str, tuple[Any, ...]] = {
        "norm": (x, weight[0], None, 1e-5, False),
        "add_norm": (x, x.clone(), weight[0], weight[1], 1e-5, True),
        "gated": (x, x.clone(), "silu"),
        "rotary": (torch.randn(5, 2, 8), torch.rand(5, 4), torch.rand(5, 4)),
        "rotary_store": (
            torch.randn(5, 4 * 8),
            torch.rand(5, 4),
            torch.rand(5, 4),
            torch.tensor([0, 2, -1, 5, 3]),
            torch.randn(6, 1, 8),
            torch.randn(6, 1, 8),
            2,
        ),
        "attend": (q, k, k, plan.tables, places, plan.mask, True, plan.part_rows, plan.rows, plan.few, 0.3),
        "head_sums": (x, weight, None, None, None),
        "target_logprobs": (x, weight, None, rows, rows, rows, torch.rand(5)),
        "sample": (x, ones, 0 * rows.int(), ones, 0 * ones, 0.5 * ones),
        "quantised_linear": (
            x,
            torch.ones(9, 128, dtype=torch.int8),
            torch.rand(9, 1),
            None,
            None,
        ),
        "linear_cross_entropy": (
            x.clone().requires_grad_(),
            weight.clone().requires_grad_(),
            None,
            targets,
            -100,
            True,
            True,
            True,
            2,
        ),
    }
    found: dict[str, Any] = {}
    for name, arguments in (
        cases.items() if thorough else [("linear_cross_entropy", cases["linear_cross_entropy"])]
    ):
        try:
            opcheck(getattr(named, name).default, arguments, test_utils=utilities)
            found[f"operator {name}"] = (0.0, None)
        except Exception as error:
            found[f"operator {name}"] = (float("inf"), f"{type(error).__name__}: {error}")
    return found


def loss_result() -> float:
    """The largest difference of loss and gradients from torch's, through the function that training calls."""
    torch.manual_seed(5)
    worst = 0.0
    for biased in (False, True):
        leaves = [torch.randn(7, 12), torch.randn(30, 12)] + ([torch.randn(30)] if biased else [])
        targets = torch.randint(0, 30, (7,))
        targets[2] = -100
        results = []
        for ours in (True, False):
            one = [leaf.clone().requires_grad_() for leaf in leaves]
            x, weight, bias = (*one, None)[:3]
            if ours:
                loss = ops.linear_cross_entropy(x, weight, bias, targets, rows_at_once=3)
            else:
                logits = torch.nn.functional.linear(x, weight, bias)
                loss = torch.nn.functional.cross_entropy(logits, targets)
            (2 * loss).backward()
            results.append([loss.detach(), *(leaf.grad for leaf in one)])
        for left, right in zip(*results, strict=True):
            worst = max(worst, float((left - right).abs().max()))
    return worst


def main() -> None:
    thorough = "--thorough" in sys.argv
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if thorough:
        for dtype in ("float32", "bfloat16", "float16", "int8", "int4"):
            found |= op_results(dtype)
        for dtype in ("float32", "bfloat16", "int8", "int4"):
            found[f"stack {dtype}"] = (stack_results(dtype, recorded=dtype != "bfloat16"), None)
    else:
        found["stack"] = (quick_stack(), None)
        found["grid"] = kernel_grid.run(list(kernel_grid.PARTS), thorough=False, device="cpu")
    found["replays"] = (Repeater.replays, None)
    found["loss and slopes"] = (loss_result(), None)
    found |= operator_results(thorough)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
