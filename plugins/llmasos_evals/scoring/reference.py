"""The straightforward scorer: a document at a time, logits only where a score needs them.

Letters: N packed tokens, M scored rows, D model width.

The requests of one document are packed into one forward pass and never mixed with those of another. Floating-point sums
depend on what else is in a batch; this way no log-probability depends on the batch size, the order of documents or the
point where a run was resumed. A faster engine takes this class's place behind the ``Scorer`` contract.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from llmasos.api import CausalLM, EvaluationError, HubAPI, LoadedModel, PackedBatch, Request, Response
from llmasos_evals.scoring.encoding import PairEncoder, Scored
from llmasos_evals.scoring.generation import GenerationPlan, generation_plan
from llmasos_evals.scoring.plan import Answer, Shard

#: Tokens in one forward pass: the requests of a document are split, longest first, when they are more than this.
TOKEN_BUDGET = 8192
#: Rows that are multiplied with the vocabulary at once, which bounds memory to ROW_BLOCK x vocabulary floats.
ROW_BLOCK = 512
#: Documents whose texts go through the tokenizer together.
ENCODE_AHEAD = 32


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


class ReferenceScorer:
    """Scores with any CausalLM. ``batch_size`` prompts are generated together; likelihoods do not depend on it."""

    name = "reference"

    def __init__(self, loaded: LoadedModel, hub: HubAPI, *, batch_size: int, seed: int) -> None:
        self._loaded = loaded
        self._hub = hub
        self._batch_size = batch_size
        self._seed = seed
        self._encoder = PairEncoder(loaded.tokenizer, loaded.model.max_length)
        self._engine = ReferenceEngine(loaded.model)

    def plan(self) -> dict[str, Any]:
        """What decides the order of floating-point operations, for the record."""
        return {
            "unit": "document",
            "token_budget": TOKEN_BUDGET,
            "row_block": ROW_BLOCK,
            "max_length": self._encoder.max_length,
            "generation_batch": self._batch_size,
            # A matrix product on the CPU is split over threads, which changes the last bits of its sums.
            "threads": torch.get_num_threads() if self._loaded.model.device == "cpu" else None,
        }

    @property
    def prefix(self) -> int | None:
        """The token in front of an empty context."""
        return self._encoder.prefix

    def score(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Likelihoods document by document, then generations. Raises EvaluationError, InputError for bad settings.

        Greedy generations with equal settings run together in the order given, ``batch_size`` at a time; sampled ones run
        alone, each with a seed made of the run's seed and the request's key.
        """
        documents = [list(group) for _, group in groupby(requests, key=lambda request: request.key[:2])]
        for start in range(0, len(documents), ENCODE_AHEAD):
            yield from self._likelihoods(documents[start : start + ENCODE_AHEAD])
        for document in documents:
            for request in document:
                if request.kind == "loglikelihood_rolling":
                    yield self._rolling(request)
        yield from self._generations([r for r in requests if r.kind == "generate_until"])

    # ---- likelihoods ---------------------------------------------------------------------------------------------------

    def _likelihoods(self, documents: Sequence[Sequence[Request]]) -> Iterator[Response]:
        pairs = [[r for r in document if r.kind == "loglikelihood"] for document in documents]
        encoded = iter(self._encoder.pairs([request for document in pairs for request in document]))
        for document in pairs:
            rows = [next(encoded) for _ in document]
            scores = self._engine.score(rows)
            for request, row, (logprob, greedy) in zip(document, rows, scores, strict=True):
                yield Response(
                    key=request.key,
                    logprob=logprob,
                    is_greedy=greedy,
                    tokens=row.targets,
                    truncated=row.truncated,
                    unscored=row.unscored,
                    token_ids=row.ids,
                )

    def _rolling(self, request: Request) -> Response:
        """The log-probability of a whole text, window after window (no window depends on another)."""
        tokens = self._encoder.text(request.context)
        prefix = self._encoder.require_prefix()
        scores = self._engine.score(self._encoder.windows(tokens))
        return Response(
            key=request.key,
            logprob=math.fsum(logprob for logprob, _ in scores),
            tokens=len(tokens),
            token_ids=(prefix, *tokens),
        )

    # ---- generation ----------------------------------------------------------------------------------------------------

    def _generations(self, requests: Sequence[Request]) -> Iterator[Response]:
        plans: dict[GenerationPlan, list[Request]] = {}
        for request in requests:
            plans.setdefault(generation_plan(request.options, where=f"task {request.key[0]}"), []).append(
                request
            )
        for plan, group in plans.items():
            together = self._batch_size if plan.greedy else 1
            for start in range(0, len(group), together):
                yield from self._generate(plan, group[start : start + together])

    def _generate(self, plan: GenerationPlan, requests: Sequence[Request]) -> Iterator[Response]:
        room = self._encoder.max_length - plan.max_tokens
        if room < 1:
            raise EvaluationError(
                f"task {requests[0].key[0]} generates up to {plan.max_tokens} tokens, which leaves no room for a prompt: "
                f"the model's context is {self._encoder.max_length} tokens",
                hint="lower max_gen_toks in the task's generation_kwargs, or choose a model with a longer context",
            )
        whole = self._encoder.encode([request.context for request in requests])
        prompts = [tuple(ids[-room:]) or (self._encoder.require_prefix(),) for ids in whole]
        params = plan.sampling(seed=self._request_seed(requests[0].key))
        for chunk in self._hub.generate(self._loaded, prompts, params, batch_size=len(prompts)):
            if chunk.done is None:
                continue
            request, ids = requests[chunk.index], prompts[chunk.index]
            yield Response(
                key=request.key,
                text=plan.cut(chunk.done.text),
                tokens=len(chunk.done.tokens),
                truncated=max(0, len(whole[chunk.index]) - room),
                token_ids=ids,
                output_ids=tuple(chunk.done.tokens),
            )

    def _request_seed(self, key: tuple[str, int, int]) -> int:
        """A seed for one sampled generation: a function of the run's seed and the request, never of what ran before."""
        text = f"{self._seed}\x1f{key[0]}\x1f{key[1]}\x1f{key[2]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
