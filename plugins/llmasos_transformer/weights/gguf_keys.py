"""The key-values of a GGUF file made from a Hugging Face directory: sizes from its configuration, tokens from tokenizer.json.

Format (ggml, docs/gguf.md): a key is a string, a u32 type and the value; an array a u32 type, a u64 count and the elements.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import LlmasosError, WeightsError

from .directory import read_json_object
from .rope_factors import llama3_factors

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_MAX_TOKENIZER_BYTES = 256 * 1024 * 1024
#: Kinds of tokens.
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: How tokenizer.json splits a text -> what GGUF calls that.
_SPLITS = {_LLAMA3_SPLIT: "llama-bpe", _LLAMA3_SPLIT.replace("{1,3}", ""): "qwen2"}


class Keys:
    """Key-values in the making."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[bytes] = []

    @property
    def data(self) -> bytes:
        """All of them as the file has them."""
        return b"".join(self._parts)

    def _add(self, key: str, kind: int, value: bytes) -> None:
        self._parts.append(_text(key) + struct.pack("<I", kind) + value)
        self.count += 1

    def whole(self, key: str, value: int) -> None:
        self._add(key, _U32, struct.pack("<I", value))

    def real(self, key: str, value: float) -> None:
        self._add(key, _F32, struct.pack("<f", value))

    def flag(self, key: str, value: bool) -> None:
        self._add(key, _BOOL, struct.pack("<?", value))

    def text(self, key: str, value: str) -> None:
        self._add(key, _STRING, _text(value))

    def texts(self, key: str, values: Sequence[str]) -> None:
        body = b"".join(map(_text, values))
        self._add(key, _ARRAY, struct.pack("<IQ", _STRING, len(values)) + body)

    def wholes(self, key: str, values: Sequence[int]) -> None:
        body = struct.pack(f"<{len(values)}i", *values)
        self._add(key, _ARRAY, struct.pack("<IQ", _I32, len(values)) + body)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def sizes(config: Mapping[str, Any], path: Path) -> Keys:
    """What the configuration of a Llama or GPT-2 says. Raises WeightsError for a model that GGUF would compute otherwise."""
    keys, family = Keys(), str(config.get("model_type"))
    keys.text("general.architecture", family)
    keys.text("general.name", path.name)
    try:
        (_llama if family == "llama" else _gpt2)(keys, config)
    except (KeyError, TypeError, struct.error) as error:
        raise WeightsError(
            f"{path}: the configuration lacks what GGUF needs, or states it oddly: {error}",
            hint="see config.json",
        ) from error
    return keys


