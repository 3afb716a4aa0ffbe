"""A checkpoint that does not fit is refused with a list of what is wrong; what is harmless is read past."""

from __future__ import annotations

import json

import pytest
import torch
from transformer_checkpoints import TensorCheckpoint
from transformer_shapes import bert, gpt2, llama
from transformers import BertForMaskedLM, BertForPreTraining, BertModel, GPT2LMHeadModel, LlamaForCausalLM

from llmasos.api import EvaluationError, PackedBatch, UsageError, WeightsError
from llmasos_transformer.architecture import BertArchitecture, Gpt2Architecture, LlamaArchitecture
from llmasos_transformer.ops import ReferenceOps


def stored(kind, config, **changes):
    """What transformers would save: configuration and tensors, with changes to the configuration."""
    torch.manual_seed(0)
    model = kind(config)
    saved = json.loads(config.to_json_string())
    saved["architectures"] = [kind.__name__]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return TensorCheckpoint({**saved, **changes}, tensors)


def build(architecture, checkpoint, dtype="float32"):
    return architecture().build(checkpoint, ReferenceOps(), dtype=dtype, device="cpu")


def scores(model, tokens=(3, 5, 7)):
    ids = torch.tensor(tokens)
    return model.logits(model.hidden(PackedBatch(ids, torch.arange(len(ids)), (0, len(ids)))))


def test_summary_reads_no_tensor():
    checkpoint = stored(LlamaForCausalLM, llama())
    summary = LlamaArchitecture().summarize(checkpoint)
    assert checkpoint.read == []
    expected = sum(p.numel() for p in LlamaForCausalLM(llama()).parameters())
    assert (summary.family, summary.kind, summary.layers, summary.width) == ("llama", "decoder", 3, 48)
    assert (summary.heads, summary.kv_heads, summary.vocab_size, summary.max_length) == (6, 2, 97, 160)
    assert summary.parameters == expected == build(LlamaArchitecture, checkpoint).num_parameters()


def test_tied_weights_are_counted_once():
    checkpoint = stored(GPT2LMHeadModel, gpt2())
    assert "lm_head.weight" in checkpoint.tensors
    assert Gpt2Architecture().summarize(checkpoint).parameters == GPT2LMHeadModel(gpt2()).num_parameters()


@pytest.mark.parametrize("method", ["summarize", "build"])
def test_all_that_does_not_fit_is_listed(method):
    checkpoint = stored(LlamaForCausalLM, llama())
    del checkpoint.values["model.layers.1.self_attn.q_proj.weight"]
    del checkpoint.values["lm_head.weight"]
    checkpoint.values["model.layers.7.mlp.up_proj.weight"] = torch.zeros(112, 48)
    checkpoint.values["model.norm.weight"] = torch.ones(47)
    with pytest.raises(WeightsError) as error:
        build(LlamaArchitecture, checkpoint) if method == "build" else LlamaArchitecture().summarize(
            checkpoint
        )
    message = error.value.message
    assert "missing: lm_head.weight, model.layers.1.self_attn.q_proj.weight" in message
    assert "unexpected: model.layers.7.mlp.up_proj.weight" in message
    assert "wrong shape: model.norm.weight is [47], expected [48]" in message
    assert error.value.hint
    assert checkpoint.read == []


def test_long_lists_are_cut_and_counted():
    checkpoint = stored(GPT2LMHeadModel, gpt2())
    checkpoint.values = {n: t for n, t in checkpoint.values.items() if ".h." not in n}
    checkpoint.config["n_layer"] = 2
    with pytest.raises(WeightsError, match=r"and 16 more"):
        Gpt2Architecture().summarize(checkpoint)


def test_a_bias_the_configuration_does_not_announce_is_unexpected():
    checkpoint = stored(LlamaForCausalLM, llama(attention_bias=True), attention_bias=False)
    with pytest.raises(WeightsError, match=r"unexpected: model\.layers\.0\.self_attn\.k_proj\.bias"):
        LlamaArchitecture().summarize(checkpoint)


