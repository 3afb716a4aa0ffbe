"""The reference ops against their definitions, written out in float64, and the conformance kit's checks."""

from __future__ import annotations

import math

import pytest
import torch

from llmasos.api import OP_NAMES, AttentionLayout, UsageError
from llmasos.testing.conformance.oracle import oracle
from llmasos_transformer import ops
from llmasos_transformer.backend import ReferenceBackend


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive_attention(q, k, v, layout, scale):
    """softmax(q kᵀ · scale) v, a query and a head at a time."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b in range(len(layout.q_starts) - 1):
        first, n = layout.q_starts[b], layout.q_starts[b + 1] - layout.q_starts[b]
        k_first = layout.k_starts[b]
        m = layout.k_lengths[b] if layout.k_lengths else layout.k_starts[b + 1] - k_first
        for i in range(n):
            seen = m - n + i + 1 if layout.causal else m
            for h in range(q.shape[1]):
                keys, values = (x[k_first : k_first + seen, h // group].double() for x in (k, v))
                weights = (keys @ q[first + i, h].double() * scale).softmax(0)
                out[first + i, h] = weights @ values
    return out


LAYOUTS = {
    "one token": ((0, 1), (0, 1), None),
    "one sequence": ((0, 7), (0, 7), None),
    "uneven, one empty": ((0, 1, 1, 14, 17), (0, 1, 1, 14, 17), None),
    "queries are the last keys": ((0, 1, 4, 9), (0, 6, 9, 20), None),
    "keys in cache rows": ((0, 1, 4, 9), (24, 0, 12), (5, 3, 12)),
}


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_attention_is_its_definition(layout, heads, key_heads, causal):
    q_starts, k_starts, k_lengths = layout
    shape = AttentionLayout(q_starts, k_starts, causal, k_lengths)
    width = 9
    q = random(q_starts[-1], heads, width, seed=1)
    k, v = (random(36, key_heads, width, seed=s) for s in (2, 3))
    if k_lengths is not None:  # what lies between the ranges must not be read
        held = torch.zeros(36, dtype=torch.bool)
        for begin, length in zip(k_starts, k_lengths, strict=True):
            held[begin : begin + length] = True
        k[~held], v[~held] = torch.nan, torch.nan
    found = ops.attention(q, k, v, shape, 0.3)
    torch.testing.assert_close(found.double(), naive_attention(q, k, v, shape, 0.3), rtol=0, atol=2e-6)


def test_attention_of_very_different_lengths_is_finite():
    lengths = (1, 700, 2, 333)
    starts = tuple(sum(lengths[:i]) for i in range(5))
    q, k, v = (random(starts[-1], 2, 8, seed=s) * 30 for s in (1, 2, 3))
    assert torch.isfinite(ops.attention(q, k, v, AttentionLayout(starts, starts, True), 1.0)).all()


def test_attention_takes_strided_inputs():
    starts = (0, 5)
    layout = AttentionLayout(starts, starts, True)
    q, k, v = (random(4, 5, 8, seed=s).transpose(0, 1) for s in (1, 2, 3))
    plain = ops.attention(q.contiguous(), k.contiguous(), v.contiguous(), layout, 0.5)
    assert torch.equal(ops.attention(q, k, v, layout, 0.5), plain)


@pytest.mark.parametrize("part", [10, 4], ids=["whole head", "part of the head"])
def test_rotary_turns_pairs(part):
    x, positions = random(6, 3, 10), torch.tensor([0, 1, 5, 100, 2, 7])
    frequencies = 1 / 10000.0 ** (torch.arange(0, part, 2) / part)
    angles = positions[:, None] * frequencies
    found = ops.rotary(x, angles.cos(), angles.sin())
    half = part // 2
    pairs = torch.complex(x[..., :half], x[..., half:part]) * torch.exp(1j * angles)[:, None]
    torch.testing.assert_close(found[..., :half], pairs.real, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[..., half:part], pairs.imag, rtol=0, atol=1e-5)
    assert torch.equal(found[..., part:], x[..., part:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(dtype):
    x, weight, bias = (
        random(5, 33, dtype=dtype),
        random(33, seed=1, dtype=dtype),
        random(33, seed=2, dtype=dtype),
    )
    wide = x.double()
    rms = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    centred = wide - wide.mean(-1, keepdim=True)
    layer = (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
    )
    tolerance = 1e-6 * 4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5).double(), rms, rtol=0, atol=tolerance)
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, 1e-5).double(), layer, rtol=0, atol=tolerance)


def test_activations():
    x = torch.linspace(-6, 6, 101)
    wide = x.double()
    tanh = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    expected = {
        "gelu": 0.5 * wide * (1 + torch.erf(wide / math.sqrt(2))),
        "gelu_new": tanh,
        "relu": wide.clamp(min=0),
        "silu": wide / (1 + torch.exp(-wide)),
        "tanh": torch.tanh(wide),
    }
    for kind, value in expected.items():
        torch.testing.assert_close(ops.activation(x, kind).double(), value, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            ops.gated_activation(x, x.flip(0), kind).double(), value * wide.flip(0), rtol=0, atol=6e-6
        )
    with pytest.raises(UsageError, match="unknown activation 'swiglu'") as error:
        ops.activation(x, "swiglu")
    assert "silu" in error.value.hint


@pytest.mark.parametrize("rows", [0, 1, 29])
@pytest.mark.parametrize("with_bias", [True, False])
def test_token_logprobs_in_blocks(monkeypatch, rows, with_bias):
    for name, size in (("_ROW_BLOCK", 5), ("_VOCABULARY_BLOCK", 12), ("_STRETCH", 4)):
        monkeypatch.setattr(ops, name, size)  # 41 = 3 blocks of 3 stretches, and 5 entries that are none
    x, weight = random(rows, 8), random(41, 8, seed=1)
    bias = random(41, seed=2) if with_bias else None
    targets = torch.randint(0, 41, (rows,), generator=torch.Generator().manual_seed(3))
    logprobs, best = ops.token_logprobs(x, weight, bias, targets)
    scores = x.double() @ weight.double().T + (bias.double() if with_bias else 0)
    expected = scores.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-5)
    assert logprobs.dtype == torch.float32
    assert best.dtype == torch.int64
    assert torch.equal(best, scores.argmax(-1) if rows else best)


@pytest.mark.parametrize("size", [4, 64, 130, 4096, 5000])
def test_the_first_of_equal_logits_is_the_arg_max(size):
    weight = torch.ones(size, 2)
    weight[[size // 2, size - 1]] = 3.0  # two entries share the largest score
    logprobs, best = ops.token_logprobs(
        torch.ones(3, 2), weight, None, torch.tensor([0, size // 2, size - 1])
    )
    assert best.tolist() == [size // 2] * 3
    assert logprobs[1] == logprobs[2] > logprobs[0]


def test_token_logprobs_reads_each_row_once(monkeypatch):
    monkeypatch.setattr(ops, "_ROW_BLOCK", 4)
    x, weight = random(10, 8), random(70, 8, seed=1)
    rows = torch.tensor(
        [0, 0, 0, 3, 4, 4, 9]
    )  # the block of rows 4 to 7 ends without targets, some rows have none
    targets = torch.tensor([5, 6, 5, 69, 0, 1, 2])
    logprobs, best = ops.token_logprobs(x, weight, None, targets, rows)
    expected, top = ops.token_logprobs(x[rows], weight, None, targets)
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-6)
    assert torch.equal(best, top)


def test_attention_of_a_long_sequence_after_a_path(monkeypatch):
    monkeypatch.setattr(ops, "_QUERY_BLOCK", 4)
    q, k, v = random(11, 4, 8), random(20, 2, 8, seed=1), random(20, 2, 8, seed=2)
    leaf = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2])
    for mask in (None, (leaf[:, None] == leaf).tril()):
        layout = AttentionLayout((0, 11), (9,), True, before=(((0, 3), (5, 9)),), visible=(mask,))
        found = ops.attention(q, k, v, layout, 0.3).double()
        torch.testing.assert_close(found, oracle("attention")(q, k, v, layout, 0.3), rtol=0, atol=2e-6)


def test_linear_and_embedding():
    x, weight, bias = random(3, 5), random(4, 5, seed=1), random(4, seed=2)
    torch.testing.assert_close(ops.linear(x, weight, bias), x @ weight.T + bias)
    torch.testing.assert_close(ops.linear(x, weight, None), x @ weight.T)
    assert torch.equal(ops.embedding(torch.tensor([3, 0, 3]), weight), weight[[3, 0, 3]])


def test_the_ops_object_has_every_op_and_says_whose():
    bound = ops.ReferenceOps()
    assert set(bound.providers) == set(OP_NAMES)
    assert all(getattr(bound, op) is getattr(ops, op) for op in OP_NAMES)


@pytest.mark.parametrize("gpu", [True, False])
def test_backend_always_has_the_cpu_and_never_float16_on_it(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    backend = ReferenceBackend()
    assert backend.devices()[-1] == "cpu"
    assert ("cuda" in backend.devices()) is gpu
    assert backend.dtypes("cpu") == ("float32", "bfloat16")
    assert backend.dtypes("cuda:1") == (("float32", "bfloat16", "float16") if gpu else ())
