"""Checks of the ``CausalLM`` contract.

Letters: N packed tokens, M rows, D model width, V vocabulary. All differences are largest absolute ones in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmasos.contracts.model import CausalLM, KVCache, SharingCache, TreeLM
from llmasos.errors import LlmasosError
from llmasos.testing.conformance import trees
from llmasos.testing.conformance.check import Observation, broken, check, does_not_apply, kept
from llmasos.testing.conformance.sequences import advance, difference, hidden_alone, pack, sequences

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ModelSubject:
    """A causal language model under test.

    ``tolerance`` bounds differences between two ways of computing the same log-probabilities (nats) or scores: 1e-4 is
    for float32. ``uses_positions`` is False for models without positions. ``parameters`` is what the architecture's
    summary said, when it is known.
    """

    model: CausalLM
    tolerance: float = 1e-4
    uses_positions: bool = True
    parameters: int | None = None


def _logits(model: CausalLM, tokens: list[int]) -> Tensor:
    """Scores [N, V] after each token of one sequence by itself."""
    return model.logits(hidden_alone(model, tokens))


def _compare(subject: ModelSubject, what: str, actual: Tensor, expected: Tensor) -> str | None:
    gap = difference(actual, expected)
    return (
        None if gap <= subject.tolerance else f"{what} differ by {gap:.3g} (allowed {subject.tolerance:.3g})"
    )


@check(
    "model.shapes",
    rule="hidden [N, D] and logits [M, V] in the model's dtype; token_logprobs gives float32 [M] <= 0 and int64 [M]; no rows, no results",
    fix="return one row a packed token, and take log-sum-exp in float32",
)
def shapes(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    dtype = getattr(torch, model.dtype)
    parts = sequences(model)
    total = sum(map(len, parts))
    hidden = model.hidden(pack(model, parts))
    if hidden.dim() != 2 or hidden.shape[0] != total or hidden.dtype != dtype:
        return broken(
            f"{total} tokens gave hidden {tuple(hidden.shape)} {hidden.dtype}; the model says {model.dtype}"
        )
    for rows in (hidden, hidden[1:2], hidden[:0]):
        count = rows.shape[0]
        logits = model.logits(rows)
        if tuple(logits.shape) != (count, model.vocab_size) or logits.dtype != dtype:
            return broken(
                f"{count} rows gave logits {tuple(logits.shape)} {logits.dtype}, vocabulary {model.vocab_size}"
            )
        targets = torch.zeros(count, dtype=torch.int64, device=model.device)
        logprobs, best = model.token_logprobs(rows, targets)
        if tuple(logprobs.shape) != (count,) or logprobs.dtype != torch.float32:
            return broken(f"{count} rows gave log-probabilities {tuple(logprobs.shape)} {logprobs.dtype}")
        if tuple(best.shape) != (count,) or best.dtype != torch.int64:
            return broken(f"{count} rows gave arg-max tokens {tuple(best.shape)} {best.dtype}")
        if count and not (bool(torch.isfinite(logits).all()) and float(logprobs.max()) <= 1e-6):
            return broken("scores are not finite, or a log-probability is above 0")
    if "model_type" not in model.config:
        return broken("config has no model_type")
    return kept(
        f"{total} tokens in {len(parts)} sequences, width {hidden.shape[1]}, vocabulary {model.vocab_size}"
    )


@check(
    "model.logits_agree",
    rule="token_logprobs is the log-softmax of logits, and its second result their arg-max",
    fix="use the same head, bias and scaling in both",
)
def logits_agree(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    tokens = sequences(model, [17])[0]
    hidden = hidden_alone(model, tokens)
    scores = model.logits(hidden).float()
    table = scores.log_softmax(dim=-1)  # [N, V]
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        targets = torch.randint(0, model.vocab_size, (len(tokens),), generator=generator).to(model.device)
        logprobs, best = model.token_logprobs(hidden, targets)
        if problem := _compare(
            subject, "log-probabilities", logprobs, table.gather(1, targets[:, None]).squeeze(1)
        ):
            return broken(problem)
        # Compared by score: where two tokens tie within rounding, either is the arg-max.
        if problem := _compare(
            subject, "scores of the arg-max", scores.gather(1, best[:, None]).squeeze(1), scores.amax(dim=-1)
        ):
            return broken(problem)
    return kept(f"{4 * len(tokens)} targets")


@check(
    "model.additive",
    rule="the log-likelihood of a continuation is the sum over its tokens, each given everything before it",
    fix="row i of hidden is the state after token i; it predicts token i + 1 and sees nothing later",
)
def additive(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    tokens = sequences(model, [12], seed=5)[0]
    if len(tokens) < 3:
        return does_not_apply("the model's positions are too few")
    cut = len(tokens) // 3
    targets = torch.tensor(tokens[cut:], dtype=torch.int64, device=model.device)
    whole, _ = model.token_logprobs(hidden_alone(model, tokens[:-1])[cut - 1 :], targets)
    steps = []
    for end in range(cut, len(tokens)):
        last = hidden_alone(model, tokens[:end])[-1:]
        steps.append(model.token_logprobs(last, targets[end - cut : end - cut + 1])[0])
    if problem := _compare(subject, "log-probabilities of a whole and of its steps", whole, torch.cat(steps)):
        return broken(problem)
    gap = abs(float(whole.double().sum()) - sum(float(step) for step in steps))
    if gap > subject.tolerance * len(steps):
        return broken(f"the sum over {len(steps)} steps is off by {gap:.3g}")
    return kept(f"{len(steps)} tokens, sums equal to {gap:.2g}")


@check(
    "model.causal",
    rule="a later token changes nothing before it",
    fix="mask the future in attention; do not normalise over the sequence",
)
def causal(subject: ModelSubject) -> Observation:
    model = subject.model
    tokens = sequences(model, [17])[0]
    if len(tokens) < 2:
        return does_not_apply("the model's positions are too few")
    changed = [*tokens[:-1], (tokens[-1] + 1) % model.vocab_size]
    before, after = _logits(model, tokens), _logits(model, changed)
    if problem := _compare(subject, "scores in front of a changed token", after[:-1], before[:-1]):
        return broken(problem)
    if difference(after[-1], before[-1]) == 0.0:
        return broken("changing a token did not change the scores after it")
    return kept(f"{len(tokens) - 1} rows in front of a changed token")


@check(
    "model.greedy_agrees",
    rule="greedy continuation with a cache takes the tokens that token_logprobs calls the arg-max of the whole",
    fix="feed the chosen token at the next position, and let the cache hold it once",
)
def greedy_agrees(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    prompt = sequences(model, [4], seed=7)[0]
    steps = min(12, model.max_length - len(prompt) - 1)
    if steps < 1:
        return does_not_apply("the model's positions are too few")
    cache = model.new_cache(1, len(prompt) + steps)
    row = advance(model, cache, [0], [prompt])[-1:]
    chosen: list[int] = []
    for _ in range(steps):
        chosen.append(int(model.logits(row).float().argmax(dim=-1)))
        row = advance(model, cache, [0], [[chosen[-1]]])
    targets = torch.tensor(chosen, dtype=torch.int64, device=model.device)
    hidden = hidden_alone(model, [*prompt, *chosen[:-1]])[len(prompt) - 1 :]
    logprobs, best = model.token_logprobs(hidden, targets)
    # Where the best two tie within the tolerance either may be chosen; the chosen one must be as probable as the best.
    top, _ = model.token_logprobs(hidden, best)
    gap = float((top - logprobs).max())
    if gap > 2 * subject.tolerance:
        where = int((top - logprobs).argmax())
        return broken(
            f"step {where} chose token {chosen[where]}, {gap:.3g} nats below the arg-max {int(best[where])} of the whole"
        )
    return kept(f"{steps} tokens")


@check(
    "model.batch_is_single",
    rule="a sequence has the same scores alone and packed with others, in any order",
    fix="nothing may cross the borders in starts; nothing may depend on a sequence's place in the batch",
)
def batch_is_single(subject: ModelSubject) -> Observation:
    model = subject.model
    parts = sequences(model)
    alone = [_logits(model, part) for part in parts]
    for order in (range(len(parts)), [2, 0, 3, 1], [3, 3, 1]):
        hidden = model.hidden(pack(model, [parts[i] for i in order]))
        start = 0
        for place, i in enumerate(order):
            rows = hidden[start : start + len(parts[i])]
            start += len(parts[i])
            if problem := _compare(
                subject,
                f"scores of {len(parts[i])} tokens at place {place} and alone",
                model.logits(rows),
                alone[i],
            ):
                return broken(problem)
    return kept(f"{len(parts)} sequences in three batches")


@check(
    "model.cache_is_no_cache",
    rule="with a cache, token by token or in pieces, in any slots, the scores are those of the whole",
    fix="store keys at the position of their token, advance lengths by what was fed, and let queries see the cached keys",
)
def cache_is_no_cache(subject: ModelSubject) -> Observation:
    model = subject.model
    parts = sequences(model, [9, 17, 4], seed=11)
    alone = [_logits(model, part) for part in parts]
    for name, pieces in (("token by token", [1] * 17), ("in pieces", [3, 1, 6, 2, 17]), ("at once", [17])):
        cache = model.new_cache(4, 17)
        slots = (2, 0, 3)
        done = [0] * len(parts)
        for piece in pieces:
            # Sequences that are complete leave the batch, so the slots in use change from pass to pass.
            live = [i for i, part in enumerate(parts) if done[i] < len(part)]
            if not live:
                break
            fed = [parts[i][done[i] : done[i] + piece] for i in live]
            hidden = advance(model, cache, [slots[i] for i in live], fed)
            start = 0
            for i, tokens in zip(live, fed, strict=True):
                rows = model.logits(hidden[start : start + len(tokens)])
                expected = alone[i][done[i] : done[i] + len(tokens)]
                if problem := _compare(
                    subject, f"scores {name} (sequence {i}, token {done[i]}) and whole", rows, expected
                ):
                    return broken(problem)
                start += len(tokens)
                done[i] += len(tokens)
                if cache.lengths[slots[i]] != done[i]:
                    return broken(f"{done[i]} tokens were fed but lengths says {cache.lengths[slots[i]]}")
        if cache.lengths[1] != 0:
            return broken(f"slot 1 was never used but holds {cache.lengths[1]} tokens")
    return kept(f"{len(parts)} sequences, three ways")


@check(
    "model.cache_copy",
    rule="after cache.copy both slots go on from the shared prefix, each on its own; reset forgets",
    fix="copy the keys and values and the length, not a reference to them",
)
def cache_copy(subject: ModelSubject) -> Observation:
    model = subject.model
    prefix, first, second, other = sequences(model, [6, 4, 5, 3], seed=13)
    if model.max_length < 12:
        return does_not_apply("the model's positions are too few")
    cache: KVCache = model.new_cache(3, 11)
    advance(model, cache, [0, 1], [prefix, other])
    cache.copy(0, 1)
    cache.copy(0, 2)
    if list(cache.lengths) != [len(prefix)] * 3:
        return broken(f"after copying {len(prefix)} tokens lengths is {list(cache.lengths)}")
    for slot, suffix in ((1, first), (0, second), (2, first)):
        rows = model.logits(advance(model, cache, [slot], [suffix]))
        expected = _logits(model, [*prefix, *suffix])[len(prefix) :]
        if problem := _compare(subject, f"scores in slot {slot} after a copy and whole", rows, expected):
            return broken(problem)
    cache.reset(1)
    if cache.lengths[1] != 0:
        return broken(f"after reset lengths is {cache.lengths[1]}")
    rows = model.logits(advance(model, cache, [1], [other]))
    if problem := _compare(subject, "scores in a slot that was reset and alone", rows, _logits(model, other)):
        return broken(problem)
    return kept("three slots with a shared prefix, one reset and used again")


@check(
    "model.cache_share",
    rule="after cache.share a slot goes on from another's tokens, and each its own way; copy, rewind and reset keep to that",
    fix="let attention read the shared tokens where they lie, then the slot's own; keep them while any slot holds them",
)
def cache_share(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    prefix, first, second = sequences(model, [6, 4, 5], seed=23)
    if model.max_length < 12:
        return does_not_apply("the model's positions are too few")
    cache: KVCache = model.new_cache(4, 12)
    if not isinstance(cache, SharingCache):
        return does_not_apply("the cache copies what slots have in common")
    advance(model, cache, [0], [prefix])
    shared = len(prefix) - 1
    cache.share(0, 1, shared)
    cache.share(0, 2, shared)
    if list(cache.lengths) != [len(prefix), shared, shared, 0]:
        return broken(f"after sharing {shared} tokens with slots 1 and 2 lengths is {list(cache.lengths)}")
    start = prefix[:shared]
    for slots, suffixes in (([1, 2], [first, second]), ([2, 0], [first, second])):
        held = [prefix if slot == 0 else start for slot in slots]
        if slots == [2, 0]:
            cache.rewind(2, shared)
        rows = model.logits(advance(model, cache, slots, suffixes))
        expected = torch.cat(
            [_logits(model, [*h, *s])[len(h) :] for h, s in zip(held, suffixes, strict=True)]
        )
        if problem := _compare(subject, f"scores in slots {slots} after sharing and whole", rows, expected):
            return broken(problem)
    cache.rewind(1, shared + 2)
    cache.copy(1, 3)
    rows = model.logits(advance(model, cache, [3], [second]))
    expected = _logits(model, [*start, *first[:2], *second])[shared + 2 :]
    if problem := _compare(subject, "scores in a copy of a sharing slot and whole", rows, expected):
        return broken(problem)
    cache.reset(1)
    rows = model.logits(advance(model, cache, [1], [second]))
    if problem := _compare(
        subject, "scores in a slot that shared and was reset and alone", rows, _logits(model, second)
    ):
        return broken(problem)
    cache.reset(0)
    advance(model, cache, [0], [second])
    cache.rewind(2, shared + 1)
    rows = model.logits(advance(model, cache, [2], [second]))
    expected = _logits(model, [*start, *first[:1], *second])[shared + 1 :]
    if problem := _compare(subject, "scores after tokens of a slot that was used anew", rows, expected):
        return broken(problem)
    return kept("two slots that go on from another's tokens, one rewound, one copied, each of them reset")


@check(
    "model.cache_rewind",
    rule="after cache.rewind a slot goes on from its first tokens only; a state that cannot go back says so and stays",
    fix="drop keys, values and length beyond the given number of tokens, or return False and change nothing",
)
def cache_rewind(subject: ModelSubject) -> Observation:
    model = subject.model
    prefix, first, second = sequences(model, [6, 4, 5], seed=19)
    if model.max_length < 12:
        return does_not_apply("the model's positions are too few")
    cache: KVCache = model.new_cache(1, 11)
    advance(model, cache, [0], [prefix])
    advance(model, cache, [0], [first])
    back = cache.rewind(0, len(prefix))
    held = prefix if back else [*prefix, *first]
    if cache.lengths[0] != len(held):
        return broken(f"rewind to {len(prefix)} says {back}, but lengths is {cache.lengths[0]}")
    if not back:
        return kept("it cannot go back, and says so")
    rows = model.logits(advance(model, cache, [0], [second]))
    expected = _logits(model, [*prefix, *second])[len(prefix) :]
    if problem := _compare(subject, "scores after a rewind and whole", rows, expected):
        return broken(problem)
    return kept(f"back from {len(prefix) + len(first)} to {len(prefix)} tokens")


@check(
    "model.tree",
    rule="a tree computed in tiles over a path cache has the scores of its sequences one by one",
    fix="see TreeTile: prefix of the path, ancestors in the batch, then the mask; keep and kept make the next path",
)
def tree(subject: ModelSubject) -> Observation:
    model = subject.model
    if not isinstance(model, TreeLM):
        return does_not_apply("the model computes whole sequences only (it is no TreeLM)")
    if model.max_length < trees.DEPTH:
        return does_not_apply("the model's positions are too few")
    count = 0
    for what, actual, expected in trees.trials(model):
        if problem := _compare(subject, f"scores of {what} and of the sequence alone", actual, expected):
            return broken(problem)
        count += len(actual)
    return kept(f"{count} tokens in five passes")


@check(
    "model.rows_of_targets",
    rule="token_logprobs with rows is token_logprobs of hidden[rows]",
    fix="compute logits and log-sum-exp once a row, and pick from them for each target",
)
def rows_of_targets(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    if not isinstance(model, TreeLM):
        return does_not_apply("the model computes whole sequences only (it is no TreeLM)")
    hidden = hidden_alone(model, sequences(model, [17])[0])
    count = len(hidden)
    for rows in (torch.arange(count), torch.arange(3 * count) // 4, torch.zeros(0, dtype=torch.int64)):
        targets = (7 * torch.arange(len(rows)) % model.vocab_size).to(model.device)
        logprobs, best = model.token_logprobs(hidden, targets, rows)
        wanted, top = model.token_logprobs(hidden[rows.to(model.device)], targets)
        if problem := _compare(subject, "log-probabilities with and without rows", logprobs, wanted):
            return broken(problem)
        scores = model.logits(hidden[rows.to(model.device)]).float()
        found, expected = (scores.gather(1, chosen[:, None]).squeeze(1) for chosen in (best, top))
        if problem := _compare(subject, "scores of the arg-max with and without rows", found, expected):
            return broken(problem)
    return kept(f"up to {3 * count} targets on {count} rows")


@check(
    "model.positions_matter",
    rule="positions come from the batch: the same tokens further apart have other scores",
    fix="use batch.positions, not the row number",
)
def positions_matter(subject: ModelSubject) -> Observation:
    from dataclasses import replace

    model = subject.model
    if not subject.uses_positions:
        return does_not_apply("the model is declared to have no positions")
    tokens = sequences(model, [6], seed=17)[0]
    batch = pack(model, [tokens])
    if 2 * len(tokens) >= model.max_length or len(tokens) < 2:
        return does_not_apply("the model's positions are too few")
    near = model.logits(model.hidden(batch))
    far = model.logits(model.hidden(replace(batch, positions=batch.positions * 2)))
    gap = difference(near, far)
    if gap <= 1e-6:
        return broken(f"doubling all positions changed no score by more than {gap:.3g}")
    return kept(f"doubling all positions moved a score by {gap:.3g}")


@check(
    "model.too_long",
    rule="a sequence longer than max_length is refused, also when a cache holds its beginning, and so is a full cache",
    fix="compare lengths with max_length before computing, and raise an error of llmasos.api with a hint",
)
def too_long(subject: ModelSubject) -> Observation:
    model = subject.model
    over = [[0] * (model.max_length + 1)]
    try:
        model.hidden(pack(model, over))
    except LlmasosError as error:
        said = error.message
    else:
        return broken(f"{model.max_length + 1} tokens were computed, though max_length is {model.max_length}")
    cache = model.new_cache(1, 2)
    advance(model, cache, [0], [[0]])
    try:
        advance(model, cache, [0], [[0, 0]])
    except LlmasosError:
        pass
    else:
        return broken("three tokens went into a cache of two")
    if cache.lengths[0] != 1:
        return broken(f"a refused pass left {cache.lengths[0]} tokens in the cache instead of 1")
    return kept(f"refused: {said}")


@check(
    "model.deterministic",
    rule="the same batch gives the same bits",
    fix="no dropout, no sampling, no state that one pass leaves for the next",
)
def deterministic(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    parts = sequences(model)
    first = model.logits(model.hidden(pack(model, parts)))
    model.hidden(pack(model, sequences(model, [3], seed=23)))
    if not torch.equal(first, model.logits(model.hidden(pack(model, parts)))):
        return broken("a second pass over the same batch gave other bits")
    return kept(f"{first.numel()} scores equal bit for bit")


@check(
    "model.inputs_unchanged",
    rule="nothing that is given to the model is changed in place",
    fix="clone before writing",
)
def inputs_unchanged(subject: ModelSubject) -> Observation:
    import torch

    model = subject.model
    batch = pack(model, sequences(model))
    tokens, positions = batch.tokens.clone(), batch.positions.clone()
    hidden = model.hidden(batch)
    before = hidden.clone()
    targets = batch.tokens.clone()
    model.logits(hidden)
    model.token_logprobs(hidden, targets)
    cache = model.new_cache(1, len(batch.tokens))
    one = pack(model, [batch.tokens.tolist()[: min(17, model.max_length - 1)]], slots=[0])
    one_tokens, one_positions = one.tokens.clone(), one.positions.clone()
    model.hidden(one, cache)
    for name, now, then in (
        ("tokens", batch.tokens, tokens),
        ("positions", batch.positions, positions),
        ("hidden", hidden, before),
        ("targets", targets, tokens),
        ("tokens of a cached pass", one.tokens, one_tokens),
        ("positions of a cached pass", one.positions, one_positions),
    ):
        if not torch.equal(now, then):
            return broken(f"{name} changed")
    return kept("tokens, positions, hidden and targets")


@check(
    "model.num_parameters",
    rule="num_parameters is positive, the same before and after use, and what the architecture's summary says",
    fix="count each tensor once; tied weights are one tensor",
)
def num_parameters(subject: ModelSubject) -> Observation:
    model = subject.model
    before = model.num_parameters()
    hidden_alone(model, sequences(model, [3])[0])
    after = model.num_parameters()
    if before != after or before <= 0:
        return broken(f"{before} before and {after} after use")
    if subject.parameters is not None and subject.parameters != before:
        return broken(f"the model has {before}, its summary says {subject.parameters}")
    return kept(f"{before:,} parameters")


CHECKS = (
    shapes,
    logits_agree,
    additive,
    causal,
    greedy_agrees,
    batch_is_single,
    cache_is_no_cache,
    cache_copy,
    cache_share,
    cache_rewind,
    tree,
    rows_of_targets,
    positions_matter,
    too_long,
    deterministic,
    inputs_unchanged,
    num_parameters,
)
