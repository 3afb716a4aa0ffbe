"""Each check is shown a double that breaks exactly its rule, and must say so: a check that cannot fail proves nothing."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from llmasos.contracts.model import KVCache, PackedBatch
from llmasos.contracts.runtime import AttentionLayout
from llmasos.contracts.tokenizer import Encoding, SpecialTokens
from llmasos.errors import WeightsError
from llmasos.testing.conformance import Check, backend, encoder, model, tokenizer
from llmasos.testing.conformance.oracle import oracle
from llmasos.testing.doubles import ByteTokenizer, ScriptedCache, ScriptedModel


def breaks(checks: Sequence[Check[Any]], subject: Any, only: str = "") -> set[str]:
    """Names of the broken rules, of all checks or of one."""
    findings = [check.run(subject) for check in checks if only in ("", check.name)]
    for finding in findings:
        if finding.outcome == "broken":
            assert finding.rule
            assert finding.observation
            assert finding.fix
            assert str(finding).count("\n") == 3
    return {finding.check for finding in findings if finding.outcome == "broken"}


# ---- tokenizers -------------------------------------------------------------------------------------------------------


class LosesNul(ByteTokenizer):
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return super().decode([i for i in ids if i != 0], skip_special_tokens=skip_special_tokens)


class StopsAtNul(ByteTokenizer):
    def encode(self, text: str, **options: Any) -> list[int]:
        return super().encode(text.split("\x00")[0], **options)

    def encode_offsets(self, text: str) -> Encoding:
        return super().encode_offsets(text.split("\x00")[0])


class AddsToEmpty(ByteTokenizer):
    def encode(self, text: str, **options: Any) -> list[int]:
        return super().encode(text, **options) or [32]


class PadsBatches(ByteTokenizer):
    def encode_batch(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        rows = super().encode_batch(texts, **options)
        longest = max(map(len, rows), default=0)
        return [row + [0] * (longest - len(row)) for row in rows]


class ByteOffsets(ByteTokenizer):
    def encode_offsets(self, text: str) -> Encoding:
        ids = self.encode(text)
        return Encoding(tuple(ids), tuple((i, i + 1) for i in range(len(ids))))


class OffsetsWithAHole(ByteTokenizer):
    def encode_offsets(self, text: str) -> Encoding:
        found = super().encode_offsets(text)
        return Encoding(
            found.ids, tuple((start, start) if start == 3 else (start, end) for start, end in found.offsets)
        )


class AlwaysParses(ByteTokenizer):
    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        return super().encode(text, add_special_tokens=add_special_tokens, parse_special=True)


class NeverParses(ByteTokenizer):
    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        return super().encode(text, add_special_tokens=add_special_tokens, parse_special=False)

    def encode_offsets(self, text: str) -> Encoding:
        spans = [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]
        return Encoding(tuple(self.encode(text)), tuple(spans))


class ForgetsBos(ByteTokenizer):
    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        return super().encode(text, parse_special=parse_special)


class KeepsSpecial(ByteTokenizer):
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return super().decode(ids)


class SmallVocabulary(ByteTokenizer):
    """Counts the bytes and forgets the added tokens."""

    vocab_size = 256

    def token(self, token_id: int) -> str:
        return "<eos>" if token_id == 257 else "<bos>" if token_id == 256 else super().token(token_id)


class NoBounds(ByteTokenizer):
    def token(self, token_id: int) -> str:
        return super().token(token_id % self.vocab_size)


class StrictDecode(ByteTokenizer):
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = super().decode(ids, skip_special_tokens=skip_special_tokens)
        return bytes(i for i in ids if i < 256).decode("utf-8") if max(ids, default=0) < 256 else text


class SurrogateDecode(ByteTokenizer):
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        whole = super().decode(ids, skip_special_tokens=skip_special_tokens)
        return (
            bytes(i for i in ids if i < 256).decode("utf-8", "surrogateescape")
            if "\ufffd" in whole and len(ids) == 1
            else whole
        )


class SharesItsLists(ByteTokenizer):
    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[tuple[str, bool, bool], list[int]] = {}

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        key = (text, add_special_tokens, parse_special)
        if key not in self._cache:
            self._cache[key] = super().encode(
                text, add_special_tokens=add_special_tokens, parse_special=parse_special
            )
        return self._cache[key]


class SharesASetting(ByteTokenizer):
    """Keeps ``parse_special`` on the object between two steps; a barrier makes the race certain instead of rare."""

    def __init__(self) -> None:
        super().__init__()
        self._parse = True
        self._main = threading.get_ident()
        self._barrier = threading.Barrier(4, timeout=2)

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        self._parse = parse_special
        if threading.get_ident() != self._main and not self._barrier.broken:
            with contextlib.suppress(threading.BrokenBarrierError):
                self._barrier.wait()
        return super().encode(
            text + "<eos>", add_special_tokens=add_special_tokens, parse_special=self._parse
        )


class RandomDigest(ByteTokenizer):
    def digest(self) -> str:
        return f"{id(self):064x}"


class CountingDigest(ByteTokenizer):
    calls = 0

    def digest(self) -> str:
        self.calls += 1
        return f"{self.calls:064x}"


class InventsATemplate(ByteTokenizer):
    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return "\n".join(message["content"] for message in messages)


class DropsTheMessage(ByteTokenizer):
    chat_template = "{{ nothing }}"

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return ""


TOKENIZERS: list[tuple[Callable[[], Any], str]] = [
    (LosesNul, "tokenizer.round_trip"),
    (StopsAtNul, "tokenizer.round_trip"),
    (AddsToEmpty, "tokenizer.empty"),
    (PadsBatches, "tokenizer.batch_is_single"),
    (ByteOffsets, "tokenizer.offsets_cover"),
    (OffsetsWithAHole, "tokenizer.offsets_cover"),
    (AlwaysParses, "tokenizer.special_stays_text"),
    (NeverParses, "tokenizer.special_is_parsed"),
    (lambda: ForgetsBos(adds_bos=True), "tokenizer.adds_special"),
    (KeepsSpecial, "tokenizer.skip_special"),
    (SmallVocabulary, "tokenizer.ids_in_vocabulary"),
    (NoBounds, "tokenizer.ids_in_vocabulary"),
    (StrictDecode, "tokenizer.decode_is_total"),
    (SurrogateDecode, "tokenizer.decode_is_total"),
    (SharesItsLists, "tokenizer.deterministic"),
    (SharesASetting, "tokenizer.thread_safe"),
    (RandomDigest, "tokenizer.digest_stable"),
    (CountingDigest, "tokenizer.digest_stable"),
    (InventsATemplate, "tokenizer.chat_template"),
    (DropsTheMessage, "tokenizer.chat_template"),
]


@pytest.mark.parametrize(("make", "rule"), TOKENIZERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_tokenizer_is_found(make: Callable[[], Any], rule: str) -> None:
    keep = [make(), make()]  # alive together, so that identities differ
    assert rule in breaks(tokenizer.CHECKS, tokenizer.TokenizerSubject(keep[0], reopen=lambda: keep[1]), rule)


def test_every_tokenizer_check_is_shown_to_fail() -> None:
    assert {rule for _, rule in TOKENIZERS} == {check.name for check in tokenizer.CHECKS}


class Lowers(ByteTokenizer):
    def encode(self, text: str, **options: Any) -> list[int]:
        return super().encode(text.lower(), **options)


class LowersSlowly(ByteTokenizer):
    """Drops one letter a pass: lossy, and never done."""

    def encode(self, text: str, **options: Any) -> list[int]:
        return super().encode(text[1:] if text.startswith("a") else text, **options)


def test_a_lossy_tokenizer_needs_a_fixed_point() -> None:
    (check,) = [item for item in tokenizer.CHECKS if item.name == "tokenizer.round_trip"]
    assert check.run(tokenizer.TokenizerSubject(Lowers())).outcome == "broken"
    assert check.run(tokenizer.TokenizerSubject(Lowers(), lossless=False)).outcome == "kept"
    assert check.run(tokenizer.TokenizerSubject(LowersSlowly(), lossless=False)).outcome == "broken"


def test_checks_about_special_tokens_do_not_apply_without_any() -> None:
    double = ByteTokenizer()
    double.special = SpecialTokens()
    outcomes = {
        check.name: check.run(tokenizer.TokenizerSubject(double)).outcome for check in tokenizer.CHECKS
    }
    assert outcomes["tokenizer.special_stays_text"] == "does not apply"
    assert outcomes["tokenizer.skip_special"] == "does not apply"


# ---- models -----------------------------------------------------------------------------------------------------------


class WrongRows(ScriptedModel):
    def logits(self, hidden: Tensor) -> Tensor:
        return hidden[:, :-1].clone()


class WrongResultType(ScriptedModel):
    def token_logprobs(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, best = super().token_logprobs(hidden, targets)
        return logprobs.double(), best


class OtherTemperature(ScriptedModel):
    def token_logprobs(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return super().token_logprobs(hidden / 1.01, targets)


class WrongArgMax(ScriptedModel):
    def token_logprobs(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, best = super().token_logprobs(hidden, targets)
        return logprobs, (best + 1) % self.vocab_size


class SeesTheFuture(ScriptedModel):
    """The mean over the sequence leaks into every row."""

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = super().hidden(batch, cache)
        for start, end in zip(batch.starts, batch.starts[1:], strict=False):
            if end > start:
                rows[start:end] = rows[start:end] + 0.01 * rows[start:end].mean(0)
        return rows


class IgnoresTokens(ScriptedModel):
    def _row(self, history: Sequence[tuple[int, int]]) -> Tensor:
        return super()._row([(0, position) for _, position in history])


class CachedPositionOffByOne(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        if cache is not None:
            past = batch.slots is not None and any(cache.lengths[slot] for slot in batch.slots)
            batch = replace(batch, positions=batch.positions + int(past))
        return super().hidden(batch, cache)


class CacheLosesAToken(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = super().hidden(batch, cache)
        if isinstance(cache, ScriptedCache):
            for slot in batch.slots or ():
                if len(cache.held[slot]) > 3:
                    cache.held[slot] = cache.held[slot][1:]
        return rows


class CountsTwice(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = super().hidden(batch, cache)
        if cache is not None:
            for slot in batch.slots or ():
                cache.lengths[slot] += 1
        return rows


class CrossesBorders(ScriptedModel):
    """Treats a packed batch as one sequence."""

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        if cache is None and batch.size > 1:
            batch = replace(batch, starts=(0, batch.starts[-1]))
        return super().hidden(batch, cache)


class SharedCache(ScriptedCache):
    def copy(self, source: int, target: int) -> None:
        self.held[target] = self.held[source]
        self.lengths[target] = self.lengths[source]


class LengthOnlyCache(ScriptedCache):
    def rewind(self, slot: int, length: int) -> bool:
        self.lengths[slot] = length
        return True


class OverlappingCache(ScriptedCache):
    def share(self, source: int, target: int, length: int) -> None:
        self.held[target], self.lengths[target] = self.held[source], length


class SharesMoreThanAsked(ScriptedModel):
    """What another slot holds beyond the shared tokens is seen, too."""

    def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
        return OverlappingCache(slots, capacity)


class RewindsTheCountOnly(ScriptedModel):
    """rewind changes the number and keeps the tokens."""

    def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
        return LengthOnlyCache(slots, capacity)


class TreeWithoutMask(ScriptedModel):
    """Siblings see each other."""

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        if batch.tree is not None:
            batch = replace(batch, tree=replace(batch.tree, visible=(None,) * batch.size))
        return super().hidden(batch, cache)


class TreeKeepsTheWrongRows(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        if batch.tree is not None and batch.tree.kept:
            kept = tuple((begin, end - 1) for begin, end in batch.tree.kept)
            batch = replace(batch, tree=replace(batch.tree, kept=kept))
        return super().hidden(batch, cache)


class RowsShifted(ScriptedModel):
    """The target after the one asked for."""

    def token_logprobs(
        self, hidden: Tensor, targets: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if rows is not None:
            rows = (rows + 1).clamp(max=len(hidden) - 1)
        return super().token_logprobs(hidden, targets, rows)


class AliasesSlots(ScriptedModel):
    """copy shares the list, and a pass appends to it in place."""

    def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
        return SharedCache(slots, capacity)

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        before = list(cache.held) if isinstance(cache, ScriptedCache) else []
        rows = super().hidden(batch, cache)
        if isinstance(cache, ScriptedCache):
            for slot in batch.slots or ():
                before[slot][:] = cache.held[slot]
                cache.held[slot] = before[slot]
        return rows


class KeepsAfterReset(ScriptedCache):
    def reset(self, slot: int) -> None:
        self.lengths[slot] = 0


class ForgetsToReset(ScriptedModel):
    def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
        return KeepsAfterReset(slots, capacity)


class RowNumbersAsPositions(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        positions = torch.cat(
            [
                torch.arange(end - start) + (cache.lengths[batch.slots[b]] if cache and batch.slots else 0)
                for b, (start, end) in enumerate(zip(batch.starts, batch.starts[1:], strict=False))
            ]
        )
        return super().hidden(replace(batch, positions=positions), cache)


class NoLimit(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        limit, self.max_length = self.max_length, 10**9
        try:
            return super().hidden(batch, cache)
        finally:
            self.max_length = limit


class CutsSilently(ScriptedModel):
    """Full caches drop what does not fit."""

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        if cache is not None:
            cache.capacity = max(cache.capacity, 10**6)
        return super().hidden(batch, cache)


class Drops(ScriptedModel):
    """Dropout left on."""

    passes = 0

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        self.passes += 1
        return super().hidden(batch, cache) * (1 + 1e-7 * self.passes)


class NormalisesInPlace(ScriptedModel):
    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.sub_(hidden.amax(-1, keepdim=True))


class ShiftsPositionsInPlace(ScriptedModel):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = super().hidden(batch, cache)
        batch.positions.add_(1)
        return rows


class CountsCaches(ScriptedModel):
    calls = 0

    def num_parameters(self) -> int:
        self.calls += 1
        return self.calls


class GreedyByAnotherRule(ScriptedModel):
    """Scores of a cached pass prefer another token, by little enough for the caches to look alike to a loose eye."""

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = super().hidden(batch, cache)
        if cache is not None:
            rows[:, 0] = rows.amax(-1) + 1
        return rows


MODELS: list[tuple[Callable[..., Any], str]] = [
    (WrongRows, "model.shapes"),
    (WrongResultType, "model.shapes"),
    (OtherTemperature, "model.logits_agree"),
    (WrongArgMax, "model.logits_agree"),
    (SeesTheFuture, "model.additive"),
    (SeesTheFuture, "model.causal"),
    (IgnoresTokens, "model.causal"),
    (GreedyByAnotherRule, "model.greedy_agrees"),
    (CachedPositionOffByOne, "model.greedy_agrees"),
    (CachedPositionOffByOne, "model.cache_is_no_cache"),
    (CacheLosesAToken, "model.cache_is_no_cache"),
    (CountsTwice, "model.cache_is_no_cache"),
    (CrossesBorders, "model.batch_is_single"),
    (AliasesSlots, "model.cache_copy"),
    (SharesMoreThanAsked, "model.cache_share"),
    (RewindsTheCountOnly, "model.cache_rewind"),
    (TreeWithoutMask, "model.tree"),
    (TreeKeepsTheWrongRows, "model.tree"),
    (RowsShifted, "model.rows_of_targets"),
    (ForgetsToReset, "model.cache_copy"),
    (RowNumbersAsPositions, "model.positions_matter"),
    (NoLimit, "model.too_long"),
    (CutsSilently, "model.too_long"),
    (Drops, "model.deterministic"),
    (NormalisesInPlace, "model.inputs_unchanged"),
    (ShiftsPositionsInPlace, "model.inputs_unchanged"),
    (CountsCaches, "model.num_parameters"),
]


@pytest.mark.parametrize(("make", "rule"), MODELS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_model_is_found(make: Callable[..., Any], rule: str) -> None:
    assert rule in breaks(model.CHECKS, model.ModelSubject(make(40, max_length=64)), rule)


def test_every_model_check_is_shown_to_fail() -> None:
    assert {rule for _, rule in MODELS} == {check.name for check in model.CHECKS}


def test_parameters_are_compared_with_the_summary() -> None:
    assert breaks(model.CHECKS, model.ModelSubject(ScriptedModel(40), parameters=2)) == {
        "model.num_parameters"
    }


# ---- encoders ---------------------------------------------------------------------------------------------------------


class TinyEncoder:
    """Each token becomes its embedding, plus the mean of its sequence, plus its position: right, and an encoder."""

    vocab_size, max_length, device, dtype = 30, 40, "cpu", "float32"
    config: ClassVar[dict[str, Any]] = {"model_type": "tiny"}
    heads = frozenset({"mlm", "pooler"})

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(self.vocab_size, 8, generator=generator)

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = []
        for start, end in zip(batch.starts, batch.starts[1:], strict=False):
            if end - start > self.max_length:
                raise WeightsError(f"{end - start} tokens do not fit {self.max_length} positions")
            x = self.table[batch.tokens[start:end]]
            rows.append(x + x.mean(0) + batch.positions[start:end, None] / 10)
        return torch.cat(rows)

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.table.T

    def pooled(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        return hidden[list(batch.starts[:-1])].tanh()

    def nsp_logits(self, pooled: Tensor) -> Tensor:
        raise WeightsError("this checkpoint has no nsp head: cls.seq_relationship is missing")

    def class_logits(self, pooled: Tensor) -> Tensor:
        raise WeightsError("this checkpoint has no classification head: classifier is missing")

    def num_parameters(self) -> int:
        return self.table.numel()


class HalfRows(TinyEncoder):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        return super().hidden(batch, cache).half()


class MixesSequences(TinyEncoder):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = super().hidden(batch, cache)
        return rows + 0.1 * rows.mean(0)


class LooksBack(TinyEncoder):
    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        rows = []
        for start, end in zip(batch.starts, batch.starts[1:], strict=False):
            if end - start > self.max_length:
                raise WeightsError("too long")
            x = self.table[batch.tokens[start:end]]
            rows.append(x.cumsum(0))
        return torch.cat(rows)


class RandomHead(TinyEncoder):
    def nsp_logits(self, pooled: Tensor) -> Tensor:
        return torch.zeros(pooled.shape[0], 2)


class NarrowHead(TinyEncoder):
    def mlm_logits(self, hidden: Tensor) -> Tensor:
        return super().mlm_logits(hidden)[:, :7]


class AnyLength(TinyEncoder):
    max_length = 20

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        self.max_length = 10**9
        rows = super().hidden(batch, cache)
        del self.max_length
        return rows


class Wobbles(TinyEncoder):
    passes = 0

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        self.passes += 1
        return super().hidden(batch, cache) * (1 + 1e-6 * self.passes)


class CountsNothing(TinyEncoder):
    def num_parameters(self) -> int:
        return 0


ENCODERS: list[tuple[Callable[[], Any], str]] = [
    (HalfRows, "encoder.shapes"),
    (MixesSequences, "encoder.batch_is_single"),
    (LooksBack, "encoder.sees_both_sides"),
    (RandomHead, "encoder.heads"),
    (NarrowHead, "encoder.heads"),
    (AnyLength, "encoder.too_long"),
    (Wobbles, "encoder.deterministic"),
    (CountsNothing, "encoder.num_parameters"),
]


def test_the_right_encoder_passes() -> None:
    assert breaks(encoder.CHECKS, encoder.EncoderSubject(TinyEncoder(), parameters=240)) == set()


@pytest.mark.parametrize(("make", "rule"), ENCODERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_encoder_is_found(make: Callable[[], Any], rule: str) -> None:
    assert rule in breaks(encoder.CHECKS, encoder.EncoderSubject(make()), rule)


def test_every_encoder_check_is_shown_to_fail() -> None:
    assert {rule for _, rule in ENCODERS} == {check.name for check in encoder.CHECKS}


# ---- ops --------------------------------------------------------------------------------------------------------------


def right(op: Any) -> Callable[..., Any]:
    """An op that is right: the definition, rounded to the element type of its input."""

    def call(*arguments: Any) -> Any:
        found = oracle(op)(*arguments)
        if op == "token_logprobs":
            return found[0].float(), found[1]
        floating = next(a for a in arguments if isinstance(a, Tensor) and a.is_floating_point())
        return found.to(floating.dtype)

    return call


def off_by(amount: float, op: Any = "linear") -> Callable[..., Any]:
    return lambda *arguments: right(op)(*arguments) + amount


def wrong_when_strided(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Reads memory as if rows followed each other."""
    packed = torch.as_strided(x, x.shape, (x.shape[1], 1)) if x.numel() and not x.is_contiguous() else x
    return right("rms_norm")(packed, weight, eps)


