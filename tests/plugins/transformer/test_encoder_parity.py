"""BERT and all its heads give what transformers gives: largest difference 1e-4 in fp32."""

from __future__ import annotations

import pytest
import torch
from transformer_shapes import BERTS, bert
from transformers import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
)

from llmasos.api import UsageError, WeightsError
from llmasos_transformer import padded

TOLERANCE = 1e-4
CASES = [pytest.param(config, id=name) for name, config in BERTS.items()]


def batch(config, side="right", lengths=(11, 1, 30, 6)):
    generator = torch.Generator().manual_seed(2)
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.int64)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, n in enumerate(lengths):
        where = slice(longest - n, longest) if side == "left" else slice(0, n)
        ids[i, where] = torch.randint(0, config.vocab_size, (n,), generator=generator)
        types[i, where] = torch.randint(0, config.type_vocab_size, (n,), generator=generator)
        mask[i, where] = 1
    return ids, mask, types


def difference(a, b):
    assert a.shape == b.shape
    assert torch.isfinite(a).all()
    return (a - b).abs().max().item()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", CASES)
@torch.no_grad()
def test_pretraining_heads(both, config, side):
    theirs, ours = both(BertForPreTraining, config)
    assert ours.heads == {"mlm", "nsp", "pooler"}
    ids, mask, types = batch(config, side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    packed, real = padded.pack(ids, mask, types)
    hidden = ours.hidden(packed)
    expected = theirs.bert(
        ids, attention_mask=mask, token_type_ids=types, position_ids=positions
    ).last_hidden_state
    assert difference(ours.padded(ids, mask, types)[real], expected[real]) <= TOLERANCE

    for i in range(
        len(ids)
    ):  # each row alone and unpadded: transformers pools column 0, which padding would move
        row = real[i]
        out = theirs(ids[i : i + 1, row], token_type_ids=types[i : i + 1, row])
        begin, end = packed.starts[i], packed.starts[i + 1]
        assert difference(ours.mlm_logits(hidden[begin:end]), out.prediction_logits[0]) <= TOLERANCE
        pooled = ours.pooled(hidden, packed)
        assert difference(ours.nsp_logits(pooled)[i : i + 1], out.seq_relationship_logits) <= TOLERANCE


@pytest.mark.parametrize(
    ("kind", "heads", "call"),
    [
        (BertForMaskedLM, {"mlm"}, lambda m, h, b: m.mlm_logits(h)),
        (BertForNextSentencePrediction, {"nsp", "pooler"}, lambda m, h, b: m.nsp_logits(m.pooled(h, b))),
        (
            BertForSequenceClassification,
            {"classification", "pooler"},
            lambda m, h, b: m.class_logits(m.pooled(h, b)),
        ),
    ],
    ids=["masked-lm", "next-sentence", "classification"],
)
@torch.no_grad()
def test_one_head(both, kind, heads, call):
    config = bert()
    theirs, ours = both(kind, config)
    assert ours.heads == heads
    ids, mask, types = batch(config)
    packed, real = padded.pack(ids, mask, types)
    expected = theirs(ids, attention_mask=mask, token_type_ids=types).logits
    found = call(ours, ours.hidden(packed), packed)
    assert difference(found, expected[real] if heads == {"mlm"} else expected) <= TOLERANCE
    assert theirs.num_parameters() == ours.num_parameters()


@pytest.mark.parametrize("pooler", [True, False])
@torch.no_grad()
def test_bare_model_has_no_prefix(both, pooler):
    config = bert()
    theirs, ours = both(lambda c: BertModel(c, add_pooling_layer=pooler), config)
    ids, mask, types = batch(config)
    packed, real = padded.pack(ids, mask, types)
    expected = theirs(ids, attention_mask=mask, token_type_ids=types)
    hidden = ours.hidden(packed)
    assert difference(hidden, expected.last_hidden_state[real]) <= TOLERANCE
    if pooler:
        assert difference(ours.pooled(hidden, packed), expected.pooler_output) <= TOLERANCE
    else:
        assert ours.heads == frozenset()
        with pytest.raises(WeightsError, match=r"no pooler head: pooler\.dense\.weight, pooler\.dense\.bias"):
            ours.pooled(hidden, packed)
    with pytest.raises(WeightsError, match=r"no mlm head: cls\.predictions\.transform\.dense\.weight"):
        ours.mlm_logits(hidden)
    with pytest.raises(WeightsError, match=r"no nsp head: cls\.seq_relationship\.weight"):
        ours.nsp_logits(hidden)
    with pytest.raises(WeightsError, match=r"no classification head: classifier\.weight"):
        ours.class_logits(hidden)


@torch.no_grad()
def test_token_types_default_to_zero(both):
    theirs, ours = both(BertModel, bert())
    ids, mask, _ = batch(bert())
    expected = theirs(ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    assert difference(ours.padded(ids, mask)[real], expected[real]) <= TOLERANCE


def test_a_row_of_padding_only_is_refused(both):
    _, ours = both(BertModel, bert())
    ids, mask, _ = batch(bert())
    mask[1] = 0
    with pytest.raises(UsageError, match="row 1 of the batch has no real token"):
        ours.padded(ids, mask)
