"""A Hugging Face configuration from GGUF key-values.

Known families get the keys their ``config.json`` has. Of any other architecture the generic keys are translated, under
its own name as ``model_type``, so that the error about a missing plugin can name it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos.api import WeightsError

from .gguf_header import GgufHeader
from .shown_text import shown

_LARGEST = 1 << 31
FLT_MAX = 3.4028234663852886e38

#: GGUF architecture -> Hugging Face model_type, where the two differ.
_MODEL_TYPES = {
    "command-r": "cohere",
    "gptneox": "gpt_neox",
    "qwen2moe": "qwen2_moe",
    "starcoder": "gpt_bigcode",
}
_CLASSES = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "bert": "BertModel"}
_TOKEN_IDS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "padding_token_id": "pad_token_id",
    "unknown_token_id": "unk_token_id",
    "cls_token_id": "cls_token_id",
    "seperator_token_id": "sep_token_id",
    "mask_token_id": "mask_token_id",
}


class _Keys:
    """Key-values of one architecture, with the checks that every number needs."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self.path, self.values = path, header.values
        architecture = self.values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise WeightsError(
                f"{path}: general.architecture is {'missing' if architecture is None else repr(architecture)[:60]}",
                hint="without it nothing says which model this is; convert the original again",
            )
        self.architecture = architecture

    def refuse(self, key: str, value: object, wanted: str) -> WeightsError:
        return WeightsError(
            f"{self.path}: {key} is {repr(value)[:60]}, not {wanted}", hint="convert the original again"
        )

    def whole(self, name: str, default: int | None = None) -> int | None:
        """A whole number in 1..2^31 of this architecture, or ``default``."""
        key = f"{self.architecture}.{name}"
        value = self.values.get(key, default)
        if value is not None and (type(value) is not int or not 0 < value <= _LARGEST):
            raise self.refuse(key, value, f"a whole number from 1 to {_LARGEST}")
        return value

    def needed(self, name: str) -> int:
        value = self.whole(name)
        if value is None:
            raise WeightsError(
                f"{self.path}: the key {self.architecture}.{name} is missing",
                hint="convert the original again",
            )
        return value

    def real(self, name: str, default: float | None = None) -> float | None:
        """A finite number above zero of this architecture, or ``default``.

        The file stores 32-bit floats; the shortest decimal that rounds to the same 32-bit number is what was meant
        (1e-05, not 9.999999747378752e-06).
        """
        key = f"{self.architecture}.{name}"
        value = self.values.get(key, default)
        if value is None or value is default:
            return value
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value <= FLT_MAX:
            raise self.refuse(key, value, "a finite 32-bit number above zero")
        return _shortest(float(value))

    def text(self, name: str) -> str | None:
        key = f"{self.architecture}.{name}"
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refuse(key, value, "a string")
        return value


def _shortest(value: float) -> float:
    stored = struct.pack("<f", value)
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if short <= FLT_MAX and struct.pack("<f", short) == stored:
            return short
    return value


def _vocabulary(keys: _Keys, header: GgufHeader) -> int | None:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and len(embedding.shape) == 2:
        return embedding.shape[0]
    stated = keys.whole("vocab_size")
    if stated is not None:
        return stated
    tokens = keys.values.get("tokenizer.ggml.tokens")
    return len(tokens) if tokens is not None and not isinstance(tokens, str | int | float) else None


def _rope_scaling(keys: _Keys, context: int | None) -> dict[str, Any] | None:
    kind = keys.text("rope.scaling.type")
    factor = keys.real("rope.scaling.factor")
    if kind is None and factor is None:
        factor = keys.real("rope.scale_linear")  # the name before 2023-11
    if kind == "none" or (factor is None and kind in (None, "linear")):
        return None
    scaling: dict[str, Any] = {"rope_type": kind or "linear"}
    if factor is not None:
        scaling["factor"] = factor
    original = keys.whole("rope.scaling.original_context_length")
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    if kind == "yarn":
        if factor is None and original and context:
            scaling["factor"] = context / original
        for name, key in (
            ("attention_factor", "attn_factor"),
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
        ):
            if (value := keys.real(f"rope.scaling.{key}")) is not None:
                scaling[name] = value
    return scaling


