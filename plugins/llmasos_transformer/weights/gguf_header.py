"""The header of a GGUF file: key-values and tensor infos, checked before anything else looks at the file.

Format (ggml, docs/gguf.md), all little-endian: magic ``GGUF``, u32 version, u64 tensor count, u64 key count; each key:
string, u32 value type, value; each tensor: string name, u32 dimensions, u64 sizes with the fastest-varying first, u32
element type, u64 offset from the start of the data; then padding to ``general.alignment`` and the data. A string is a u64
length and UTF-8 bytes; an array a u32 element type, a u64 count and the elements.

Reading is one pass that touches each header byte once and allocates by what was found, never by what was announced.
Strings inside arrays are located, not decoded: a 150 000-token vocabulary opens in a fraction of a second.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.api import MissingDependency, WeightsError

from .gguf_arrays import NumberArray, TextArray
from .mapping import MappedFile
from .safetensors_header import is_tensor_name

VERSIONS = (2, 3)
MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES = 65_535  # the format's own limit
MAX_NAME_BYTES = 256  # the format says 64; some converters go beyond
MAX_TEXT_BYTES = 16 * 1024 * 1024
#: Strings inside arrays, in the whole file: each costs 8 bytes of memory for its position.
MAX_STRINGS = 16 * 1024 * 1024
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY, _BOOL = 8, 9, 7
#: Value type number -> struct format of one element.
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<B",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64")
# The shortest possible key (1-byte name, 1-byte value) and tensor info (1-byte name, no dimensions).
_LEAST_KEY_BYTES = 8 + 1 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8
_KEY = re.compile(rb"[\x21-\x7e]+")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_DOWNLOAD_AGAIN = "the file is damaged or not a GGUF file; download it again and compare its sha256"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One stored tensor. ``shape`` has the slowest-varying dimension first, as torch counts; ``begin`` is from the start
    of the file."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    begin: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything before the data. ``values`` holds numbers, strings, booleans and lazy arrays by key, which lie in the bytes
    ``keys_begin`` to ``keys_end``."""

    version: int
    alignment: int
    values: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    keys_begin: int = 0
    keys_end: int = 0