def _llama(keys: Keys, config: Mapping[str, Any]) -> None:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim") or width // heads
    rope = _rope(config)
    keys.whole("llama.context_length", config["max_position_embeddings"])
    keys.whole("llama.embedding_length", width)
    keys.whole("llama.feed_forward_length", config["intermediate_size"])
    keys.whole("llama.block_count", config["num_hidden_layers"])
    keys.whole("llama.attention.head_count", heads)
    keys.whole("llama.attention.head_count_kv", config.get("num_key_value_heads") or heads)
    keys.whole("llama.attention.key_length", head)
    keys.whole("llama.attention.value_length", head)
    keys.real("llama.attention.layer_norm_rms_epsilon", config.get("rms_norm_eps", 1e-6))
    keys.whole("llama.rope.dimension_count", head)
    keys.real("llama.rope.freq_base", float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    keys.whole("llama.vocab_size", config["vocab_size"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        keys.text("llama.rope.scaling.type", "linear")
        keys.real("llama.rope.scaling.factor", float(rope["factor"]))
    if kind not in ("default", "linear", "llama3") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError(
            f"rotary positions of the type {kind!r} cannot be written to GGUF",
            hint="quantise when loading instead: --dtype int8",
        )
    if config.get("hidden_act", "silu") != "silu":
        raise WeightsError(
            f"GGUF's llama has no activation {config['hidden_act']!r}",
            hint="quantise when loading instead: --dtype int8",
        )


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, Mapping) else {}


def rope_factors(config: Mapping[str, Any]) -> list[float] | None:
    """What GGUF keeps of Llama 3's rule: the factors of the frequencies. Raises WeightsError for another rule of that name."""
    rope = _rope(config)
    if rope.get("rope_type", rope.get("type")) != "llama3":
        return None
    known = (
        rope.get("low_freq_factor"),
        rope.get("high_freq_factor"),
        rope.get("original_max_position_embeddings"),
    )
    if tuple(known) != (1.0, 4.0, 8192):
        raise WeightsError("this Llama 3 rotary scaling is none that was released", hint="see config.json")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    return llama3_factors(head, theta, float(rope["factor"]))


def _gpt2(keys: Keys, config: Mapping[str, Any]) -> None:
    width = config["n_embd"]
    keys.whole("gpt2.context_length", config["n_positions"])
    keys.whole("gpt2.embedding_length", width)
    keys.whole("gpt2.feed_forward_length", config.get("n_inner") or 4 * width)
    keys.whole("gpt2.block_count", config["n_layer"])
    keys.whole("gpt2.attention.head_count", config["n_head"])
    keys.real("gpt2.attention.layer_norm_epsilon", config.get("layer_norm_epsilon", 1e-5))
    activation = config.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        raise WeightsError(
            f"GGUF's gpt2 has no activation {activation!r}",
            hint="quantise when loading instead: --dtype int8",
        )


def tokenizer(keys: Keys, directory: Path, config: Mapping[str, Any]) -> str | None:
    """Add the tokenizer of a directory. Returns why it cannot be said in GGUF, None when it was."""
    try:
        stored = read_json_object(directory / "tokenizer.json", _MAX_TOKENIZER_BYTES)
    except LlmasosError:
        return "there is no tokenizer.json to take it from"
    model = stored.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        return "only byte-level BPE of tokenizer.json is written to GGUF"
    rule = _split_rule(stored.get("pre_tokenizer"))
    if rule is None:
        return "GGUF has no name for how tokenizer.json splits a text"
    added = {
        one["id"]: one for one in stored.get("added_tokens") or () if isinstance(one, dict) and "id" in one
    }
    known: dict[int, str] = {index: text for text, index in model["vocab"].items()}
    known |= {index: str(one["content"]) for index, one in added.items()}
    size = int(config["vocab_size"])
    if any(not 0 <= index < size for index in known):
        return "the tokenizer has more entries than the model has rows"
    kinds = [_kind(index, known, added) for index in range(size)]
    keys.text("tokenizer.ggml.model", "gpt2")
    keys.text("tokenizer.ggml.pre", rule)
    keys.texts("tokenizer.ggml.tokens", [known.get(index, f"[unused {index}]") for index in range(size)])
    keys.wholes("tokenizer.ggml.token_type", kinds)
    merges = model.get("merges") or ()
    keys.texts(
        "tokenizer.ggml.merges", [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    )
    _special(keys, directory, {text: index for index, text in known.items()}, config)
    return None


def _kind(index: int, known: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> int:
    if index in added:
        return _CONTROL if added[index].get("special") else _USER
    return _NORMAL if index in known else _UNUSED


def _split_rule(stored: Any) -> str | None:
    """GGUF's name for the ``pre_tokenizer`` of tokenizer.json."""
    steps = (
        stored.get("pretokenizers")
        if isinstance(stored, dict) and stored.get("type") == "Sequence"
        else [stored]
    )
    steps = [step for step in steps or () if isinstance(step, dict)]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    before, regex = steps[:-1], steps[-1].get("use_regex", True)
    if not before and regex:
        return "gpt-2"
    if len(before) != 1:
        return None
    if before[0].get("type") == "Digits" and before[0].get("individual_digits") and regex:
        return "smollm"
    pattern = before[0].get("pattern")
    if before[0].get("type") == "Split" and isinstance(pattern, dict) and not regex:
        return _SPLITS.get(str(pattern.get("Regex")))
    return None


def _special(keys: Keys, directory: Path, ids: Mapping[str, int], config: Mapping[str, Any]) -> None:
    """Roles of tokens and the chat template, from tokenizer_config.json and the configuration."""
    try:
        stated = read_json_object(directory / "tokenizer_config.json", _MAX_TOKENIZER_BYTES)
    except LlmasosError:
        stated = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = stated.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        found = ids.get(text) if isinstance(text, str) else config.get(f"{role}_token_id")
        if type(found) is int:
            keys.whole(f"tokenizer.ggml.{key}_token_id", found)
    keys.flag("tokenizer.ggml.add_bos_token", bool(stated.get("add_bos_token", False)))
    template = stated.get("chat_template")
    path = directory / "chat_template.jinja"
    if template is None and path.is_file() and path.stat().st_size < 1 << 20:
        template = path.read_text(encoding="utf-8", errors="replace")
    if isinstance(template, str):
        keys.text("tokenizer.chat_template", template)
