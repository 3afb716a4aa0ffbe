"""Cross-entropy of a vocabulary's head without the tensor of logits: chunks of rows, their gradients taken at once.

The logits of a chunk become the gradient of the loss in place, and that meets the head and the rows before the next chunk
comes; what is kept is as large as the rows and the head (the idea of Hsu et al. 2024, Liger Kernel). Chunks hold only rows with
a target, so a masked language model pays for the masked tokens alone.

Letters: N rows, M rows with a target, R rows of a chunk, I inputs, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmasos_cpu.training_products import Products, transposed

#: Logits of a chunk at most: 128 MiB of float32; rows of a chunk are a multiple of this.
_LOGITS, _ROWS = 1 << 25, 64
#: Entries of the vocabulary whose gradients are turned on their side at a time.
_PIECE = 2048


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss [] and its gradients: x [N, I], weight [V, I], bias [V], empty where not wanted."""

    value: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor


def linear_cross_entropy(
    products: Products,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignored: int,
    mean: bool,
    smoothing: float,
    slope_of_x: bool,
    slope_of_weight: bool,
) -> Loss:
    """Cross-entropy of x weightᵀ + bias with ``targets`` [N] int64 over the rows whose target is not ``ignored``, their mean (NaN
    when there is none) or their sum. ``smoothing`` of each target is spread over the whole vocabulary (Szegedy et al. 2016).

    All float32. Raises IndexError for a target outside the vocabulary.
    """
    vocabulary = weight.shape[0]
    rows = (targets != ignored).nonzero().squeeze(1)
    chosen = targets[rows]
    count = len(rows)
    if count and not 0 <= int(chosen.min()) <= int(chosen.max()) < vocabulary:
        raise IndexError(f"a target is outside the vocabulary of {vocabulary}")
    found = Loss(
        torch.full((), torch.nan if mean else 0.0) if count == 0 else torch.zeros(()),
        x.new_zeros(x.shape if slope_of_x else 0),
        (x.new_empty if count and vocabulary else x.new_zeros)(weight.shape if slope_of_weight else 0),
        x.new_zeros(vocabulary if slope_of_weight and bias is not None else 0),
    )
    if count == 0:
        return found
    factor = 1.0 / count if mean else 1.0
    head = _Head(products, weight, bias, wants_x=slope_of_x)
    total = torch.zeros((), dtype=torch.float64)
    chunks = -(-count * vocabulary // _LOGITS)
    size = -(-count // (chunks * _ROWS)) * _ROWS
    for begin in range(0, count, size):
        place, wanted = rows[begin : begin + size], chosen[begin : begin + size, None]
        part = x[place]  # [R, I]
        slopes = head.logits(part)  # [R, V], logits until the softmax takes their place
        total += _losses(slopes, wanted, smoothing).sum(dtype=torch.float64)
        if not slope_of_x and not slope_of_weight:
            continue
        slopes.scatter_add_(1, wanted, slopes.new_full((), smoothing - 1).expand(wanted.shape))
        if smoothing:
            slopes.sub_(smoothing / vocabulary)
        if slope_of_x:
            found.x[place] = head.input_slope(slopes).mul_(factor)
        if slope_of_weight:
            _add_weight_slope(products, slopes, part.mul_(factor), found.weight, resume=begin > 0)
            if bias is not None:
                found.bias.add_(slopes.sum(0), alpha=factor)
    found.value.add_(total * factor)
    return found


class _Head:
    """The matrix of the vocabulary, laid out or rounded once for all chunks."""

    def __init__(self, products: Products, weight: Tensor, bias: Tensor | None, *, wants_x: bool) -> None:
        self._products, self._bias = products, bias
        self._weight = weight.bfloat16() if products.half else weight
        native = products.native is not None
        self._packed = products.packed(weight) if native else None
        self._across = products.packed_transpose(weight) if native and wants_x else None

    def logits(self, x: Tensor) -> Tensor:
        """x [R, I] -> [R, V] float32."""
        if self._packed is not None:
            return self._products.product(x, self._packed, self._bias)
        x = x.to(self._weight.dtype)
        found = torch.empty(len(x), len(self._weight))
        for begin in range(0, len(self._weight), _PIECE):
            found[:, begin : begin + _PIECE] = x @ self._weight[begin : begin + _PIECE].t()
        return found if self._bias is None else found.add_(self._bias)

    def input_slope(self, slopes: Tensor) -> Tensor:
        """slopes [R, V] -> [R, I] float32."""
        if self._across is not None:
            return self._products.product(slopes, self._across, None)
        return (slopes.to(self._weight.dtype) @ self._weight).float()


def _losses(logits: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
    """The loss of each row [R, 1]; ``logits`` [R, V] become probabilities."""
    peak = logits.amax(1, keepdim=True)
    score = logits.gather(1, wanted)
    if smoothing:
        score = torch.lerp(score, logits.mean(1, keepdim=True), smoothing)
    torch.softmax(logits, dim=1, out=logits)
    # The largest probability is exp(0) over the sum of exponentials.
    return peak - logits.amax(1, keepdim=True).log() - score


def _add_weight_slope(products: Products, slopes: Tensor, x: Tensor, out: Tensor, *, resume: bool) -> None:
    """``out`` [V, I] += slopes [R, V]ᵀ @ x [R, I], or = for the first chunk."""
    across = None if products.native is None else products.packed_transpose(x)
    if not resume:
        out.zero_()
    for begin in range(0, len(out), _PIECE):
        piece = slopes[:, begin : begin + _PIECE]
        if across is None:
            out[begin : begin + _PIECE] += products.weight_slope(piece, x)
        else:
            products.product(transposed(piece), across, None, out[begin : begin + _PIECE])
