"""A Hugging Face model directory: config.json, one weight file or an index of shards, and what README.md declares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmasos.api import LlmasosError, ModelNotFound, WeightsError

from .mapping import names_in, read_bounded
from .safetensors_header import is_tensor_name
from .shown_text import shown
from .strict_json import parse_object

MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_INDEX_BYTES = 64 * 1024 * 1024

_SHARD_NAME = re.compile(r"[\w\-][\w.\-]*", re.ASCII)
_README_LICENSE = re.compile(r"^license:[ \t]*[\"']?([\w.\-+]{1,64})", re.MULTILINE)

#: Class name before "ForCausalLM", "Model", "LMHeadModel" and so on -> model_type.
_CLASS_FAMILIES = {
    "Albert": "albert", "Bart": "bart", "Bert": "bert", "Bloom": "bloom", "DistilBert": "distilbert",
    "Electra": "electra", "GPT2": "gpt2", "GPTNeo": "gpt_neo", "GPTNeoX": "gpt_neox", "GPTJ": "gptj", "Gemma": "gemma",
    "Gemma2": "gemma2", "Llama": "llama", "Marian": "marian", "MarianMT": "marian", "Mistral": "mistral",
    "Mixtral": "mixtral", "OPT": "opt", "Phi": "phi", "Phi3": "phi3", "Qwen2": "qwen2", "Qwen3": "qwen3",
    "Roberta": "roberta", "T5": "t5", "XLMRoberta": "xlm-roberta",
}  # fmt: skip
_CLASS = re.compile(r"([A-Z][A-Za-z0-9]*?)(?:For[A-Z]\w*|LMHeadModel|DoubleHeadsModel|EncoderModel|Model)")
_MODEL_TYPE_HINT = 'add "model_type" (for example "bert", "gpt2" or "llama") to config.json'


def read_json_object(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a file the model's author wrote.

    Raises ModelNotFound when it is missing; WeightsError when it is over ``limit`` bytes, not UTF-8, not JSON, not an
    object, or has a key twice at any level.
    """
    try:
        return parse_object(read_bounded(path, limit), constants=True)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}", hint="download it again") from error


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory. Raises WeightsError when it is missing or not a JSON object."""
    path = directory / "config.json"
    try:
        return read_json_object(path, MAX_CONFIG_BYTES)
    except ModelNotFound as error:
        raise WeightsError(
            f"{directory}: no config.json beside the weights",
            hint="tensors alone do not say which model they are: put the model's config.json in the same directory",
        ) from error


def _family_of_class(name: str) -> str | None:
    match = _CLASS.fullmatch(name)
    return _CLASS_FAMILIES.get(match[1]) if match else None


def _family_of_tensors(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Families whose tensor names belong to nobody else, given what the configuration says."""
    if {"n_embd", "n_layer", "n_head"} <= config.keys():
        # Some GPT-2 descendants keep the names but store linear layers [out, in]; GPT-2 stores [in, out].
        for prefix in ("transformer.", ""):
            shape = shapes.get(f"{prefix}h.0.attn.c_attn.weight", ())
            if len(shape) == 2 and shape[1] == 3 * shape[0] and f"{prefix}wpe.weight" in shapes:
                return "gpt2"
    attention = "encoder.layer.0.attention.self.query.weight"
    if f"bert.{attention}" in shapes and "bert.embeddings.token_type_embeddings.weight" in shapes:
        return "bert"
    # Without the prefix RoBERTa and ELECTRA look alike: RoBERTa has one segment, ELECTRA no pooler.
    segments = shapes.get("embeddings.token_type_embeddings.weight", (0,))[0]
    if (
        attention in shapes
        and "pooler.dense.weight" in shapes
        and segments >= 2
        and "embedding_size" not in config
    ):
        return "bert"
    return None


