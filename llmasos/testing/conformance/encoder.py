"""Checks of the ``EncoderModel`` contract. Letters: N packed tokens, B sequences, D model width, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmasos.contracts.model import EncoderModel
from llmasos.errors import LlmasosError, WeightsError
from llmasos.testing.conformance.check import Observation, broken, check, does_not_apply, kept
from llmasos.testing.conformance.sequences import difference, hidden_alone, pack, sequences

if TYPE_CHECKING:
    from torch import Tensor

HEADS = ("mlm", "nsp", "pooler", "classification")


@dataclass(frozen=True, slots=True)
class EncoderSubject:
    """An encoder under test; ``tolerance`` as for causal models."""

    model: EncoderModel
    tolerance: float = 1e-4
    parameters: int | None = None


@check(
    "encoder.shapes",
    rule="hidden is [N, D] in the model's dtype, finite",
    fix="return one row a packed token",
)
def shapes(subject: EncoderSubject) -> Observation:
    import torch

    model = subject.model
    parts = sequences(model)
    total = sum(map(len, parts))
    hidden = model.hidden(pack(model, parts))
    if hidden.dim() != 2 or hidden.shape[0] != total or hidden.dtype != getattr(torch, model.dtype):
        return broken(
            f"{total} tokens gave {tuple(hidden.shape)} {hidden.dtype}; the model says {model.dtype}"
        )
    if not bool(torch.isfinite(hidden).all()):
        return broken("hidden states are not finite")
    return kept(f"{total} tokens, width {hidden.shape[1]}")


@check(
    "encoder.batch_is_single",
    rule="a sequence has the same hidden states alone and packed with others",
    fix="nothing may cross the borders in starts",
)
def batch_is_single(subject: EncoderSubject) -> Observation:
    model = subject.model
    parts = sequences(model)
    alone = [hidden_alone(model, part) for part in parts]
    for order in (range(len(parts)), [2, 0, 3, 1]):
        hidden = model.hidden(pack(model, [parts[i] for i in order]))
        start = 0
        for place, i in enumerate(order):
            gap = difference(hidden[start : start + len(parts[i])], alone[i])
            start += len(parts[i])
            if gap > subject.tolerance:
                return broken(
                    f"{len(parts[i])} tokens at place {place} differ by {gap:.3g} from the same alone"
                )
    return kept(f"{len(parts)} sequences in two batches")


@check(
    "encoder.sees_both_sides",
    rule="a token sees what is before and what is after it",
    fix="do not mask the future in an encoder",
)
def sees_both_sides(subject: EncoderSubject) -> Observation:
    model = subject.model
    tokens = sequences(model, [9])[0]
    if len(tokens) < 2:
        return does_not_apply("the model's positions are too few")
    base = hidden_alone(model, tokens)
    for name, place, row in (("last", -1, 0), ("first", 0, -1)):
        changed = list(tokens)
        changed[place] = (changed[place] + 1) % model.vocab_size
        if difference(hidden_alone(model, changed)[row], base[row]) == 0.0:
            return broken(f"changing the {name} token did not change the state at the other end")
    return kept("changes at either end reach the other")


@check(
    "encoder.heads",
    rule="heads the checkpoint has give scores of the right shape; those it lacks raise WeightsError naming what is missing",
    fix="list what the checkpoint has in heads, and raise for the rest: never a head with random weights",
)
def heads(subject: EncoderSubject) -> Observation:
    model = subject.model
    if unknown := sorted(model.heads - set(HEADS)):
        return broken(f"unknown heads {', '.join(unknown)}; known: {', '.join(HEADS)}")
    parts = sequences(model, [3, 5])
    batch = pack(model, parts)
    hidden = model.hidden(batch)
    # Scores of pooled states can be asked for without a pooler head: they are given some states of the right shape.
    pooled = model.pooled(hidden, batch) if "pooler" in model.heads else hidden[: len(parts)]
    calls: dict[str, tuple[Callable[[], Tensor], tuple[int, int | None]]] = {
        "mlm": (lambda: model.mlm_logits(hidden), (len(hidden), model.vocab_size)),
        "pooler": (lambda: model.pooled(hidden, batch), (len(parts), hidden.shape[1])),
        "nsp": (lambda: model.nsp_logits(pooled), (len(parts), 2)),
        "classification": (lambda: model.class_logits(pooled), (len(parts), None)),
    }
    for name, (call, shape) in calls.items():
        if name in model.heads:
            scores = call()
            rows, columns = shape
            if (
                scores.dim() != 2
                or scores.shape[0] != rows
                or (columns is not None and scores.shape[1] != columns)
            ):
                return broken(f"{name} gave {tuple(scores.shape)}, not ({rows}, {columns or 'classes'})")
            continue
        try:
            call()
        except WeightsError as error:
            if name not in error.message.lower() and "missing" not in error.message.lower():
                return broken(
                    f"the error for the absent head {name} does not say what is missing: {error.message}"
                )
        else:
            return broken(f"the checkpoint has no {name} head, but it gave scores")
    return kept(f"has {', '.join(sorted(model.heads)) or 'none'}; the others are refused")


@check(
    "encoder.too_long",
    rule="a sequence longer than max_length is refused",
    fix="compare lengths with max_length before computing, and raise an error of llmasos.api with a hint",
)
def too_long(subject: EncoderSubject) -> Observation:
    model = subject.model
    try:
        hidden_alone(model, [0] * (model.max_length + 1))
    except LlmasosError as error:
        return kept(f"refused: {error.message}")
    return broken(f"{model.max_length + 1} tokens were computed, though max_length is {model.max_length}")


@check(
    "encoder.deterministic",
    rule="the same batch gives the same bits, and is not changed",
    fix="no dropout, no state between passes, nothing in place",
)
def deterministic(subject: EncoderSubject) -> Observation:
    import torch

    model = subject.model
    batch = pack(model, sequences(model))
    tokens, positions = batch.tokens.clone(), batch.positions.clone()
    first, second = model.hidden(batch), model.hidden(batch)
    if not torch.equal(first, second):
        return broken("a second pass over the same batch gave other bits")
    if not (torch.equal(batch.tokens, tokens) and torch.equal(batch.positions, positions)):
        return broken("tokens or positions changed in place")
    return kept(f"{first.numel()} values equal bit for bit")


@check(
    "encoder.num_parameters",
    rule="num_parameters is positive and what the architecture's summary says",
    fix="count each tensor once; tied weights are one tensor",
)
def num_parameters(subject: EncoderSubject) -> Observation:
    count = subject.model.num_parameters()
    if count <= 0 or (subject.parameters is not None and subject.parameters != count):
        return broken(f"the model has {count}, its summary says {subject.parameters}")
    return kept(f"{count:,} parameters")


CHECKS = (shapes, batch_is_single, sees_both_sides, heads, too_long, deterministic, num_parameters)
