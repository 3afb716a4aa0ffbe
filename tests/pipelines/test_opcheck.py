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
        if first(arguments).shape[0] <= 64:
            return result
        return (result[0] + 1, *result[1:]) if isinstance(result, tuple) else result + 1

    sides = {"device": "cpu", "dtype": "float32"}
    assert compare(op, reference[op], reference[op], **sides, thorough=True) == (0.0, None)
    assert op == "attention" or compare(op, wrong, reference[op], **sides).difference == 0
    assert compare(op, wrong, reference[op], **sides, thorough=True).difference == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("op", OP_NAMES)
def test_inputs_and_weights_are_tried_with_gaps(op) -> None:
    tried = list(sample_inputs(op, device="cpu", dtype="float32", strided=True))
    for place in range(1 if op == "rotary" else 2):  # angles are made by torch, not sliced
        values = [arguments[place] for arguments in tried if isinstance(arguments[place], torch.Tensor)]
        assert any(not tensor.is_contiguous() for tensor in values if tensor.numel()) == bool(values)


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


def test_an_arg_max_is_compared_by_its_score(reference) -> None:
    """In bfloat16 the reference rounds scores before it looks for the largest; one that does not may say another."""
    op = "token_logprobs"

    def unrounded(*arguments):
        x, weight, bias, targets, *rows = arguments
        return reference[op](
            x.float(), weight.float(), None if bias is None else bias.float(), targets, *rows
        )

    def smallest(*arguments):
        x, weight, bias, targets, *rows = arguments
        flipped = None if bias is None else -bias
        return reference[op](*arguments)[0], reference[op](x, -weight, flipped, targets, *rows)[1]

    assert compare(op, unrounded, reference[op], device="cpu", dtype="bfloat16").difference < 0.05
    assert compare(op, smallest, reference[op], device="cpu", dtype="float32").difference > 1


def test_an_arg_max_outside_the_vocabulary_is_infinitely_wrong(reference) -> None:
    def outside(*arguments):
        logprob, best = reference["token_logprobs"](*arguments)
        return logprob, best + arguments[1].shape[0]

    found = compare("token_logprobs", outside, reference["token_logprobs"], device="cpu", dtype="float32")
    assert found == (float("inf"), "gave an arg-max outside the vocabulary")
