"""The built-in families and ops keep the contracts that any plugin is held to."""

from __future__ import annotations

import pytest
from transformer_shapes import BERTS, GPT2S, LLAMAS
from transformers import BertForPreTraining, BertForSequenceClassification, GPT2LMHeadModel, LlamaForCausalLM

from llmasos.testing.conformance import assert_conforms, backend, encoder, model
from llmasos_transformer import ops
from llmasos_transformer.backend import ReferenceBackend
from llmasos_transformer.plugin import llmasos_kernel_ops

DECODERS = [
    pytest.param(kind, config, id=f"{name}: {case}")
    for name, kind, configs in (("llama", LlamaForCausalLM, LLAMAS), ("gpt2", GPT2LMHeadModel, GPT2S))
    for case, config in configs.items()
]


@pytest.mark.parametrize(("kind", "config"), DECODERS)
def test_decoders(both, kind, config):
    theirs, ours = both(kind, config)
    assert_conforms(model.CHECKS, model.ModelSubject(ours, parameters=theirs.num_parameters()))


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForSequenceClassification])
@pytest.mark.parametrize("config", BERTS.values(), ids=BERTS)
def test_encoders(both, kind, config):
    _, ours = both(kind, config)
    assert_conforms(encoder.CHECKS, encoder.EncoderSubject(ours))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("definition", list(llmasos_kernel_ops()), ids=lambda d: d.name)
def test_ops(definition, dtype):
    call = getattr(ops, definition.op)
    assert definition.factory == f"llmasos_transformer.ops:{definition.op}"
    subject = backend.OpSubject(definition.op, call, call, dtype=dtype, tolerance=definition.tolerance)
    assert_conforms(backend.OP_CHECKS, subject)


def test_backend():
    assert_conforms(backend.CHECKS, ReferenceBackend())
