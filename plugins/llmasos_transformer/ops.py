"""The meaning of every op, in plain torch: the ``reference`` back end, and the yardstick other back ends are held to.

Shapes, as in ``llmasos.api.Ops``: N packed tokens, M rows, K packed keys, I and O widths, Hq query heads, Hk key/value
heads, G = Hq / Hk, E head width, V vocabulary. Statistics and log-sum-exps are taken in float32 whatever the dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos.api import OP_NAMES, AttentionLayout, BlockWeight, StackPlan, StackRunner, UsageError

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}

#: Rows and vocabulary entries of one block of logits in ``token_logprobs``: 8 MiB of float32.
_ROW_BLOCK, _VOCABULARY_BLOCK = 512, 4096
#: Logits among which the largest is looked up one by one.
_STRETCH = 64
#: Queries that attend together where each sees only what comes before it.
_QUERY_BLOCK = 256


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """ids [N] int64, weight [V, O] -> [N, O]."""
    return F.embedding(ids, weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [N, I] / sqrt(mean(x²) + eps) * weight [I] (Zhang & Sennrich 2019)."""
    wide = x.float()
    # The norm of a row in one pass over it; the mean of squares would write the squares first.
    mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]
    return weight * (wide * torch.rsqrt(mean + eps)).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis of x [N, I] (Ba et al. 2016)."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]."""
    return F.linear(x, weight, bias)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (x[j], x[j + R/2]) of the first R = 2 * cos.shape[1] elements of each head by the given angles.

    x [N, H, E], cos and sin [N, R/2] float32, R <= E; elements from R on pass through (Su et al. 2021).
    """
    half = cos.shape[-1]
    both = torch.cat((cos, cos), dim=-1)[:, None, :]  # [N, 1, R]
    sign = torch.cat((-sin, sin), dim=-1)[:, None, :]
    wide = x[..., : 2 * half].float()
    turned = torch.addcmul(wide * both, wide.roll(half, dims=-1), sign).to(x.dtype)  # [N, H, R]
    return turned if 2 * half == x.shape[-1] else torch.cat((turned, x[..., 2 * half :]), dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """softmax(q kᵀ · scale) v for each sequence and head: q [N, Hq, E], k and v [K, Hk, E] -> [N, Hq, E].

    Sequences never see each other, so nothing is padded and nothing of one sequence can reach another. Query head h
    reads key head h // G: queries are viewed as [Hk, G, n, E] and the one key head of a group is broadcast (stride 0)
    over its G query heads instead of being copied.
    """
    out = q.new_empty(q.shape)
    for b in range(len(layout.q_starts) - 1):
        first, last = layout.q_starts[b], layout.q_starts[b + 1]
        if first == last:
            continue
        begin = layout.k_starts[b]
        if layout.before is None or layout.visible is None:
            end = layout.k_starts[b + 1] if layout.k_lengths is None else begin + layout.k_lengths[b]
            spans, mask, causal = [(begin, end)], None, layout.causal
        else:
            spans = _joined([*layout.before[b], (begin, begin + last - first)])
            mask, causal = layout.visible[b], True
        keys, values = _rows(k, spans), _rows(v, spans)
        if causal:
            _lower(q[first:last], keys, values, mask, scale, out[first:last])
        else:
            _dense(q[first:last], keys, values, None, scale, out[first:last])
    return out


def _lower(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, out: Tensor) -> None:
    """Attention of n queries that are the last of m keys, into ``out``; none sees what comes after it.

    Long ones go in blocks of queries, each with the keys up to its end, so that little is computed to be masked away.
    """
    n, m = q.shape[0], k.shape[0]
    if mask is None and (n == m or n == 1):
        # torch's own causal flag aligns the first query with the first key, so it is right only without a past.
        _dense(q, k, v, None, scale, out, causal=n > 1)
        return
    for begin in range(0, n, _QUERY_BLOCK):
        end = min(begin + _QUERY_BLOCK, n)
        seen = m - n + end
        if mask is None:
            shown = torch.ones(end - begin, seen, dtype=torch.bool, device=q.device).tril(m - n + begin)
        else:
            shown = F.pad(mask[begin:end, :end], (m - n, 0), value=True)
        _dense(q[begin:end], k[:seen], v[:seen], shown, scale, out[begin:end])


def _dense(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, out: Tensor, *, causal: bool = False
) -> None:
    """Attention of q [n, Hq, E] over k and v [m, Hk, E] where ``mask`` [n, m] is set, into ``out`` [n, Hq, E]."""
    n, heads, width = q.shape
    m, key_heads = k.shape[0], k.shape[1]
    group = heads // key_heads
    found = F.scaled_dot_product_attention(
        q.reshape(n, key_heads, group, width).permute(1, 2, 0, 3),  # [Hk, G, n, E]
        k.permute(1, 0, 2)[:, None].expand(key_heads, group, m, width),
        v.permute(1, 0, 2)[:, None].expand(key_heads, group, m, width),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
    )
    out.view(n, key_heads, group, width).copy_(found.permute(2, 0, 1, 3))


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same rows in as few spans as possible, the empty ones left out."""
    found: list[tuple[int, int]] = []
    for begin, end in spans:
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        elif begin < end:
            found.append((begin, end))
    return found


