"""A Hugging Face folder of a GPT-2 or Llama as a GGUF file, for ``engine.py``. Needs gguf, numpy and safetensors.

All matrices get the wanted type, the table of tokens with them, so that a step reads as few bytes as the type allows; norms,
biases and positions stay float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Precision class -> type of the matrices.
TYPES = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}

GPT2 = {
    "transformer.wte.": "token_embd.",
    "transformer.wpe.": "position_embd.",
    "transformer.ln_f.": "output_norm.",
    "transformer.h.": "blk.",
    ".ln_1.": ".attn_norm.",
    ".attn.c_attn.": ".attn_qkv.",
    ".attn.c_proj.": ".attn_output.",
    ".ln_2.": ".ffn_norm.",
    ".mlp.c_fc.": ".ffn_up.",
    ".mlp.c_proj.": ".ffn_down.",
}
LLAMA = {
    "model.embed_tokens.": "token_embd.",
    "lm_head.": "output.",
    "model.norm.": "output_norm.",
    "model.layers.": "blk.",
    ".input_layernorm.": ".attn_norm.",
    ".self_attn.q_proj.": ".attn_q.",
    ".self_attn.k_proj.": ".attn_k.",
    ".self_attn.v_proj.": ".attn_v.",
    ".self_attn.o_proj.": ".attn_output.",
    ".post_attention_layernorm.": ".ffn_norm.",
    ".mlp.gate_proj.": ".ffn_gate.",
    ".mlp.up_proj.": ".ffn_up.",
    ".mlp.down_proj.": ".ffn_down.",
}


def write(folder: Path, target: Path, precision: str) -> None:
    """Write ``folder`` to the file ``target``."""
    import gguf
    from gguf import quants
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = config["model_type"]
    writer = gguf.GGUFWriter(target, family)
    writer.add_name(folder.name)
    kind = gguf.GGMLQuantizationType[TYPES[precision]]
    names, shape = (GPT2, _gpt2) if family == "gpt2" else (LLAMA, _llama)
    shape(writer, config)
    _tokenizer(writer, folder, config)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if family == "gpt2" and not name.startswith("transformer."):
            name = f"transformer.{name}"
        if family == "gpt2" and tensor.ndim == 2 and ".h." in name:
            tensor = tensor.T  # kept there as [in, out]
        if ".q_proj." in name or ".k_proj." in name:
            heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            tensor = _interleaved(tensor, heads)
        for old, new in names.items():
            name = name.replace(old, new)
        if tensor.ndim == 1 or name.startswith("position_embd"):
            writer.add_tensor(name, tensor.astype("float32"))
        else:
            matrix = tensor.astype("float32").copy()
            writer.add_tensor(name, quants.quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(tensor: Any, heads: int) -> Any:
    """Rows of each head in the order of the format's rotary kernel: the two halves of a pair side by side."""
    outputs, inputs = tensor.shape
    return tensor.reshape(heads, 2, outputs // heads // 2, inputs).swapaxes(1, 2).reshape(outputs, inputs)


def _gpt2(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _llama(writer: Any, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _tokenizer(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """The byte-level BPE of ``tokenizer.json``; entries that the model has and the tokenizer lacks get names of their own."""
    import gguf

    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {entry["id"]: entry["content"] for entry in stored["added_tokens"]}
    known = {index: text for text, index in stored["model"]["vocab"].items()} | added
    size = config["vocab_size"]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([known.get(index, f"[unused {index}]") for index in range(size)])
    writer.add_token_types(
        [
            kinds.CONTROL if index in added else kinds.NORMAL if index in known else kinds.UNUSED
            for index in range(size)
        ]
    )
    merges = stored["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