def with_model_type(
    path: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The configuration with ``model_type`` present: as written, else from ``architectures``, else from tensor names.

    ``path`` is the configuration's, for messages. Raises WeightsError when nothing says unambiguously what it is.
    """
    stated = config.get("model_type")
    if stated is not None:
        if not isinstance(stated, str) or not stated.strip():
            raise WeightsError(
                f"{path}: model_type must be a name, is {str(stated)[:60]!r}", hint=_MODEL_TYPE_HINT
            )
        return config
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path}: architectures must be a list of names", hint=_MODEL_TYPE_HINT)
    families = {family for name in classes if (family := _family_of_class(name))}
    if not classes and (family := _family_of_tensors(config, shapes)):
        families = {family}
    if len(families) != 1:
        found = f"architectures {classes}" if classes else f"{len(shapes)} tensor names"
        raise WeightsError(
            f"{path}: no model_type, and {found} do not settle which it is", hint=_MODEL_TYPE_HINT
        )
    return {**config, "model_type": families.pop()}


def read_index(directory: Path, name: str, suffix: str) -> dict[str, list[str]]:
    """A shard index (``weight_map``: tensor -> shard): the tensors promised for each shard, shards in name order.

    Shards must be plain file names ending in ``suffix`` that lie in the directory itself. Raises WeightsError.
    """
    path = directory / name
    index = read_json_object(path, MAX_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(
            f"{path}: weight_map must map tensor names to shard files", hint="download it again"
        )
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not is_tensor_name(tensor):
            raise WeightsError(
                f"{path}: the tensor name {tensor[:120]!r} may only have letters, digits and _ . - /",
                hint="download it again",
            )
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard) or not shard.endswith(suffix):
            raise WeightsError(
                f"{path}: tensor {tensor[:120]!r} is said to lie in {str(shard)[:120]!r}, "
                f"which is not the name of a {suffix} file in this directory",
                hint="a shard is a plain file name beside the index",
            )
        shards.setdefault(shard, []).append(tensor)
    missing = [shard for shard in sorted(shards) if not (directory / shard).is_file()]
    if missing:
        raise WeightsError(
            f"{path}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}",
            hint="download the missing files",
        )
    return dict(sorted(shards.items()))


def compare_shard(index: Path, shard: str, promised: Iterable[str], stored: Iterable[str]) -> None:
    """Raise WeightsError unless a shard holds exactly the tensors that the index promises for it."""
    promised, stored = set(promised), set(stored)
    missing, extra = sorted(promised - stored), sorted(stored - promised)
    if missing or extra:
        told = [
            f"lacks {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" if missing[5:] else "")
        ] * bool(missing)
        told += [f"has {', '.join(extra[:5])}" + (f" and {len(extra) - 5} more" if extra[5:] else "")] * bool(
            extra
        )
        raise WeightsError(
            f"{index}: does not fit {shard}: the shard {' and also '.join(told)}, against the index",
            hint="index and shards are of different versions; download both again",
        )


def describe(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Facts for ``model info`` that do not depend on the weight format: name, licence, code the model asks to run."""
    facts: dict[str, str] = {}
    if isinstance(name := config.get("_name_or_path"), str) and name:
        facts["name"] = shown(name)
    if config.get("auto_map"):
        facts["custom_code"] = (
            "config.json names Python classes in auto_map; they are never imported or executed"
        )
    try:
        readme = read_bounded(directory / "README.md", MAX_CONFIG_BYTES).decode("utf-8", "replace")
    except LlmasosError:
        return facts
    if readme.startswith("---") and (match := _README_LICENSE.search(readme[: readme.find("\n---", 3) + 1])):
        facts["license"] = match[1]
    return facts


def safest_format(directory: Path) -> str:
    """Which format a directory is to be read as: "safetensors", else "gguf", else "pickle", else "".

    Repositories often ship several. The order puts formats that cannot hold code first, so that a pickle is only ever
    considered when there is nothing else.
    """
    try:
        names = set(names_in(directory))
    except LlmasosError:
        return ""
    if names & {"model.safetensors", "model.safetensors.index.json"}:
        return "safetensors"
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    if names & {"pytorch_model.bin", "pytorch_model.bin.index.json"}:
        return "pickle"
    # Under another name (a variant, one shard without its index): opening it explains what to name instead.
    return "safetensors" if any(name.endswith(".safetensors") for name in names) else ""