def _rows(x: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """The rows of these spans in order: a view where there is one span."""
    if len(spans) == 1:
        return x[spans[0][0] : spans[0][1]]
    return torch.cat([x[begin:end] for begin, end in spans])


def activation(x: Tensor, kind: str) -> Tensor:
    """Pointwise non-linearity. Raises UsageError for a kind that is not one of the contract's."""
    function = _ACTIVATIONS.get(kind)
    if function is None:
        raise UsageError(f"unknown activation {kind!r}", hint=f"known: {', '.join(sorted(_ACTIVATIONS))}")
    return function(x)


def gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """activation(gate) * up, both [N, O] (Shazeer 2020)."""
    return activation(gate, kind) * up


def token_logprobs(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """log softmax(x weightᵀ + bias)[targets] and the arg-max: x [M, I], weight [V, I], targets [M] -> [M], [M].

    With ``rows`` [M], ascending, x is [R, I] and target i belongs to row ``rows[i]``. Blocks of rows meet the vocabulary in
    blocks, so that no more than [512, 4096] logits exist at a time and each is read while it is still in the cache.
    """
    edges = torch.arange(0, x.shape[0] + _ROW_BLOCK, _ROW_BLOCK)
    places = edges.clamp(max=targets.shape[0]) if rows is None else torch.searchsorted(rows, edges)
    logprobs = [x.new_zeros(0, dtype=torch.float32)]
    best = [targets.new_zeros(0)]
    for block, begin, first, last in zip(
        x.split(_ROW_BLOCK), edges.tolist(), places.tolist(), places[1:].tolist(), strict=False
    ):
        if rows is None:
            row = torch.arange(last - first, device=x.device)
        else:
            row = (rows[first:last] - begin).to(x.device)
        chosen, total, top = _row_block(block, weight, bias, targets[first:last], row)
        logprobs.append(chosen - total[row])
        best.append(top[row])
    return torch.cat(logprobs), torch.cat(best)


def _row_block(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, row: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(logits of the targets [M], log-sum-exp [R], arg-max [R]) for x [R, I]; target i belongs to row ``row[i]``."""
    chosen = torch.zeros(targets.shape, dtype=torch.float32, device=x.device)
    peaks, sums, places = (
        [],
        [],
        [],
    )  # of each block of the vocabulary: largest logit, sum of exp(logit - largest), its token
    for begin in range(0, weight.shape[0], _VOCABULARY_BLOCK):
        part = slice(begin, begin + _VOCABULARY_BLOCK)
        logits = F.linear(x, weight[part], None if bias is None else bias[part]).float()  # [R, v]
        size = logits.shape[1]
        inside = (targets >= begin) & (targets < begin + size)
        chosen = torch.where(inside, logits[row, (targets - begin).clamp(0, size - 1)], chosen)
        peak, place = _largest(logits)
        peaks.append(peak)
        places.append(place + begin)
        sums.append((logits - peak[:, None]).exp().sum(dim=-1))
    peak_rc = torch.stack(peaks, dim=1)  # [R, blocks]
    peak, block = _largest(peak_rc)
    total = ((peak_rc - peak[:, None]).exp() * torch.stack(sums, dim=1)).sum(dim=1).log() + peak
    return chosen, total, torch.stack(places, dim=1).gather(1, block[:, None]).squeeze(1)


def _largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest element of each row of x [R, v] and its place, the first of equal ones.

    torch finds a maximum several times faster than its place, so the place is first narrowed down to a short stretch.
    """
    count, size = x.shape
    if size % _STRETCH:
        found = x.max(dim=-1)
        return found.values, found.indices
    stretches = x.view(count, size // _STRETCH, _STRETCH)
    peaks = stretches.amax(dim=-1)
    peak, stretch = peaks.max(dim=-1)
    within = stretches[torch.arange(count, device=x.device), stretch].argmax(dim=-1)
    return peak, stretch * _STRETCH + within


class ReferenceOps:
    """The reference ops as one ``Ops`` object, for code that builds a model without a hub."""

    providers: Mapping[str, str] = {op: f"llmasos-transformer/reference.{op}" for op in OP_NAMES}

    block_types: frozenset[str] = frozenset()

    def pack(self, weight: Tensor | BlockWeight, lookup: bool) -> Tensor:
        """The tensor itself: plain torch has no other layout."""
        return weight if isinstance(weight, Tensor) else weight.plain()

    def stack(self, plan: StackPlan) -> StackRunner | None:
        """None: plain torch goes op by op."""
        return None

    embedding = staticmethod(embedding)
    rms_norm = staticmethod(rms_norm)
    layer_norm = staticmethod(layer_norm)
    linear = staticmethod(linear)
    rotary = staticmethod(rotary)
    attention = staticmethod(attention)
    activation = staticmethod(activation)
    gated_activation = staticmethod(gated_activation)
    token_logprobs = staticmethod(token_logprobs)
