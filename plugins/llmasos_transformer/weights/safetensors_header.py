"""The header of a safetensors file, checked more strictly than the reference parser does.

Format (huggingface/safetensors, README "Format"): 8 bytes little-endian header length n, n bytes of JSON starting with
``{``, then the data. The JSON maps each tensor name to ``dtype``, ``shape`` and ``data_offsets`` [begin, end) relative to
the data; ``__metadata__`` maps strings to strings. Beyond the reference parser this refuses duplicate keys, unknown
fields, names that look like paths out of the directory, a header over 16 MiB and more than a million tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.api import WeightsError

from .strict_json import parse_object

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 1_000_000
MAX_DIMS = 16

#: Bits per element of every dtype the format defines. Those not in ``READABLE`` are recognised but not read.
DTYPE_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "U64": 64, "U32": 32, "U16": 16, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
READABLE = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")

_NAME = re.compile(r"[\w.\-/]+", re.ASCII)
_DOWNLOAD_AGAIN = "the file is damaged or not a safetensors file; download it again and compare its sha256"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: ``begin`` is counted from the start of the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def is_tensor_name(name: str) -> bool:
    """Whether a tensor name is made of letters, digits and ``_.-/`` only and has no ``..`` step."""
    return (
        _NAME.fullmatch(name) is not None
        and ".." not in name
        and not name.startswith("/")
        and len(name) <= 512
    )


def _is_size(value: object) -> bool:
    # bool is a subclass of int: `true` would pass for 1.
    return type(value) is int and 0 <= value < 2**63


def _entry(path: Path, name: str, value: Any, data_start: int, data_size: int) -> StoredTensor:
    where = f"{path}: tensor {name[:120]!r}"
    if not is_tensor_name(name):
        raise WeightsError(
            f"{where}: the name may only have letters, digits and _ . - /", hint=_DOWNLOAD_AGAIN
        )
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        found = sorted(map(str, value))[:8] if isinstance(value, dict) else type(value).__name__
        raise WeightsError(
            f"{where}: must have exactly dtype, shape and data_offsets, has {found}", hint=_DOWNLOAD_AGAIN
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise WeightsError(
            f"{where}: unknown dtype {str(dtype)[:40]!r}", hint=f"known are {', '.join(DTYPE_BITS)}"
        )
    if dtype not in READABLE:
        raise WeightsError(
            f"{where}: dtype {dtype} cannot be read yet", hint=f"use a copy in one of {', '.join(READABLE)}"
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_is_size, shape)):
        raise WeightsError(
            f"{where}: shape {str(shape)[:80]} is not a list of at most {MAX_DIMS} whole numbers",
            hint=_DOWNLOAD_AGAIN,
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise WeightsError(
            f"{where}: data_offsets {str(offsets)[:80]} are not two whole numbers", hint=_DOWNLOAD_AGAIN
        )
    begin, end = offsets
    if not begin <= end <= data_size:
        raise WeightsError(
            f"{where}: data_offsets [{begin}, {end}] do not lie inside the {data_size} bytes of data; "
            f"the file is truncated or its header is wrong",
            hint=_DOWNLOAD_AGAIN,
        )
    nbytes = DTYPE_BITS[dtype] // 8
    for size in shape:
        nbytes *= size
    if nbytes != end - begin:
        raise WeightsError(
            f"{where}: {dtype} {shape} takes {nbytes} bytes but data_offsets [{begin}, {end}] span {end - begin}",
            hint=_DOWNLOAD_AGAIN,
        )
    return StoredTensor(dtype, tuple(shape), data_start + begin, nbytes)


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise WeightsError(f"{path}: __metadata__ must map strings to strings", hint=_DOWNLOAD_AGAIN)
    return value


def parse_header(path: Path, view: memoryview) -> SafetensorsHeader:
    """Check the header of a whole safetensors file (``view``) against the file's size.

    Raises WeightsError that says which entry is wrong and with which numbers.
    """
    size = len(view)
    if size < 10:
        raise WeightsError(f"{path}: {size} bytes is too short for a safetensors file", hint=_DOWNLOAD_AGAIN)
    length = int.from_bytes(view[:8], "little")
    if length > size - 8:
        raise WeightsError(
            f"{path}: states a header of {length} bytes but only {size - 8} follow; the file is truncated or not safetensors",
            hint=_DOWNLOAD_AGAIN,
        )
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: a header of {length} bytes is outside 2..{MAX_HEADER_BYTES}", hint=_DOWNLOAD_AGAIN
        )
    if view[8] != ord("{"):
        raise WeightsError(
            f"{path}: byte 8 is 0x{view[8]:02x}, a safetensors header starts with '{{'", hint=_DOWNLOAD_AGAIN
        )
    raw = bytes(view[8 : 8 + length])
    try:
        header = parse_object(raw)
    except ValueError as error:
        raise WeightsError(f"{path}: the header is {error}", hint=_DOWNLOAD_AGAIN) from error
    metadata = _metadata(path, header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise WeightsError(f"{path}: {len(header)} tensors, more than {MAX_TENSORS}", hint=_DOWNLOAD_AGAIN)
    data_start = 8 + length
    tensors = {
        name: _entry(path, name, value, data_start, size - data_start) for name, value in header.items()
    }
    position = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if tensor.begin != position:
            fault = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole before it"
            raise WeightsError(
                f"{path}: tensor {name!r} at data offset {tensor.begin - data_start} {fault} "
                f"(expected {position - data_start})",
                hint=_DOWNLOAD_AGAIN,
            )
        position += tensor.nbytes
    if position != size:
        raise WeightsError(
            f"{path}: the tensors end at byte {position} but the file has {size} bytes", hint=_DOWNLOAD_AGAIN
        )
    return SafetensorsHeader(tensors, metadata)
