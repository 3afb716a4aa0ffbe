"""The ops that read matrices of weights, whichever way a matrix is laid out: native panels, oneDNN's, or plain.

Letters: N packed tokens, M targets, R rows, O outputs, I inputs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos_cpu import matrices, onednn
from llmasos_cpu.matrices import NativeMatrix
from llmasos_cpu.onednn import OneDnnWeight

Weight = Tensor | OneDnnWeight | NativeMatrix

#: Rows whose logits exist at a time.
_ROWS = 512


def embedding(ids: Tensor, weight: Weight) -> Tensor:
    """ids [N] int64, weight [V, O] -> [N, O]."""
    if isinstance(weight, NativeMatrix):
        return weight.rows(ids)
    table = weight.table if isinstance(weight, OneDnnWeight) else weight
    assert table is not None, "a matrix that was packed without look-up"
    return F.embedding(ids, table)


def linear(x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
    """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]."""
    if isinstance(weight, NativeMatrix):
        return weight.product(x, bias)
    if isinstance(weight, OneDnnWeight):
        return onednn.linear(x.contiguous(), weight, bias)
    return F.linear(x, weight, bias)


def token_logprobs(
    x: Tensor, weight: Weight, bias: Tensor | None, targets: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """log softmax(x weightᵀ + bias)[targets] in float32 and the arg-max: x [M, I], weight [V, I], targets [M] -> [M], [M].

    With ``rows`` [M], ascending, x is [R, I] and target i belongs to row ``rows[i]``. Logits exist a piece at a time.
    """
    if isinstance(weight, NativeMatrix):
        return matrices.token_logprobs(x, weight, bias, targets, rows)
    row = torch.arange(len(targets)) if rows is None else rows
    total = x.new_empty(len(x), dtype=torch.float32)  # log of the sum of exp of the logits, [R]
    best = torch.empty(len(x), dtype=torch.int64)  # [R]
    chosen = x.new_empty(len(targets), dtype=torch.float32)  # the logit of each target, [M]
    for begin in range(0, len(x), _ROWS):
        end = min(begin + _ROWS, len(x))
        first, last = torch.searchsorted(row, torch.tensor([begin, end])).tolist()
        place, wanted = row[first:last] - begin, targets[first:last]
        peak = x.new_full((end - begin,), -torch.inf, dtype=torch.float32)
        mass = torch.zeros_like(peak)  # sum of exp(logit - peak) so far
        for start, logits in _logits(x[begin:end], weight, bias):
            inside = ((wanted >= start) & (wanted < start + logits.shape[1])).nonzero().squeeze(1)
            chosen[first + inside] = logits[place[inside], wanted[inside] - start]
            top, where = logits.max(dim=1)
            better = top > peak
            best[begin:end][better] = where[better] + start
            grown = torch.maximum(top, peak)
            mass = mass * (peak - grown).exp() + (logits - grown[:, None]).exp_().sum(dim=1)
            peak = grown
        total[begin:end] = peak + mass.log()
    return chosen - total[row], best[row]


def _logits(x: Tensor, weight: Tensor | OneDnnWeight, bias: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """(first token, logits [R, v] float32) for each piece of the vocabulary."""
    laid_out = isinstance(weight, OneDnnWeight)
    vocabulary = weight.outputs if isinstance(weight, OneDnnWeight) else weight.shape[0]
    pieces = weight.pieces if isinstance(weight, OneDnnWeight) else weight.split(onednn.PIECE)
    x = x.contiguous()
    for number, piece in enumerate(pieces):
        start = number * onednn.PIECE
        part = None if bias is None else bias[start : min(start + onednn.PIECE, vocabulary)]
        yield start, (onednn.product if laid_out else F.linear)(x, piece, part).float()
