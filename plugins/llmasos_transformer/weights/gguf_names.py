"""GGUF tensor names and layouts, and the Hugging Face ones they stand for.

llama.cpp's converter renames every tensor and changes three layouts; this undoes both:

* ``llama``: the rows of q and k are interleaved for its rotary kernel, [H, 2, d/2] -> [H, d/2, 2] within each head;
* ``gpt2``: linear weights are stored [out, in], where Hugging Face's GPT-2 keeps [in, out];
* sizes are written fastest-varying first (the header reader has turned them round already).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: What to do with the stored tensor: nothing, transpose it, or un-interleave its rows for ``heads`` heads.
Layout = Literal["same", "transposed", "rotary"]


@dataclass(frozen=True, slots=True)
class Rename:
    """The Hugging Face name of one stored tensor and how its layout differs."""

    name: str
    layout: Layout = "same"
    heads: int = 0


_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_BERT = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "cls": "pooler.dense",
    "cls.output": "classifier",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
_FAMILIES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "llama": ("model.layers", _LLAMA),
    "gpt2": ("transformer.h", _GPT2),
    "bert": ("encoder.layer", _BERT),
}
_GPT2_LINEAR = frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"})
_STORED = re.compile(r"(?:blk\.(?P<block>\d{1,6})\.)?(?P<part>[a-z_.]+?)(?P<kind>\.weight|\.bias)")

#: Rotary frequency factors of Llama 3 files: part of the configuration in Hugging Face, a tensor in GGUF.
ROPE_FACTORS = "rope_freqs.weight"


def rename(architecture: str, stored: str, heads: int, kv_heads: int) -> Rename:
    """The Hugging Face name and layout change of a stored tensor.

    Names of architectures or parts that are not known here are returned unchanged, so that the model family reports
    them as unexpected.
    """
    match = _STORED.fullmatch(stored)
    if architecture not in _FAMILIES or match is None:
        return Rename(stored)
    layers, parts = _FAMILIES[architecture]
    part, kind, block = match["part"], match["kind"], match["block"]
    if part not in parts:
        return Rename(stored)
    inside = parts[part] + kind
    name = inside if block is None else f"{layers}.{int(block)}.{inside}"
    return Rename(name, *_layout(architecture, part, kind, heads, kv_heads))


#: In the other direction: where the names of Hugging Face begin in a model with a head, per family.
_PREFIX = {"llama": "model.", "gpt2": "transformer."}


def stored_rename(architecture: str, name: str, heads: int, kv_heads: int) -> Rename | None:
    """The GGUF name of a Hugging Face tensor and how its layout differs; None for what GGUF has no place for."""
    if architecture not in _PREFIX:
        return None
    layers, parts = _FAMILIES[architecture]
    prefix = _PREFIX[architecture]
    if not name.startswith((prefix, "lm_head.")):
        name = prefix + name
    match = _HUGGING_FACE.fullmatch(name.removeprefix(f"{layers}."))
    if match is None:
        return None
    inside = name.startswith(f"{layers}.")
    if inside != (match["block"] is not None):
        return None
    part = next((stored for stored, one in parts.items() if one == match["part"]), None)
    if part is None:
        return None
    stored = (
        part + match["kind"] if match["block"] is None else f"blk.{int(match['block'])}.{part}{match['kind']}"
    )
    return Rename(stored, *_layout(architecture, part, match["kind"], heads, kv_heads))


_HUGGING_FACE = re.compile(
    r"(?:(?P<block>\d{1,6})\.)?(?P<part>[A-Za-z_][\w.]*?)(?P<kind>\.weight|\.bias)", re.ASCII
)


def _layout(architecture: str, part: str, kind: str, heads: int, kv_heads: int) -> tuple[Layout, int]:
    if architecture == "llama" and part in ("attn_q", "attn_k"):
        return "rotary", heads if part == "attn_q" else kv_heads
    if architecture == "gpt2" and part in _GPT2_LINEAR and kind == ".weight":
        return "transposed", 0
    return "same", 0