def test_known_ballast_is_read_past():
    checkpoint = stored(GPT2LMHeadModel, gpt2())
    plain = scores(build(Gpt2Architecture, checkpoint))
    for i in range(3):
        checkpoint.values[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 160, 160, dtype=torch.uint8)
        checkpoint.values[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    assert torch.equal(scores(build(Gpt2Architecture, checkpoint)), plain)
    assert not any("masked_bias" in name for name in checkpoint.read)

    llamas = stored(LlamaForCausalLM, llama())
    llamas.values["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    LlamaArchitecture().summarize(llamas)
    berts = stored(BertModel, bert())
    berts.values["embeddings.position_ids"] = torch.arange(64)[None]
    BertArchitecture().summarize(berts)


def test_names_of_the_first_bert_checkpoints():
    checkpoint = stored(BertModel, bert())
    ids = torch.tensor([[4, 8, 15]])
    plain = build(BertArchitecture, checkpoint).padded(ids)
    old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    for new, before in old.items():
        for name in [n for n in checkpoint.values if n.endswith(new)]:
            checkpoint.values[name.removesuffix(new) + before] = checkpoint.values.pop(name)
    assert torch.equal(build(BertArchitecture, checkpoint).padded(ids), plain)


def test_the_head_stored_under_either_name_of_a_tied_pair():
    both = stored(GPT2LMHeadModel, gpt2())
    plain = scores(build(Gpt2Architecture, both))
    for name in ("lm_head.weight", "transformer.wte.weight"):
        one = stored(GPT2LMHeadModel, gpt2())
        del one.values[name]
        assert torch.equal(scores(build(Gpt2Architecture, one)), plain)


@pytest.mark.parametrize(
    ("architecture", "kind", "config", "name"),
    [
        (Gpt2Architecture, GPT2LMHeadModel, gpt2(), "lm_head.weight"),
        (BertArchitecture, BertForPreTraining, bert(), "cls.predictions.decoder.weight"),
        (BertArchitecture, BertForPreTraining, bert(), "cls.predictions.decoder.bias"),
    ],
)
def test_a_tied_tensor_that_differs_is_refused(architecture, kind, config, name):
    checkpoint = stored(kind, config)
    checkpoint.values[name] = checkpoint.values[name] + 1
    with pytest.raises(WeightsError, match="differs") as error:
        build(architecture, checkpoint)
    assert "tie_word_embeddings" in error.value.hint


def test_a_head_that_the_architecture_promises_must_be_there():
    checkpoint = stored(BertModel, bert())
    checkpoint.config["architectures"] = ["BertForMaskedLM"]
    with pytest.raises(WeightsError, match=r"missing: cls\.predictions"):
        BertArchitecture().summarize(checkpoint)


def test_half_a_head_is_refused():
    checkpoint = stored(BertForMaskedLM, bert())
    checkpoint.config["architectures"] = []
    del checkpoint.values["cls.predictions.transform.dense.bias"]
    with pytest.raises(WeightsError, match=r"missing: cls\.predictions\.transform\.dense\.bias"):
        BertArchitecture().summarize(checkpoint)


def test_whole_numbers_are_not_weights():
    checkpoint = stored(LlamaForCausalLM, llama())
    checkpoint.values["model.norm.weight"] = torch.ones(48, dtype=torch.int8)
    with pytest.raises(WeightsError, match=r"model\.norm\.weight holds torch\.int8"):
        build(LlamaArchitecture, checkpoint)


@pytest.mark.parametrize(
    ("architecture", "kind", "config", "changes", "said"),
    [
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"hidden_act": "swiglu2"}, "hidden_act = 'swiglu2'"),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"hidden_size": None}, "has no 'hidden_size'"),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"hidden_size": "48"}, "hidden_size = '48'"),
        (
            LlamaArchitecture,
            LlamaForCausalLM,
            llama(),
            {"hidden_size": 10**15},
            "hidden_size = 1000000000000000",
        ),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"num_hidden_layers": 10**6}, "1000000 layers"),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"num_hidden_layers": -1}, "num_hidden_layers = -1"),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"num_key_value_heads": 4}, "must divide"),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"rms_norm_eps": 0}, "rms_norm_eps = 0"),
        (
            LlamaArchitecture,
            LlamaForCausalLM,
            llama(),
            {"tie_word_embeddings": "no"},
            "tie_word_embeddings = 'no'",
        ),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"rope_parameters": {"rope_type": "yarn"}}, "'yarn'"),
        (
            LlamaArchitecture,
            LlamaForCausalLM,
            llama(),
            {"rope_parameters": {"rope_type": "linear"}},
            "no 'factor'",
        ),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"rope_parameters": [1]}, "rope_parameters = [1]"),
        (LlamaArchitecture, LlamaForCausalLM, llama(), {"architectures": "Llama"}, "architectures = 'Llama'"),
        (Gpt2Architecture, GPT2LMHeadModel, gpt2(), {"add_cross_attention": True}, "add_cross_attention"),
        (Gpt2Architecture, GPT2LMHeadModel, gpt2(), {"n_head": 5}, "n_head = 5"),
        (BertArchitecture, BertModel, bert(), {"position_embedding_type": "relative_key"}, "relative_key"),
        (BertArchitecture, BertModel, bert(), {"is_decoder": True}, "is_decoder"),
    ],
)
def test_configurations_that_make_no_sense(architecture, kind, config, changes, said):
    checkpoint = stored(kind, config, **changes)
    with pytest.raises(WeightsError) as error:
        architecture().summarize(checkpoint)
    assert said in str(error.value)
    assert checkpoint.read == []


