"""How much less likely than the best token the tokens of a text are: what greedy decoding would have to explain."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from llmasos.api import LoadedModel, PackedBatch

#: Rows that are multiplied with the vocabulary at once.
_ROWS = 256


def greedy_gap(
    loaded: LoadedModel, ids: Sequence[int], targets: int, ends: Collection[int] | None = None
) -> float:
    """Nats by which the last ``targets`` tokens of ``ids`` are at most less likely than the best token in their place.

    0 when each of them is the best: the text is what greedy decoding gives. With ``ends`` one of those tokens must follow, too;
    infinite when there is none.
    """
    model = loaded.model
    count = targets + (ends is not None)
    if count == 0:
        return 0.0
    inputs = list(ids if ends is not None else ids[:-1])
    wanted = list(ids[len(ids) - targets :])
    with torch.inference_mode():
        batch = PackedBatch(
            tokens=torch.tensor(inputs, dtype=torch.int64, device=model.device),
            positions=torch.arange(len(inputs), dtype=torch.int64, device=model.device),
            starts=(0, len(inputs)),
        )
        hidden = model.hidden(batch)[len(inputs) - count :]
        worst = 0.0
        for start in range(0, count, _ROWS):
            logits = model.logits(hidden[start : start + _ROWS]).float()
            best = logits.max(dim=1).values
            for row in range(len(logits)):
                place = start + row
                own = [wanted[place]] if place < targets else sorted(ends or ())
                if not own:
                    return math.inf
                worst = max(worst, float(best[row] - logits[row, own].max()))
    return worst
