"""Tiny random models on disk, in the layout of a Hugging Face repository, for tests that go through files.

A few thousand parameters each, seeded, readable by any tool that knows the format. The tokenizer has one token a byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: 256 bytes and the end of text.
VOCABULARY = 257
END = "<|endoftext|>"

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 256,
    },
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
        "eos_token_id": 256,
    },
    "bert": {
        "model_type": "bert",
        "architectures": ["BertForPreTraining"],
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
    },
}


def _llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, width)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.self_attn.q_proj.weight": (width, width),
            f"{layer}.self_attn.k_proj.weight": (keys, width),
            f"{layer}.self_attn.v_proj.weight": (keys, width),
            f"{layer}.self_attn.o_proj.weight": (width, width),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
        }
    return shapes


def _gpt2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner = config["n_embd"], 4 * config["n_embd"]
    shapes = {
        "transformer.wte.weight": (config["vocab_size"], width),
        "transformer.wpe.weight": (config["n_positions"], width),
        **_affine("transformer.ln_f", (width,)),
    }
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}"
        # Stored as [inputs, outputs], as GPT-2 was written with 1x1 convolutions.
        shapes |= {
            **_affine(f"{layer}.ln_1", (width,)),
            **_affine(f"{layer}.ln_2", (width,)),
            **_affine(f"{layer}.attn.c_attn", (width, 3 * width)),
            **_affine(f"{layer}.attn.c_proj", (width, width)),
            **_affine(f"{layer}.mlp.c_fc", (width, inner)),
            **_affine(f"{layer}.mlp.c_proj", (inner, width)),
        }
    return shapes


def _bert_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {
        "bert.embeddings.word_embeddings.weight": (vocabulary, width),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
        **_affine("bert.embeddings.LayerNorm", (width,)),
        **_affine("bert.pooler.dense", (width, width)),
        **_affine("cls.predictions.transform.dense", (width, width)),
        **_affine("cls.predictions.transform.LayerNorm", (width,)),
        "cls.predictions.bias": (vocabulary,),
        **_affine("cls.seq_relationship", (2, width), bias=2),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes |= _affine(f"{layer}.attention.self.{part}", (width, width))
        shapes |= {
            **_affine(f"{layer}.attention.output.dense", (width, width)),
            **_affine(f"{layer}.attention.output.LayerNorm", (width,)),
            **_affine(f"{layer}.intermediate.dense", (inner, width), bias=inner),
            **_affine(f"{layer}.output.dense", (width, inner), bias=width),
            **_affine(f"{layer}.output.LayerNorm", (width,)),
        }
    return shapes


def _affine(name: str, shape: tuple[int, ...], *, bias: int | None = None) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": (bias or shape[-1],)}


_SHAPES = {"llama": _llama_shapes, "gpt2": _gpt2_shapes, "bert": _bert_shapes}


def write_checkpoint(folder: Path, family: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """Write config.json, model.safetensors and tokenizer.json of a tiny random model; returns the folder.

    ``family`` is one of ``CONFIGS``; ``changes`` replace keys of its configuration.
    """
    import torch
    from safetensors.torch import save_file

    config = {**CONFIGS[family], **changes}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in sorted(_SHAPES[family](config).items()):
        values = 0.3 * torch.randn(*shape, generator=generator)
        # Norm weights lie around one, as in trained models.
        tensors[name] = 1 + values if len(shape) == 1 and name.endswith("weight") else values
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json: byte-level BPE without merges, ids 0 to 255 and the end of text."""
    alphabet = byte_alphabet()
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256,
                "content": END,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {**{character: byte for byte, character in enumerate(alphabet)}, END: 256},
            "merges": [],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019).

    Printable Latin-1 characters stand for themselves, the rest for the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
