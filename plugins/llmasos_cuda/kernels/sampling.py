"""The next token of every row in one kernel: temperature, top-k, top-p, min-p and the draw, without sorting.

A filter keeps the logits from some threshold on, so it is enough to find that: by halving the range of the numbers that float32
has, 32 times at most, each time counting (top-k) or weighing (top-p) what lies above (Ye et al. 2024 do so by pivots).

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.configurations import configuration
from llmasos_cuda.launching import dense_rows, launch, power_of_two


@triton.jit
def rank(value):
    """float32 as int32 in the same order."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def scores(begin, at, step, vocabulary, temperature):
    """BLOCK logits over the temperature; -inf beyond the end."""
    value = tl.load(begin + at + step, mask=at + step < vocabulary, other=float("-inf")).to(tl.float32)
    return value / temperature


@triton.jit
def sample_kernel(
    logits,
    temperatures,
    top_k,
    top_p,
    min_p,
    uniform,
    tokens,
    logprobs,
    vocabulary,
    stride,
    BLOCK: tl.constexpr,
):
    """One row. A temperature of 0 takes the first of the largest; otherwise the token at which the sum of probabilities, in the
    order of tokens, passes ``uniform`` times the sum of all that are left."""
    row = tl.program_id(0).to(tl.int64)
    begin = logits + row * stride
    step = tl.arange(0, BLOCK)
    given = tl.load(temperatures + row)
    greedy = given <= 0.0
    temperature = tl.where(greedy, 1.0, given)

    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    place = tl.zeros((BLOCK,), tl.int32)
    for at in range(0, vocabulary, BLOCK):
        value = scores(begin, at, step, vocabulary, temperature)
        grown = tl.maximum(peak, value)
        safe = tl.where(grown == float("-inf"), 0.0, grown)
        mass = mass * tl.exp(peak - safe) + tl.exp(value - safe)
        place = tl.where(value > peak, at + step, place)
        peak = grown
    top = tl.max(peak, axis=0)
    everything = tl.sum(mass * tl.exp(peak - top), axis=0)
    best = tl.min(tl.where(peak == top, place, 2147483647), axis=0)

    lowest = rank(tl.full((), float("-inf"), tl.float32))
    threshold = lowest
    wanted = tl.load(top_k + row)
    if (wanted > 0) & (wanted < vocabulary) & (greedy == 0):
        # Invariant: at least `wanted` scores rank `low` or higher, fewer rank above `high`.
        low, high = lowest, rank(top)
        while low < high:
            # Halved without overflow, rounded up.
            middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
            count = tl.zeros((BLOCK,), tl.int32)
            for at in range(0, vocabulary, BLOCK):
                value = scores(begin, at, step, vocabulary, temperature)
                count += ((rank(value) >= middle) & (at + step < vocabulary)).to(tl.int32)
            enough = tl.sum(count, axis=0) >= wanted
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
        threshold = low
    if (tl.load(top_p + row) < 1.0) & (greedy == 0):
        kept = tl.zeros((BLOCK,), tl.float32)
        for at in range(0, vocabulary, BLOCK):
            value = scores(begin, at, step, vocabulary, temperature)
            kept += tl.where(rank(value) >= threshold, tl.exp(value - top), 0.0)
        goal = tl.load(top_p + row) * tl.sum(kept, axis=0)
        low, high = threshold, rank(top)
        while low < high:
            middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
            held = tl.zeros((BLOCK,), tl.float32)
            for at in range(0, vocabulary, BLOCK):
                value = scores(begin, at, step, vocabulary, temperature)
                held += tl.where(rank(value) >= middle, tl.exp(value - top), 0.0)
            enough = tl.sum(held, axis=0) >= goal
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
        threshold = low
    least = tl.load(min_p + row)

    total = tl.zeros((BLOCK,), tl.float32)
    for at in range(0, vocabulary, BLOCK):
        value = scores(begin, at, step, vocabulary, temperature)
        weight = tl.exp(value - top)
        total += tl.where((rank(value) >= threshold) & (weight >= least), weight, 0.0)
    goal = tl.load(uniform + row) * tl.sum(total, axis=0)
    passed = tl.zeros((), tl.float32)
    drawn = tl.full((), 2147483647, tl.int32)
    last = best
    for at in range(0, vocabulary, BLOCK):
        value = scores(begin, at, step, vocabulary, temperature)
        weight = tl.exp(value - top)
        weight = tl.where((rank(value) >= threshold) & (weight >= least), weight, 0.0)
        reached = passed + tl.cumsum(weight, axis=0)
        here = tl.min(tl.where((reached > goal) & (weight > 0.0), at + step, 2147483647), axis=0)
        drawn = tl.minimum(drawn, here)
        last = tl.maximum(last, tl.max(tl.where(weight > 0.0, at + step, 0), axis=0))
        passed += tl.sum(weight, axis=0)
    # Sums in another order may end just below the goal.
    drawn = tl.where(drawn == 2147483647, last, drawn)
    token = tl.where(greedy, best, drawn)
    tl.store(tokens + row, token.to(tl.int64))
    chosen = tl.load(begin + token).to(tl.float32) / temperature
    tl.store(logprobs + row, chosen - top - tl.log(everything))


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """(tokens [B] int64, log-probabilities [B] float32) drawn from logits [B, V], with settings of each row [B].

    Filters mean what they mean in ``llmasos generate``, in the order top-k, top-p, min-p, except that top-p keeps all that tie with
    the least likely one it keeps. ``top_k`` int32, 0: off; ``top_p`` 1: off; ``min_p`` 0: off. ``uniform``: a number in [0, 1) for
    each row. Log-probabilities are those before filters, at the row's temperature (1 where it is 0).
    """
    logits = dense_rows(logits)
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    chosen = configuration(logits, "vocabulary", "row")
    launch(
        sample_kernel,
        (rows,),
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        uniform,
        tokens,
        logprobs,
        vocabulary,
        logits.stride(0),
        BLOCK=min(chosen["block"], power_of_two(vocabulary)),
        warps=chosen["warps"],
        stages=chosen["stages"],
    )
    return tokens, logprobs
