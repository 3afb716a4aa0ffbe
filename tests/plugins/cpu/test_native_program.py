"""Whole forward passes by the native library against the plain model: families, caches, trees, heads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from native_builds import LEVELS, native
from torch import Tensor

from llmasos.api import AttentionLayout, EvaluationError, PackedBatch, TreeTile, WeightsError
from llmasos_cpu.program import Cache, Program, stack_program
from llmasos_cpu.structures import BufferStruct, StepStruct
from llmasos_transformer.model import Decoder, Encoder
from llmasos_transformer.ops import ReferenceOps
from llmasos_transformer.path import key_spans
from llmasos_transformer.spec import Rope, StackSpec

OK, BAD_ARGUMENT, BAD_SHAPE = 0, -1, -2
KINDS = {"fp32": 0, "bf16": 1}

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


@dataclass(frozen=True)
class Packed:
    data: Tensor
    kind: str
    outputs: int
    inputs: int


def packer(level: str, kind: str = "fp32") -> Callable[[Tensor], Packed]:
    library = native(level)
    library.llmc_matrix_bytes.restype = ctypes.c_int64
    library.llmc_status_text.restype = ctypes.c_char_p

    def pack(weight: Tensor) -> Packed:
        weight = weight.contiguous()
        outputs, inputs = (ctypes.c_int64(n) for n in weight.shape)
        size = ctypes.c_int64(library.llmc_matrix_bytes(KINDS[kind], 0, outputs, inputs))
        held = torch.empty(size.value + 64, dtype=torch.uint8)
        held = held[-held.data_ptr() % 64 :][: size.value]
        memory = ctypes.c_void_p(held.data_ptr())
        assert library.llmc_matrix_begin(KINDS[kind], 0, outputs, inputs, memory, size) == OK
        rows, stride = ctypes.c_void_p(weight.data_ptr()), ctypes.c_int64(weight.stride(0) * 4)
        assert library.llmc_matrix_set_rows(memory, size, ctypes.c_int64(0), outputs, 0, rows, stride) == OK
        return Packed(held, kind, outputs.value, inputs.value)

    return pack


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


def program_of(
    level: str, model: Decoder | Encoder, *, head: bool = False, logits: bool = False, kind: str = "fp32"
) -> Program:
    weights = dict(model.named_parameters())
    return stack_program(
        native(level),
        model.spec,
        weights,
        packer(level, kind),
        frequencies=model.frequencies,
        head=model.head_weight if head else None,
        logits=logits,
    )


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
    program = program_of(level, model)
    for lengths in ((1,), (3, 1, 4), (70, 1, 0, 130, 33), (256,)):
        tokens, positions, starts = sequences(lengths)
        types = tokens % 2 if name == "bert" else None
        batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, token_types=types)
        expected = model.hidden(batch)
        layout = AttentionLayout(starts, starts, causal=STACKS[name].kind == "decoder")
        found = program.run(tokens, positions, layout, types=types).output
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
        # Rows in any order, and more than once.
        wanted = torch.tensor([tokens.shape[0] - 1, 0, 0])
        found = program.run(tokens, positions, layout, types=types, wanted=wanted).output
        torch.testing.assert_close(found, expected[wanted], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_generation_with_a_cache(level: str, name: str) -> None:
    """Prefill of several sequences at once, then a token for each a step: the tokens and the logits of the model."""
    model = model_of(DECODERS[name])
    assert isinstance(model, Decoder)
    logits, greedy = program_of(level, model, head=True, logits=True), program_of(level, model, head=True)
    lengths, capacity = [5, 1, 40], 64
    tokens, positions, starts = sequences(tuple(lengths))
    ours = model.new_cache(3, capacity)
    theirs = model.new_cache(3, capacity)
    keys, values = ours.keys.flatten(1, 2).flatten(2), ours.values.flatten(1, 2).flatten(2)
    slots = (2, 0, 1)
    held = [0, 0, 0]
    for _ in range(8):
        counts = [end - begin for begin, end in pairwise(starts)]
        rows = torch.cat(
            [
                torch.arange(slot * capacity + past, slot * capacity + past + n)
                for slot, past, n in zip(slots, held, counts, strict=True)
            ]
        )
        held = [past + n for past, n in zip(held, counts, strict=True)]
        layout = AttentionLayout(starts, tuple(slot * capacity for slot in slots), True, tuple(held))
        wanted = torch.tensor([end - 1 for end in starts[1:]])
        cache = Cache(keys, values, rows)
        found = logits.run(tokens, positions, layout, cache=cache, wanted=wanted).output
        best = greedy.run(tokens, positions, layout, cache=cache, wanted=wanted, best=True).best
        batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, slots=slots)
        expected = model.logits(model.hidden(batch, theirs)[wanted])
        torch.testing.assert_close(found, expected, rtol=3e-5, atol=3e-5)
        assert best is not None
        assert best.tolist() == expected.argmax(-1).tolist()
        tokens, positions, starts = best, torch.tensor(held), (0, 1, 2, 3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cache_type", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.inference_mode()
def test_tiles_of_a_tree(level: str, cache_type: torch.dtype) -> None:
    model = model_of(LLAMA)
    assert isinstance(model, Decoder)
    program = program_of(level, model, head=True)
    path = model.new_path(200)
    keys, values = (
        torch.full((LLAMA.layers, 200, LLAMA.key_heads * LLAMA.head_width), torch.nan, dtype=cache_type)
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
        targets, target_rows = torch.randint(1000, (50,)), torch.randint(len(wanted), (50,)).sort().values
        found = program.run(
            tokens,
            positions,
            layout,
            cache=Cache(keys, values, rows),
            wanted=wanted,
            targets=targets,
            target_rows=target_rows,
            best=True,
        )
        batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, tree=tile)
        expected, best = model.token_logprobs(model.hidden(batch, path), targets, target_rows)
        assert found.best is not None
        if cache_type == torch.float32:
            torch.testing.assert_close(found.logprobs, expected, rtol=2e-5, atol=5e-5)
            assert torch.equal(found.best[target_rows], best)
        else:
            torch.testing.assert_close(found.logprobs, expected, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("level", LEVELS)
@torch.inference_mode()
def test_bf16_weights_stay_close(level: str) -> None:
    model = model_of(GPT2)
    tokens, positions, starts = sequences((60, 3))
    layout = AttentionLayout(starts, starts, causal=True)
    expected = model.hidden(PackedBatch(tokens=tokens, positions=positions, starts=starts))
    found = program_of(level, model, kind="bf16").run(tokens, positions, layout).output
    assert found is not None
    difference = (found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert 0 < difference < 0.02


@torch.inference_mode()
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    model = model_of(LLAMA)
    program, library = program_of("portable", model, head=True, logits=True), native("portable")
    for lengths in ((1,), (100, 7)):
        tokens, positions, starts = sequences(lengths)
        results = []
        try:
            for threads in (1, 2, 5):
                assert library.llmc_set_threads(threads) == OK
                results.append(program.run(tokens, positions, AttentionLayout(starts, starts, True)).output)
        finally:
            library.llmc_set_threads(2)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_an_empty_pass_gives_nothing() -> None:
    program = program_of("portable", model_of(LLAMA))
    none = torch.zeros(0, dtype=torch.int64)
    output = program.run(none, none, AttentionLayout((0,), (0,), True)).output
    assert output is not None
    assert output.shape == (0, LLAMA.width)
    two = torch.tensor([0, 1])
    output = program.run(two, two, AttentionLayout((0, 2), (0, 2), True), wanted=none).output
    assert output is not None
    assert output.shape == (0, LLAMA.width)


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({"tokens": torch.tensor([1, 1000])}, ((0, 2), (0, 2))),
        ({"tokens": torch.tensor([-1, 5])}, ((0, 2), (0, 2))),
        ({"positions": torch.tensor([0, -1])}, ((0, 2), (0, 2))),
        ({"wanted": torch.tensor([2])}, ((0, 2), (0, 2))),
        ({"targets": torch.tensor([0, 0, 0])}, ((0, 2), (0, 2))),
        ({"targets": torch.tensor([1000])}, ((0, 2), (0, 2))),
        ({}, ((0, 1), (0, 1))),
        ({}, ((0, 2), (0, 3))),
        ({}, ((1, 2), (0, 2))),
    ],
)
def test_passes_that_do_not_fit_are_refused(
    changes: dict[str, Tensor], layout: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    program = program_of("portable", model_of(LLAMA), head=True)
    fields = {"tokens": torch.tensor([1, 2]), "positions": torch.tensor([0, 1]), **changes}
    with pytest.raises(EvaluationError, match="is refused"):
        program.run(layout=AttentionLayout(*layout, causal=True), **fields)


def test_cache_rows_outside_the_cache_are_refused() -> None:
    program = program_of("portable", model_of(LLAMA), head=True)
    slab = torch.zeros(LLAMA.layers, 4, LLAMA.key_heads * LLAMA.head_width)
    two = torch.tensor([0, 1])
    layout = AttentionLayout((0, 2), (0,), True, (2,))
    program.run(two, two, layout, cache=Cache(slab, slab.clone(), two))
    for cache in (Cache(slab, slab, torch.tensor([3, 4])), Cache(slab[:2], slab[:2], two)):
        with pytest.raises(EvaluationError):
            program.run(two, two, layout, cache=cache)


def test_a_gate_that_does_not_fit_panels_has_no_program() -> None:
    with pytest.raises(WeightsError, match="width 40"):
        program_of("portable", model_of(replace(LLAMA, inner=40)))


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ({"op": 9}, BAD_ARGUMENT),
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
