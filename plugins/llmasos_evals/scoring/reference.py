"""The straightforward engine: every row in full, logits only where a score needs them.

Letters: N packed tokens, M scored rows, D model width.

The rows of one document are packed into one forward pass and never mixed with those of another. Floating-point sums depend on
what else is in a batch; this way no log-probability depends on the token budget. What the tree engine says is held to this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from llmasos.api import CausalLM, EvaluationError, PackedBatch
from llmasos_evals.scoring.encoding import Scored
from llmasos_evals.scoring.plan import Answer, Shard

#: Tokens in one forward pass: the requests of a document are split, longest first, when they are more than this.
TOKEN_BUDGET = 8192
#: Rows that are multiplied with the vocabulary at once, which bounds memory to ROW_BLOCK x vocabulary floats.
ROW_BLOCK = 512


class ReferenceEngine:
    """Answers the rows of a shard, one unit after the other, every row in full. For any CausalLM."""

    name = "reference"

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self.budget = TOKEN_BUDGET

    def run(self, shard: Shard) -> Iterator[Answer]:
        """Every row of the shard once. Raises EvaluationError when the model gives what is not a number."""
        rows = [
            Scored((*row.inputs.tolist(), int(row.wanted[-1])), len(row.wanted)) for row in shard.tree.rows()
        ]
        for _, places in groupby(range(len(rows)), key=shard.units.tolist().__getitem__):
            together = list(places)
            for place, (logprob, greedy) in zip(
                together, self.score([rows[i] for i in together]), strict=True
            ):
                yield Answer(shard.first + place, logprob, greedy)

    def score(self, rows: Sequence[Scored]) -> list[tuple[float, bool]]:
        """(log-probability of the targets, whether each target is the arg-max) of each row, computed together.

        A row without targets is certain and greedy: nothing was asked of the model.
        """
        results: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        order = sorted((i for i, row in enumerate(rows) if row.targets), key=lambda i: (-len(rows[i].ids), i))
        tile: list[int] = []
        size = 0
        for index in order:
            length = len(rows[index].ids) - 1
            if tile and size + length > TOKEN_BUDGET:
                self._forward(rows, tile, results)
                tile, size = [], 0
            tile.append(index)
            size += length
        if tile:
            self._forward(rows, tile, results)
        return results

    def _forward(
        self, rows: Sequence[Scored], tile: Sequence[int], results: list[tuple[float, bool]]
    ) -> None:
        """One packed forward pass over ``tile``, indices into ``rows``; writes into ``results``."""
        tokens: list[int] = []
        positions: list[int] = []
        starts = [0]
        places: list[int] = []
        targets: list[int] = []
        for index in tile:
            row = rows[index]
            inputs = row.ids[:-1]
            places.extend(range(starts[-1] + len(inputs) - row.targets, starts[-1] + len(inputs)))
            targets.extend(row.ids[len(row.ids) - row.targets :])
            tokens.extend(inputs)
            positions.extend(range(len(inputs)))
            starts.append(len(tokens))
        device = self._model.device
        with torch.inference_mode():
            batch = PackedBatch(
                tokens=torch.tensor(tokens, dtype=torch.int64, device=device),
                positions=torch.tensor(positions, dtype=torch.int64, device=device),
                starts=tuple(starts),
            )
            hidden_nd = self._model.hidden(batch)
            hidden_md = hidden_nd[torch.tensor(places, dtype=torch.int64, device=device)]
            target_m = torch.tensor(targets, dtype=torch.int64, device=device)
            parts = []
            for begin in range(0, len(targets), ROW_BLOCK):
                block_m = target_m[begin : begin + ROW_BLOCK]
                logprob_m, best_m = self._model.token_logprobs(hidden_md[begin : begin + ROW_BLOCK], block_m)
                parts.append(torch.stack((logprob_m.float(), (best_m == block_m).float())))
            logprobs, hits = torch.cat(parts, dim=1).tolist()  # the only wait for the device
        offset = 0
        for index in tile:
            end = offset + rows[index].targets
            total = math.fsum(logprobs[offset:end])
            if math.isnan(total):
                raise EvaluationError(
                    "the model gave log-probabilities that are not numbers",
                    hint="check the weights with `llmasos model info`, or try --dtype exact",
                )
            results[index] = (total, all(hit == 1.0 for hit in hits[offset:end]))
            offset = end
