"""The self-check of ops tells right from wrong for every op of the contract."""

from __future__ import annotations

import pytest
import torch

from llmasos.contracts.runtime import OP_NAMES
from llmasos.pipelines.opcheck import largest_difference, sample_inputs


@pytest.fixture
def reference(hub):
    one = hub()
    return {op: one.get("kernel_op", f"reference.{op}") for op in OP_NAMES}


def first(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("op", OP_NAMES)
def test_the_reference_agrees_with_itself(reference, op) -> None:
    assert largest_difference(op, reference[op], reference[op], device="cpu", dtype="float32") == 0.0
    assert len(list(sample_inputs(op, device="cpu", dtype="float32"))) >= 3


@pytest.mark.parametrize("op", OP_NAMES)
def test_an_error_of_a_thousandth_is_found(reference, op) -> None:
    def wrong(*arguments):
        result = reference[op](*arguments)
        return (result[0] + 1e-3, *result[1:]) if isinstance(result, tuple) else result + 1e-3

    found = largest_difference(op, wrong, reference[op], device="cpu", dtype="float32")
    assert found == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("op", OP_NAMES)
def test_nan_shape_and_exception_are_infinitely_wrong(reference, op) -> None:
    def nan(*arguments):
        result = reference[op](*arguments)
        return (result[0] * torch.nan, *result[1:]) if isinstance(result, tuple) else result * torch.nan

    def shape(*arguments):
        return first(reference[op](*arguments))[..., :0]

    def crash(*arguments):
        raise RuntimeError("no kernel image")

    for broken in (nan, shape, crash):
        assert largest_difference(op, broken, reference[op], device="cpu", dtype="float32") == float("inf")