def fails_when_empty(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.shape[0] == 0:
        raise RuntimeError("no rows")
    return right("rms_norm")(x, weight, eps)


def ignores_the_mask(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    return right("attention")(q, k, v, replace(layout, causal=False), scale)


def aligns_left(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """Queries as the first tokens of their keys instead of the last: wrong only when keys are cached."""
    if not layout.causal or layout.k_lengths is not None or layout.before is not None:
        return right("attention")(q, k, v, layout, scale)
    starts = layout.k_starts[:-1]
    counts = [b - a for a, b in zip(layout.q_starts, layout.q_starts[1:], strict=False)]
    return right("attention")(q, k, v, replace(layout, k_starts=starts, k_lengths=tuple(counts)), scale)


def sees_siblings(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """Right but for the masks of trees."""
    if layout.visible is not None:
        layout = replace(layout, visible=(None,) * len(layout.visible))
    return right("attention")(q, k, v, layout, scale)


def first_target_of_a_row(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Right but where a row has more than one target."""
    if rows is not None and len(rows):
        targets = targets[torch.searchsorted(rows, rows)]
    return right("token_logprobs")(x, weight, bias, targets, rows)


def wrong_group(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """Query head h reads key head h % Hk: right for multi-head, wrong for grouped-query attention."""
    order = [h % k.shape[1] for h in range(q.shape[1])]
    return right("attention")(q, k[:, order], v[:, order], layout, scale)


def in_place(x: Tensor, kind: str) -> Tensor:
    return x.copy_(right("activation")(x, kind))


def widens(x: Tensor, kind: str) -> Tensor:
    return oracle("activation")(x, kind)


_calls = itertools.count()


def jitters(x: Tensor, kind: str) -> Tensor:
    return right("activation")(x, kind) + 1e-6 * (next(_calls) % 2)


OPS: list[tuple[str, Callable[..., Any], str]] = [
    ("linear", off_by(1e-3), "op.reference"),
    ("linear", off_by(1e-3), "op.definition"),
    ("linear", off_by(1e-3), "op.accepted"),
    ("linear", off_by(float("nan")), "op.reference"),
    ("linear", off_by(float("nan")), "op.accepted"),
    ("rms_norm", wrong_when_strided, "op.reference"),
    ("rms_norm", fails_when_empty, "op.reference"),
    ("rms_norm", fails_when_empty, "op.accepted"),
    ("attention", ignores_the_mask, "op.definition"),
    ("attention", aligns_left, "op.reference"),
    ("attention", wrong_group, "op.reference"),
    ("attention", sees_siblings, "op.reference"),
    ("attention", sees_siblings, "op.accepted"),
    ("token_logprobs", first_target_of_a_row, "op.definition"),
    ("activation", in_place, "op.inputs_unchanged"),
    ("activation", widens, "op.result_type"),
    ("activation", jitters, "op.deterministic"),
]


@pytest.mark.parametrize(
    ("op", "call", "rule"), OPS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_wrong_op_is_found(op: Any, call: Callable[..., Any], rule: str) -> None:
    assert rule in breaks(backend.OP_CHECKS, backend.OpSubject(op, call, right(op)), rule)


def test_every_op_check_is_shown_to_fail() -> None:
    assert {rule for _, _, rule in OPS} == {check.name for check in backend.OP_CHECKS}


@pytest.mark.parametrize("op", ["linear", "attention", "token_logprobs", "rotary"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_op_passes(op: Any, dtype: Any) -> None:
    assert breaks(backend.OP_CHECKS, backend.OpSubject(op, right(op), right(op), dtype=dtype)) == set()


class Wanders:
    """Another answer each time."""

    calls = 0

    def devices(self) -> tuple[str, ...]:
        self.calls += 1
        return ("cpu",) * self.calls

    def dtypes(self, device: str) -> tuple[str, ...]:
        return ("float32",)


class ServesAnything:
    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def dtypes(self, device: str) -> tuple[str, ...]:
        return ("float32",)


@pytest.mark.parametrize("make", [Wanders, ServesAnything])
def test_a_wrong_backend_is_found(make: Callable[[], Any]) -> None:
    assert breaks(backend.CHECKS, make()) == {"backend.devices"}
