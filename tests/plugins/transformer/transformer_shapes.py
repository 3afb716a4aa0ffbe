"""Small configurations that between them reach every branch of the three families."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig, GPT2Config, LlamaConfig


def llama(**changes: Any) -> LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 160,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**{**settings, **changes})


LLAMAS: dict[str, LlamaConfig] = {
    "grouped-query": llama(),
    "multi-head": llama(num_key_value_heads=6),
    "one key head": llama(num_key_value_heads=1),
    "tied": llama(tie_word_embeddings=True),
    "biases": llama(attention_bias=True, mlp_bias=True),
    "wide heads": llama(head_dim=20, num_attention_heads=3, num_key_value_heads=3),
    "theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    "linear": llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "llama3": llama(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    ),
    "gelu, one layer": llama(hidden_act="gelu", num_hidden_layers=1, rms_norm_eps=1e-3),
}


def gpt2(**changes: Any) -> GPT2Config:
    settings: dict[str, Any] = {
        "vocab_size": 97,
        "n_positions": 160,
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return GPT2Config(**{**settings, **changes})


GPT2S: dict[str, GPT2Config] = {
    "plain": gpt2(),
    "inner, relu": gpt2(n_inner=72, activation_function="relu"),
    "untied": gpt2(tie_word_embeddings=False),
    "one head": gpt2(n_head=1, n_layer=1, layer_norm_epsilon=1e-3),
    "scaled by layer": gpt2(scale_attn_by_inverse_layer_idx=True),
    "unscaled scores": gpt2(scale_attn_weights=False, n_embd=24),
}


def bert(**changes: Any) -> BertConfig:
    settings: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "num_labels": 5,
    }
    return BertConfig(**{**settings, **changes})


BERTS: dict[str, BertConfig] = {
    "plain": bert(),
    "gelu_new, types": bert(hidden_act="gelu_new", type_vocab_size=4, intermediate_size=80),
    "untied": bert(tie_word_embeddings=False),
    "one layer": bert(num_hidden_layers=1, num_attention_heads=1, layer_norm_eps=1e-5),
}
