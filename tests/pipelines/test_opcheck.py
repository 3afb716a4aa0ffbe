"""The self-check of ops tells right from wrong for every op of the contract."""

from __future__ import annotations

import pytest
import torch

from llmasos.contracts.runtime import OP_NAMES
from llmasos.pipelines.opcheck import compare, largest_difference, sample_inputs


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


@pytest.mark.parametrize("op", ["linear", "attention", "rotary", "token_logprobs"])
def test_a_thorough_check_tries_sizes_that_the_quick_one_does_not(reference, op) -> None:
    def wrong(*arguments):
        result = reference[op](*arguments)
        wide = first(arguments).shape[0] > 64
        return (
            result if not wide else tuple(r + 1 for r in result) if isinstance(result, tuple) else result + 1
        )

    sides = {"device": "cpu", "dtype": "float32"}
    assert compare(op, reference[op], reference[op], **sides, thorough=True) == (0.0, None)
    assert op == "attention" or compare(op, wrong, reference[op], **sides).difference == 0
    assert compare(op, wrong, reference[op], **sides, thorough=True).difference == pytest.approx(1, rel=0.01)


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
