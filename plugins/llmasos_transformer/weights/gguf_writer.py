"""Models written as GGUF with quantised matrices, one tensor in memory at a time.

What a type is, llama.cpp decides; which tensor gets which is decided here: int8 is Q8_0 everywhere; int4 is Q4_1 in the layers
and Q8_0 for the table of tokens and the head, whose errors no layer makes up for. Norms, biases and position tables stay
float32, and so does a matrix whose rows are no whole blocks.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmasos.api import Checkpoint, QuantisedFile, QuantisedName, WeightsError

from . import gguf_keys
from .gguf import QUANTISED, GgufCheckpoint
from .gguf_header import import_gguf
from .gguf_names import Rename, stored_rename
from .rounding import GROUP, eight_bits, four_bits

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT = 32
_VERSION = 3
#: What the key general.file_type says of a file that is mostly of a type.
_FILE_TYPES = {"int8": 7, "int4": 3}
_FILE_TYPE_KEY = struct.pack("<Q", 17) + b"general.file_type" + struct.pack("<I", 4)
_WIDE = ("token_embd.weight", "output.weight")
#: Two dimensions, but looked up by place and small.
_TABLES = ("position_embd.weight", "token_types.weight")


class _Source(NamedTuple):
    """A tensor on its way: its name and shape in the file, its type there, and the bytes when they are wanted."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    nbytes: int
    read: Callable[[], bytes | memoryview]


def write(
    checkpoint: Checkpoint,
    target: Path,
    dtype: QuantisedName,
    importance: Mapping[str, Tensor],
    advance: Callable[[int], None],
) -> QuantisedFile:
    """See ``QuantisingFormat.quantise``. The file is complete when this returns; the caller gives it its name."""
    missing: tuple[str, ...] = ()
    alignment = _ALIGNMENT
    if isinstance(checkpoint, GgufCheckpoint):
        count, keys = checkpoint.key_bytes()
        alignment = checkpoint.alignment
        place = keys.find(_FILE_TYPE_KEY) + len(_FILE_TYPE_KEY)
        if place >= len(_FILE_TYPE_KEY):
            keys = keys[:place] + struct.pack("<I", _FILE_TYPES[dtype]) + keys[place + 4 :]
        sources = list(_from_gguf(checkpoint, dtype, importance))
    else:
        family = str(checkpoint.config.get("model_type"))
        if family not in ("llama", "gpt2"):
            raise WeightsError(
                f"{checkpoint.path}: models of the family {family!r} cannot be written as GGUF",
                hint="quantise when loading instead: --dtype int8",
            )
        made = gguf_keys.sizes(checkpoint.config, checkpoint.path)
        made.whole("general.file_type", _FILE_TYPES[dtype])
        made.whole("general.quantization_version", 2)
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        reason = gguf_keys.tokenizer(made, folder, checkpoint.config)
        missing = () if reason is None else (f"tokenizer: {reason}",)
        count, keys = made.count, made.data
        sources = list(_from_hugging_face(checkpoint, dtype, importance))
    _write(target, alignment, count, keys, sources, advance)
    types: Counter[str] = Counter()
    for source in sources:
        types[source.type_name] += source.nbytes
    return QuantisedFile(dict(types.most_common()), missing)


def _type_of(name: str, shape: tuple[int, ...], dtype: QuantisedName) -> str:
    if len(shape) != 2 or not name.endswith(".weight") or name in _TABLES or shape[1] % GROUP:
        return "F32"
    return "Q8_0" if dtype == "int8" or name in _WIDE else "Q4_1"


def _bytes_of(shape: tuple[int, ...], type_name: str) -> int:
    gguf = import_gguf()
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    total = 1
    for extent in shape:
        total *= extent
    return int(total // elements * size)


def _encoded(numbers: Tensor, type_name: str, moments: Tensor | None, name: str) -> bytes:
    try:
        if type_name == "Q4_1":
            found = four_bits(numbers, moments)
        elif type_name == "Q8_0":
            found = eight_bits(numbers)
        else:
            found = numbers.float().contiguous()
    except WeightsError as error:
        raise WeightsError(f"{name}: {error.message}", hint=error.hint) from error
    return found.numpy().tobytes()


def _from_gguf(
    checkpoint: GgufCheckpoint, dtype: QuantisedName, importance: Mapping[str, Tensor]
) -> Iterator[_Source]:
    moments = {checkpoint.stored_name(name): value for name, value in importance.items()}
    for stored in checkpoint.stored_tensors:
        type_name = _type_of(stored.name, stored.shape, dtype)
        size = _bytes_of(stored.shape, type_name)
        if (
            stored.type_name in QUANTISED and stored.nbytes <= size
        ):  # a number has no more in it than its bits
            yield _Source(
                stored.name,
                stored.shape,
                stored.type_name,
                stored.nbytes,
                lambda one=stored: checkpoint.stored_bytes(one),  # type: ignore[misc]
            )
            continue
        yield _Source(
            stored.name,
            stored.shape,
            type_name,
            size,
            lambda one=stored, kind=type_name: _encoded(  # type: ignore[misc]
                checkpoint.stored_numbers(one), kind, moments.get(one.name), one.name
            ),
        )


def _from_hugging_face(
    checkpoint: Checkpoint, dtype: QuantisedName, importance: Mapping[str, Tensor]
) -> Iterator[_Source]:
    config = checkpoint.config
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    tied = bool(config.get("tie_word_embeddings", config["model_type"] == "gpt2"))
    for name, info in checkpoint.tensors.items():
        new = stored_rename(str(config["model_type"]), name, heads, kv_heads)
        if new is None or (tied and new.name == "output.weight"):
            continue  # what is computed, or there already
        shape = info.shape[::-1] if new.layout == "transposed" else info.shape
        type_name = _type_of(new.name, shape, dtype)
        yield _Source(
            new.name,
            shape,
            type_name,
            _bytes_of(shape, type_name),
            lambda name=name, new=new, kind=type_name: _encoded(  # type: ignore[misc]
                _turned(checkpoint.tensor(name), new), kind, importance.get(name), name
            ),
        )
    factors = gguf_keys.rope_factors(config) if config["model_type"] == "llama" else None
    if factors is not None:
        packed = struct.pack(f"<{len(factors)}f", *factors)
        yield _Source("rope_freqs.weight", (len(factors),), "F32", len(packed), lambda: packed)


def _turned(numbers: Tensor, new: Rename) -> Tensor:
    """In the file's layout; of rotary heads the two halves of a pair lie side by side."""
    if new.layout == "transposed":
        return numbers.t()
    if new.layout == "rotary":
        return numbers.reshape(new.heads, 2, -1, *numbers.shape[1:]).transpose(1, 2).reshape(numbers.shape)
    return numbers


def _write(
    target: Path,
    alignment: int,
    count: int,
    keys: bytes,
    sources: list[_Source],
    advance: Callable[[int], None],
) -> None:
    gguf = import_gguf()
    infos, offset = [], 0
    for source in sources:
        raw = source.name.encode()
        sizes = source.shape[::-1]
        kind = int(gguf.GGMLQuantizationType[source.type_name])
        infos.append(
            struct.pack("<Q", len(raw))
            + raw
            + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
        )
        offset += -(-source.nbytes // alignment) * alignment
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(sources), count) + keys + b"".join(infos)
    with open(target, "xb") as file:
        file.write(head + bytes(-len(head) % alignment))
        for source in sources:
            data = source.read()
            assert len(data) == source.nbytes
            file.write(data)
            file.write(bytes(-source.nbytes % alignment))
            advance(1)
        file.flush()
        os.fsync(file.fileno())