def import_gguf() -> Any:
    """The gguf package, which knows block sizes and arithmetic of each quantised type (numpy comes with it, so only
    files that have tensors pay for the import). Raises MissingDependency."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependency(
            "reading the tensors of a GGUF file needs the gguf package", hint="pip install 'llmasos[torch]'"
        ) from error
    return gguf


class _Reader:
    """A cursor over the file that cannot leave it."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path, self.view, self.size, self.at = path, view, len(view), 0
        self.strings_left = MAX_STRINGS

    def refuse(self, what: str, at: int | None = None) -> WeightsError:
        return WeightsError(
            f"{self.path}: byte {self.at if at is None else at}: {what}", hint=_DOWNLOAD_AGAIN
        )

    def need(self, count: int, what: str) -> int:
        """The position before ``count`` bytes, which are now behind the cursor."""
        start = self.at
        if count > self.size - start:
            raise self.refuse(
                f"{what} needs {count} bytes but the file has {self.size - start} more; it is truncated or lies"
            )
        self.at = start + count
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.view, self.need(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.view, self.need(8, what))[0])

    def text(self, limit: int, what: str) -> bytes:
        start = self.at
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise self.refuse(f"{what} is said to be {length} bytes long, the limit is {limit}", start)
        begin = self.need(length, what)
        return bytes(self.view[begin : self.at])

    def value(self, key: str) -> Any:
        start = self.at
        kind = self.u32(f"the type of {key}")
        if kind == _STRING:
            raw = self.text(MAX_TEXT_BYTES, key)
            try:
                return raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self.refuse(
                    f"{key} is not UTF-8: {error.reason} at its byte {error.start}", start
                ) from error
        if kind == _ARRAY:
            return self.elements(key)
        if kind not in _SCALARS:
            raise self.refuse(f"{key} has the unknown value type {kind}", start)
        code = _SCALARS[kind]
        (value,) = struct.unpack_from(code, self.view, self.need(struct.calcsize(code), key))
        if kind == _BOOL:
            if value > 1:
                raise self.refuse(f"{key} is a boolean with the value {value}", start)
            return bool(value)
        return value

    def elements(self, key: str) -> Sequence[Any]:
        start = self.at
        kind = self.u32(f"the element type of {key}")
        count = self.u64(f"the length of {key}")
        if kind == _ARRAY:
            raise self.refuse(f"{key} is an array of arrays, which no reader supports", start)
        if kind == _STRING:
            return self.strings(key, count, start)
        if kind not in _SCALARS:
            raise self.refuse(f"{key} has the unknown element type {kind}", start)
        code = _SCALARS[kind]
        begin = self.need(count * struct.calcsize(code), f"{key}, said to have {count} elements,")
        data = self.view[begin : self.at]
        if kind == _BOOL:
            for piece in range(0, count, 1 << 20):
                if bytes(data[piece : piece + (1 << 20)]).strip(b"\0\1"):
                    raise self.refuse(f"{key} is an array of booleans with values other than 0 and 1", start)
        return NumberArray(key, data, code, kind == _BOOL)

    def strings(self, key: str, count: int, start: int) -> TextArray:
        if count * 8 > self.size - self.at:
            raise self.refuse(
                f"{key} is said to have {count} strings but only {self.size - self.at} bytes follow", start
            )
        if count > self.strings_left:
            raise self.refuse(f"{key} has {count} strings, the file may have {self.strings_left} more", start)
        self.strings_left -= count
        starts = array("Q")
        # The loop that large vocabularies spend their time in: no calls but these two.
        unpack, note, view, size, at = _U64.unpack_from, starts.append, self.view, self.size, self.at
        last = size - 8
        for index in range(count):
            if at > last:
                raise self.refuse(f"{key}[{index}] of {count} starts at the end of the file", at)
            (length,) = unpack(view, at)
            if length > MAX_TEXT_BYTES or length > last - at:
                raise self.refuse(
                    f"{key}[{index}] of {count} is said to be {length} bytes long; "
                    f"{last - at} follow and the limit is {MAX_TEXT_BYTES}",
                    at,
                )
            note(at)
            at += 8 + length
        self.at = at
        return TextArray(self.path, key, view, starts)


def _count(reader: _Reader, what: str, least: int, limit: int) -> int:
    start = reader.at
    count = reader.u64(f"the number of {what}")
    if count > limit:
        raise reader.refuse(f"{count} {what} announced, the limit is {limit}", start)
    if count * least > reader.size - reader.at:
        raise reader.refuse(
            f"{count} {what} announced but only {reader.size - reader.at} bytes follow", start
        )
    return count


def _alignment(reader: _Reader, values: Mapping[str, Any]) -> int:
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise WeightsError(
            f"{reader.path}: general.alignment is {str(alignment)[:40]}, not a power of two up to {MAX_ALIGNMENT}",
            hint=_DOWNLOAD_AGAIN,
        )
    return alignment


def _tensor_info(
    reader: _Reader, types: Mapping[int, tuple[str, int, int]]
) -> tuple[str, tuple[int, ...], str, int, int]:
    """(name, shape, type name, offset into the data, bytes) of the tensor info at the cursor."""
    start = reader.at
    name = reader.text(MAX_NAME_BYTES, "a tensor name").decode("latin-1")
    if not is_tensor_name(name):
        raise reader.refuse(
            f"the tensor name {name[:120]!r} may only have letters, digits and _ . - /", start
        )
    dims = reader.u32(f"the number of dimensions of {name}")
    if dims > MAX_DIMS:
        raise reader.refuse(f"{name} has {dims} dimensions, the limit is {MAX_DIMS}", start)
    sizes = [reader.u64(f"the sizes of {name}") for _ in range(dims)]
    number = reader.u32(f"the element type of {name}")
    offset = reader.u64(f"the offset of {name}")
    if number not in types:
        raise reader.refuse(
            f"{name} has the unknown element type {number}; a newer `gguf` package may know it", start
        )
    type_name, block_elements, block_bytes = types[number]
    elements = 1
    for size in sizes:
        elements *= size
    if not 0 < elements < 2**63:
        raise reader.refuse(f"{name} has sizes {sizes}: {elements} elements", start)
    row = sizes[0] if sizes else 1
    if row % block_elements:
        raise reader.refuse(
            f"{name} has rows of {row} elements, but {type_name} comes in blocks of {block_elements}", start
        )
    return name, tuple(reversed(sizes)), type_name, offset, elements // block_elements * block_bytes