def _llama(keys: _Keys, header: GgufHeader) -> dict[str, Any]:
    width, heads = keys.needed("embedding_length"), keys.needed("attention.head_count")
    rotary = keys.whole("rope.dimension_count")
    head = keys.whole("attention.key_length") or rotary
    if head is None:
        if width % heads:
            raise keys.refuse(
                "llama.attention.head_count", heads, f"a divisor of the embedding length {width}"
            )
        head = width // heads
    config: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": keys.needed("feed_forward_length"),
        "num_hidden_layers": keys.needed("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": keys.needed("context_length"),
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": keys.real("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(keys, keys.whole("context_length")),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        "tie_word_embeddings": bool(header.tensors) and "output.weight" not in header.tensors,
    }
    if rotary is not None and rotary != head:
        config["partial_rotary_factor"] = rotary / head
    return config


def _gpt2(keys: _Keys, header: GgufHeader) -> dict[str, Any]:
    return {
        "n_embd": keys.needed("embedding_length"),
        "n_inner": keys.needed("feed_forward_length"),
        "n_layer": keys.needed("block_count"),
        "n_head": keys.needed("attention.head_count"),
        "n_positions": keys.needed("context_length"),
        "n_ctx": keys.needed("context_length"),
        "layer_norm_epsilon": keys.real("attention.layer_norm_epsilon", 1e-5),
        "activation_function": "gelu_new",
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }


def _bert(keys: _Keys, header: GgufHeader) -> dict[str, Any]:
    segments = header.tensors.get("token_types.weight")
    stated = keys.values.get("tokenizer.ggml.token_type_count", 2)
    if type(stated) is not int or not 0 < stated <= _LARGEST:
        raise keys.refuse("tokenizer.ggml.token_type_count", stated, f"a whole number from 1 to {_LARGEST}")
    return {
        "hidden_size": keys.needed("embedding_length"),
        "intermediate_size": keys.needed("feed_forward_length"),
        "num_hidden_layers": keys.needed("block_count"),
        "num_attention_heads": keys.needed("attention.head_count"),
        "max_position_embeddings": keys.needed("context_length"),
        "layer_norm_eps": keys.real("attention.layer_norm_epsilon", 1e-12),
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "type_vocab_size": segments.shape[0] if segments is not None and segments.shape else stated,
    }


def _generic(keys: _Keys) -> dict[str, Any]:
    heads = keys.values.get(f"{keys.architecture}.attention.head_count")
    per_layer = heads is not None and type(heads) is not int  # some families state one number per layer
    found = {
        "hidden_size": keys.whole("embedding_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "max_position_embeddings": keys.whole("context_length"),
        "num_attention_heads": None if per_layer else keys.whole("attention.head_count"),
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon"),
        "layer_norm_eps": keys.real("attention.layer_norm_epsilon"),
        "rope_theta": keys.real("rope.freq_base"),
    }
    return {name: value for name, value in found.items() if value is not None}


def build_config(path: Path, header: GgufHeader) -> dict[str, Any]:
    """A configuration with Hugging Face's keys; ``model_type`` is always there.

    Raises WeightsError when a key that the family cannot do without is missing, or a number is of the wrong type or out
    of range.
    """
    keys = _Keys(path, header)
    architecture = keys.architecture
    experts = keys.values.get(f"{architecture}.expert_count")
    if architecture == "llama" and experts:
        # Mixtral is written under the name of llama; its tensors are another family's.
        return {"model_type": "mixtral", **_generic(keys)}
    families = {
        "llama": lambda: _llama(keys, header),
        "gpt2": lambda: _gpt2(keys, header),
        "bert": lambda: _bert(keys, header),
    }
    config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(architecture, architecture)}
    if architecture in families:
        config["architectures"] = [_CLASSES[architecture]]
    config.update(families[architecture]() if architecture in families else _generic(keys))
    config["vocab_size"] = _vocabulary(keys, header)
    if config["vocab_size"] is None:
        del config["vocab_size"]
    for stored, name in _TOKEN_IDS.items():
        value = keys.values.get(f"tokenizer.ggml.{stored}")
        if type(value) is int:
            config[name] = value
    return config


def metadata(header: GgufHeader) -> Mapping[str, str]:
    """Facts for ``model info`` from the ``general.`` keys."""
    facts = {
        name: shown(header.values[key])
        for name, key in (
            ("name", "general.name"),
            ("license", "general.license"),
            ("organization", "general.organization"),
            ("size", "general.size_label"),
            ("architecture", "general.architecture"),
        )
        if isinstance(header.values.get(key), str)
    }
    return {**facts, "file_format": f"GGUF v{header.version}"}
