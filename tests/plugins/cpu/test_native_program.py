"""Whole forward passes by the native library against the plain model: families, caches, trees, heads."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from native_builds import LEVELS, native
from torch import Tensor

from llmasos.api import AttentionLayout, EvaluationError, PackedBatch, StackInput, TreeTile
from llmasos_cpu.library import Library, find
from llmasos_cpu.stack import NativeStack, compile_stack, takes
from llmasos_cpu.structures import BufferStruct, StepStruct
from llmasos_transformer.model import Decoder, Encoder
from llmasos_transformer.ops import ReferenceOps
from llmasos_transformer.path import key_spans
from llmasos_transformer.spec import Rope, StackSpec

OK, BAD_ARGUMENT, BAD_SHAPE = 0, -1, -2

LLAMA = StackSpec(
    family="llama",
    kind="decoder",
    vocab_size=1000,
    max_length=256,
    layers=3,
    width=48,
    query_heads=6,
    key_heads=2,
    head_width=10,
    inner=96,
    norm="rms",
    norm_eps=1e-5,
    norm_at="pre",
    activation="silu",
    gated=True,
    attention_bias=False,
    feed_forward_bias=False,
    score_scale=10**-0.5,
    rope=Rope(width=10),
)
GPT2 = replace(
    LLAMA,
    family="gpt2",
    query_heads=4,
    key_heads=4,
    head_width=12,
    inner=100,
    norm="layer",
    activation="gelu_new",
    gated=False,
    attention_bias=True,
    feed_forward_bias=True,
    rope=None,
    tied=False,
    score_scale_by_layer=True,
)
BERT = replace(
    GPT2,
    family="bert",
    kind="encoder",
    norm_at="post",
    activation="gelu",
    types=2,
    score_scale_by_layer=False,
)
STACKS = {
    "llama": LLAMA,
    "partly turned": replace(LLAMA, rope=Rope(width=6), attention_bias=True),
    "gpt2": GPT2,
    "bert": BERT,
}
DECODERS = {name: spec for name, spec in STACKS.items() if spec.kind == "decoder"}


def model_of(spec: StackSpec) -> Decoder | Encoder:
    torch.manual_seed(11)
    if spec.kind == "encoder":
        model = Encoder(ReferenceOps(), spec, {}, dtype="float32", device="cpu", head_tensors={})
    else:
        model = Decoder(ReferenceOps(), spec, {}, dtype="float32", device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if norm else noise * (0.15 if parameter.dim() > 1 else 0.3))
    return model.eval()


def library_of(level: str) -> Library:
    found = find(Path(native(level)._name))
    assert isinstance(found, Library)
    assert found.isa == level
    return found


def runner_of(level: str, model: Decoder | Encoder, kind: str = "fp32") -> NativeStack:
    plan = model.plan()
    assert takes(plan)
    return compile_stack(library_of(level), plan, kind)


def sequences(lengths: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """(tokens, positions, starts)."""
    generator = torch.Generator().manual_seed(seed)
    starts = tuple(sum(lengths[:i]) for i in range(len(lengths) + 1))
    tokens = torch.randint(1000, (starts[-1],), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths])
    return tokens, positions, starts


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", STACKS)
@torch.inference_mode()
def test_hidden_states_of_packed_sequences(level: str, name: str) -> None:
    model = model_of(STACKS[name])
    runner = runner_of(level, model)
    for lengths in ((1,), (3, 1, 4), (70, 1, 0, 130, 33), (256,)):
        tokens, positions, starts = sequences(lengths)
        types = tokens % 2 if name == "bert" else None
        batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, token_types=types)
        expected = model.hidden(batch)
        layout = AttentionLayout(starts, starts, causal=STACKS[name].kind == "decoder")
        found = runner(StackInput(tokens, positions, layout, types))
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
        # Rows in any order, and more than once.
        wanted = torch.tensor([tokens.shape[0] - 1, 0, 0])
        found = runner(StackInput(tokens, positions, layout, types, wanted=wanted))
        torch.testing.assert_close(found, expected[wanted], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_generation_with_a_cache(level: str, name: str) -> None:
    """Prefill of several sequences at once, then a token for each a step: the tokens and the states of the model."""
    model, ours = model_of(DECODERS[name]), model_of(DECODERS[name])
    assert isinstance(model, Decoder)
    assert isinstance(ours, Decoder)
    ours.runner = runner_of(level, ours)
    lengths = [5, 1, 40]
    tokens, positions, starts = sequences(tuple(lengths))
    mine, theirs = ours.new_cache(3, 64), model.new_cache(3, 64)
    slots = (2, 0, 1)
    for _ in range(8):
        batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, slots=slots)
        wanted = torch.tensor([end - 1 for end in starts[1:]])
        found, expected = ours.hidden(batch, mine)[wanted], model.hidden(batch, theirs)[wanted]
        torch.testing.assert_close(found, expected, rtol=3e-5, atol=3e-5)
        tokens = model.logits(expected).argmax(-1)
        assert torch.equal(tokens, model.logits(found).argmax(-1))
        positions, starts = torch.tensor([theirs.lengths[slot] for slot in slots]), (0, 1, 2, 3)
    rows = slice(2 * 64, 2 * 64 + 12)  # where slot 2 is at home
    torch.testing.assert_close(mine.keys[:, rows], theirs.keys[:, rows], rtol=3e-5, atol=3e-5)
    torch.testing.assert_close(mine.values[:, rows], theirs.values[:, rows], rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cache_type", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.inference_mode()
def test_tiles_of_a_tree(level: str, cache_type: torch.dtype) -> None:
    model = model_of(LLAMA)
    assert isinstance(model, Decoder)
    runner = runner_of(level, model)
    path = model.new_path(200)
    keys, values = (
        torch.full((LLAMA.layers, 200, LLAMA.key_heads, LLAMA.head_width), torch.nan, dtype=cache_type)
        for _ in range(2)
    )
    for prefix, lengths, masked in ((0, (30,), False), (30, (1, 5, 20), True), (12, (2, 40), True)):
        tokens, positions, starts = sequences(lengths, seed=prefix)
        positions = positions + prefix
        masks = tuple(
            (torch.rand(n, n) < 0.7).tril() | torch.eye(n, dtype=torch.bool) if masked else None
            for n in lengths
        )
        wanted = torch.arange(0, starts[-1], 2)
        tile = TreeTile(
            prefix=(prefix,) * len(lengths),
            ancestors=((),) * len(lengths),
            visible=masks,
            keep=prefix,
            kept=((0, starts[-1]),) if prefix == 0 else (),
            wanted=wanted,
        )
        length = path.length
        layout = AttentionLayout(
            starts,
            tuple(length + start for start in starts[:-1]),
            True,
            before=key_spans(tile, length),
            visible=masks,
        )
        rows = torch.arange(length, length + starts[-1])
        found = runner(
            StackInput(tokens, positions, layout, keys=keys, values=values, rows=rows, wanted=wanted)
        )
        batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, tree=tile)
        expected = model.hidden(batch, path)
        allowed = 5e-5 if cache_type == torch.float32 else 0.05
        torch.testing.assert_close(found, expected, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("level", LEVELS)
@torch.inference_mode()
def test_bf16_weights_stay_close(level: str) -> None:
    model = model_of(GPT2)
    tokens, positions, starts = sequences((60, 3))
    layout = AttentionLayout(starts, starts, causal=True)
    expected = model.hidden(PackedBatch(tokens=tokens, positions=positions, starts=starts))
    found = runner_of(level, model, kind="bf16")(StackInput(tokens, positions, layout))
    difference = (found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert 0 < difference < 0.02


@torch.inference_mode()
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    runner = runner_of("portable", model_of(LLAMA))
    before = torch.get_num_threads()
    for lengths in ((1,), (100, 7)):
        tokens, positions, starts = sequences(lengths)
        results = []
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                results.append(runner(StackInput(tokens, positions, AttentionLayout(starts, starts, True))))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_an_empty_pass_gives_nothing() -> None:
    runner = runner_of("portable", model_of(LLAMA))
    none = torch.zeros(0, dtype=torch.int64)
    assert runner(StackInput(none, none, AttentionLayout((0,), (0,), True))).shape == (0, LLAMA.width)
    two = torch.tensor([0, 1])
    layout = AttentionLayout((0, 2), (0, 2), True)
    assert runner(StackInput(two, two, layout, wanted=none)).shape == (0, LLAMA.width)


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({"tokens": torch.tensor([1, 1000])}, ((0, 2), (0, 2))),
        ({"tokens": torch.tensor([-1, 5])}, ((0, 2), (0, 2))),
        ({"positions": torch.tensor([0, -1])}, ((0, 2), (0, 2))),
        ({"wanted": torch.tensor([2])}, ((0, 2), (0, 2))),
        ({}, ((0, 1), (0, 1))),
        ({}, ((0, 2), (0, 3))),
        ({}, ((1, 2), (0, 2))),
    ],
    ids=["token", "negative", "position", "wanted", "short", "keys", "start"],
)
def test_passes_that_do_not_fit_are_refused(
    changes: dict[str, Tensor], layout: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    runner = runner_of("portable", model_of(LLAMA))
    fields = {"tokens": torch.tensor([1, 2]), "positions": torch.tensor([0, 1]), **changes}
    with pytest.raises(EvaluationError, match="is refused"):
        runner(StackInput(layout=AttentionLayout(*layout, causal=True), **fields))


def test_cache_rows_outside_the_cache_are_refused() -> None:
    runner = runner_of("portable", model_of(LLAMA))
    slab = torch.zeros(LLAMA.layers, 4, LLAMA.key_heads, LLAMA.head_width)
    two = torch.tensor([0, 1])
    layout = AttentionLayout((0, 2), (0,), True, (2,))
    runner(StackInput(two, two, layout, keys=slab, values=slab.clone(), rows=two))
    for slabs, rows in ((slab, torch.tensor([3, 4])), (slab[:2], two)):
        with pytest.raises(EvaluationError):
            runner(StackInput(two, two, layout, keys=slabs, values=slabs, rows=rows))


@torch.inference_mode()
def test_a_gate_of_any_width_is_filled_up_with_zeros() -> None:
    model = model_of(replace(LLAMA, inner=41))
    tokens, positions, starts = sequences((7,))
    expected = model.hidden(PackedBatch(tokens=tokens, positions=positions, starts=starts))
    found = runner_of("portable", model)(StackInput(tokens, positions, AttentionLayout(starts, starts, True)))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "change", [{"feed_forward_bias": True}, {"activation": "swish"}], ids=["gate with bias", "activation"]
)
def test_what_the_library_has_no_steps_for_is_not_taken(change: dict[str, object]) -> None:
    assert takes(model_of(LLAMA).plan())
    assert not takes(model_of(replace(LLAMA, **change)).plan())


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ({"op": 8}, BAD_ARGUMENT),
        ({"op": -1}, BAD_ARGUMENT),
        ({"op": 1, "in_": 1, "out": 0}, BAD_ARGUMENT),  # nothing has written buffer 1
        ({"op": 1, "in_": 0, "out": 9}, BAD_ARGUMENT),
        ({"op": 1, "in_": 0, "out": 0}, BAD_ARGUMENT),
        ({"op": 1, "in_": 0, "out": 1, "kind": 7}, BAD_ARGUMENT),
        ({"op": 1, "in_": 0, "out": 2}, BAD_SHAPE),
        ({"op": 2, "in_": 0, "out": 1}, BAD_ARGUMENT),  # no matrix
        ({"op": 5, "in_": 0, "query_heads": 3, "key_heads": 2, "width": 1}, BAD_SHAPE),
        ({"op": 6, "in_": 0, "out": 1, "query_heads": 0, "key_heads": 1, "width": 8}, BAD_ARGUMENT),
        ({"op": 7, "in_": 0, "out": 1}, BAD_SHAPE),  # buffer 1 has a row for each token
    ],
    ids=str,
)
def test_steps_that_do_not_fit_are_refused(step: dict[str, int], status: int) -> None:
    library = native("portable")
    table = torch.zeros(3, 8)
    first = StepStruct(op=0, in_=-1, out=0, other=-1, weight=table.data_ptr(), weight_rows=3)
    steps = (StepStruct * 2)(first, StepStruct(**{"in_": -1, "out": -1, "other": -1, **step}))
    buffers = (BufferStruct * 3)(BufferStruct(width=8), BufferStruct(width=8), BufferStruct(width=9))
    handle = ctypes.c_void_p()
    assert library.llmc_program_new(steps, 1, buffers, 3, ctypes.byref(handle)) == OK
    library.llmc_program_free(handle)
    assert library.llmc_program_new(steps, 2, buffers, 3, ctypes.byref(handle)) == status
    assert library.llmc_program_new(steps, 0, buffers, 3, ctypes.byref(handle)) == BAD_ARGUMENT