def _tensors(reader: _Reader, count: int, values: Mapping[str, Any]) -> tuple[int, dict[str, GgufTensor]]:
    types = {int(kind): (kind.name, *sizes) for kind, sizes in import_gguf().GGML_QUANT_SIZES.items()}
    infos = [_tensor_info(reader, types) for _ in range(count)]
    alignment = _alignment(reader, values)
    data_start = -(-reader.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, type_name, offset, nbytes in infos:
        if name in tensors:
            raise WeightsError(f"{reader.path}: the tensor {name} appears twice", hint=_DOWNLOAD_AGAIN)
        if offset % alignment:
            raise WeightsError(
                f"{reader.path}: tensor {name}: its offset {offset} is not a multiple of {alignment}",
                hint=_DOWNLOAD_AGAIN,
            )
        if data_start + offset + nbytes > reader.size:
            raise WeightsError(
                f"{reader.path}: tensor {name}: {nbytes} bytes at {data_start + offset} end beyond the file's "
                f"{reader.size} bytes; the file is truncated or its header is wrong",
                hint=_DOWNLOAD_AGAIN,
            )
        tensors[name] = GgufTensor(name, shape, type_name, data_start + offset, nbytes)
    previous_end, previous = data_start, "the header"
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.begin):
        if tensor.begin < previous_end:
            raise WeightsError(
                f"{reader.path}: tensor {tensor.name} at byte {tensor.begin} overlaps {previous}, "
                f"which ends at {previous_end}",
                hint=_DOWNLOAD_AGAIN,
            )
        previous_end, previous = tensor.begin + tensor.nbytes, tensor.name
    return alignment, tensors


def parse_header(path: Path, view: memoryview) -> GgufHeader:
    """Check and read the header of a whole GGUF file (``view``).

    Raises WeightsError with the byte position and the numbers that do not fit.
    """
    reader = _Reader(path, view)
    if bytes(view[:4]) != b"GGUF":
        raise WeightsError(
            f"{path}: does not start with GGUF but with {bytes(view[:4])!r}", hint=_DOWNLOAD_AGAIN
        )
    reader.at = 4
    version = reader.u32("the version")
    if version not in VERSIONS:
        if version and version & 0xFFFF == 0:
            raise WeightsError(
                f"{path}: a big-endian GGUF file", hint="convert it to little-endian with gguf-convert-endian"
            )
        raise WeightsError(
            f"{path}: GGUF version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} can be read",
            hint="convert the original model again with a current converter",
        )
    tensor_count = _count(reader, "tensors", _LEAST_TENSOR_BYTES, MAX_TENSORS)
    key_count = _count(reader, "keys", _LEAST_KEY_BYTES, MAX_KEYS)
    values: dict[str, Any] = {}
    keys_begin = reader.at
    for _ in range(key_count):
        start = reader.at
        raw = reader.text(MAX_KEY_BYTES, "a key")
        if not _KEY.fullmatch(raw):
            raise reader.refuse(f"the key {raw[:80]!r} is not printable ASCII", start)
        key = raw.decode("ascii")
        if key in values:
            raise reader.refuse(f"the key {key[:120]} appears twice", start)
        values[key] = reader.value(key)
    keys_end = reader.at
    alignment, tensors = (
        _tensors(reader, tensor_count, values) if tensor_count else (_alignment(reader, values), {})
    )
    return GgufHeader(version, alignment, values, tensors, keys_begin, keys_end)


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file, without torch or a configuration: what a tokenizer or ``model info`` needs.

    Arrays keep the map of the file alive and are read from it on access. Raises ModelNotFound and WeightsError.
    """
    return parse_header(path, MappedFile(path).view)
