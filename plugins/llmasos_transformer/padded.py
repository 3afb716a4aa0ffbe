"""Rectangular batches in and out of the packed world: B sequences, T padded length, N real tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from llmasos.api import PackedBatch, UsageError


def pack(
    input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
) -> tuple[PackedBatch, Tensor]:
    """Take the real tokens out of a left- or right-padded batch [B, T]; positions count real tokens only.

    ``attention_mask`` [B, T] is non-zero at real tokens (None: all are real). Returns the packed batch and the mask
    [B, T] bool that ``unpack`` needs. Raises UsageError when shapes differ or a row has no real token.
    """
    if input_ids.dim() != 2:
        raise UsageError(f"a padded batch has shape [B, T], this one {list(input_ids.shape)}")
    for name, other in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if other is not None and other.shape != input_ids.shape:
            raise UsageError(f"{name} has shape {list(other.shape)}, input_ids {list(input_ids.shape)}")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    counts = mask.sum(dim=1).tolist()
    if 0 in counts:
        raise UsageError(f"row {counts.index(0)} of the batch has no real token", hint="leave empty rows out")
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    positions = mask.long().cumsum(dim=1) - 1
    batch = PackedBatch(
        tokens=input_ids[mask],
        positions=positions[mask],
        starts=tuple(starts),
        token_types=None if token_type_ids is None else token_type_ids[mask],
    )
    return batch, mask


def unpack(rows: Tensor, mask: Tensor) -> Tensor:
    """Put packed rows [N, X] back where ``mask`` [B, T] is set: [B, T, X], zero elsewhere."""
    out = rows.new_zeros(*mask.shape, rows.shape[-1])
    out[mask] = rows
    return out