def test_rotary_settings_as_transformers_4_wrote_them():
    new = stored(
        LlamaForCausalLM, llama(rope_parameters={"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0})
    )
    old = TensorCheckpoint({k: v for k, v in new.config.items() if k != "rope_parameters"}, new.values)
    old.config |= {"rope_theta": 777.0, "rope_scaling": {"type": "linear", "factor": 3.0}}
    assert torch.equal(scores(build(LlamaArchitecture, new)), scores(build(LlamaArchitecture, old)))
    plain = TensorCheckpoint({**old.config, "rope_scaling": None}, new.values)
    assert not torch.equal(scores(build(LlamaArchitecture, plain)), scores(build(LlamaArchitecture, old)))


def test_float16_on_the_cpu_is_refused_and_float16_files_are_widened():
    checkpoint = stored(LlamaForCausalLM, llama())
    with pytest.raises(UsageError, match="float16 arithmetic on the CPU") as error:
        build(LlamaArchitecture, checkpoint, dtype="float16")
    assert "float32" in error.value.hint
    with pytest.raises(UsageError, match="unknown dtype 'int3'"):
        build(LlamaArchitecture, checkpoint, dtype="int3")
    half = TensorCheckpoint(checkpoint.config, {n: t.half() for n, t in checkpoint.values.items()})
    model = build(LlamaArchitecture, half)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_outlives_its_checkpoint():
    """Nothing is a view of the file: zeroing the stored tensors afterwards changes no score."""
    checkpoint = stored(GPT2LMHeadModel, gpt2())
    model = build(Gpt2Architecture, checkpoint)
    before = scores(model)
    for tensor in checkpoint.values.values():
        tensor.zero_()
    assert torch.equal(scores(model), before)


@pytest.fixture
def model():
    return build(LlamaArchitecture, stored(LlamaForCausalLM, llama(max_position_embeddings=32)))


def test_a_sequence_over_the_context_is_refused_with_both_numbers(model):
    ids = torch.zeros(40, dtype=torch.int64)
    with pytest.raises(EvaluationError, match="33 tokens does not fit the 32 positions") as error:
        model.hidden(PackedBatch(ids, torch.arange(40), (0, 7, 40)))
    assert "1 tokens" in error.value.hint
    cache = model.new_cache(1, 64)
    model.hidden(PackedBatch(ids[:20], torch.arange(20), (0, 20), (0,)), cache)
    with pytest.raises(EvaluationError, match="40 tokens does not fit the 32"):
        model.hidden(PackedBatch(ids[:20], torch.arange(20, 40), (0, 20), (0,)), cache)


@pytest.mark.parametrize("token", [97, -1])
def test_a_token_outside_the_vocabulary_is_refused(model, token):
    with pytest.raises(EvaluationError, match=f"token {token} is outside the table of 97 entries"):
        scores(model, (3, token))


def test_positions_and_types_outside_their_tables_are_refused():
    encoder = build(BertArchitecture, stored(BertModel, bert()))
    ids, zeros = torch.tensor([1, 2]), torch.tensor([0, 1])
    with pytest.raises(EvaluationError, match="position 64 is outside the table of 64"):
        encoder.hidden(PackedBatch(ids, torch.tensor([63, 64]), (0, 2)))
    with pytest.raises(EvaluationError, match="token type 2 is outside the table of 2"):
        encoder.hidden(PackedBatch(ids, zeros, (0, 2), token_types=torch.tensor([0, 2])))


@pytest.mark.parametrize(
    ("slots", "count", "said"),
    [
        ((0, 0), 2, "used twice"),
        ((0, 2), 2, "slot 2 does not exist"),
        ((0, 1), 9, "do not fit a cache of 8"),
        ((0,), 2, "one slot"),
    ],
)
def test_cache_misuse(model, slots, count, said):
    cache = model.new_cache(2, 8)
    ids = torch.zeros(2 * count, dtype=torch.int64)
    positions = torch.arange(count).repeat(2)
    with pytest.raises(UsageError, match=said):
        model.hidden(PackedBatch(ids, positions, (0, count, 2 * count), slots), cache)
    assert cache.lengths == [0, 0]


def test_an_empty_cache_makes_no_sense(model):
    with pytest.raises(UsageError, match="0 slots"):
        model.new_cache(0, 8)


def test_an_empty_batch_gives_no_rows(model):
    empty = torch.zeros(0, dtype=torch.int64)
    assert model.hidden(PackedBatch(empty, empty, (0,))).shape == (0, 48)
    assert model.hidden(PackedBatch(empty, empty, (0, 0, 0))).shape == (0, 48)
