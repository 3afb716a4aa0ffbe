"""Which files a model repository may hold, and whether a safetensors file is what it says. Used by publisher and server.

Nothing is ever loaded from a model repository as code, so formats that run code when they are read (pickle and what wraps
it, Python, native libraries) are refused by name and by their first bytes. Of a safetensors file the header is read
strictly: the reference parser takes duplicate keys, hostile names and unknown fields, this one does not.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from llmasos.errors import InputError
from llmasos_registry.strict_json import loads

#: Bytes of a header. The largest public models have about 5 MB in one file.
MAX_HEADER = 16 << 20
MAX_TENSORS = 1_000_000
MAX_DIMENSIONS = 16
#: How many bytes of a file ``check_content`` wants to see.
HEAD = 16
#: Bytes of a configuration that is read; a vocabulary does not belong into it.
MAX_CONFIG = 8 << 20
#: Formats that nothing executes; their first bytes are not looked at.
_TEXTS = (".json", ".jsonl", ".txt", ".md", ".toml", ".yaml", ".yml", ".csv", ".tsv", ".jinja", ".sig")

#: Bits of one element.
_BITS: Mapping[str, int] = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_NAME = re.compile(r"[\w.\-/:+]{1,512}", re.ASCII)

_CONVERT = "convert the weights to safetensors: model.save_pretrained(FOLDER), or safetensors.torch.save_file(tensors, FILE)"
_NO_CODE = "leave code out; what needs code belongs into a plugin: docs/tutorials/first-plugin.md"
_PICKLES = frozenset(
    [
        ".bin",
        ".ckpt",
        ".dill",
        ".h5",
        ".hdf5",
        ".joblib",
        ".keras",
        ".mar",
        ".nemo",
        ".npy",
        ".npz",
        ".pdparams",
        ".pickle",
        ".pkl",
        ".pt",
        ".pt2",
        ".pth",
    ]
)
_CODE = frozenset(
    [
        ".bat",
        ".cmd",
        ".dll",
        ".dylib",
        ".egg",
        ".exe",
        ".jar",
        ".ps1",
        ".py",
        ".pyc",
        ".pyd",
        ".pyw",
        ".sh",
        ".so",
        ".whl",
    ]
)
#: Data sets are often kept as arrays; models are not.
_DATA_ONLY = frozenset({".npy", ".npz", ".h5", ".hdf5", ".bin"})
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x7fELF", "a native program"),
    (b"MZ", "a native program"),
    (b"\xfe\xed\xfa", "a native program"),
    (b"\xcf\xfa\xed\xfe", "a native program"),
    (b"\xca\xfe\xba\xbe", "a native program"),
    (b"#!", "a script"),
)


class WeightsRefused(InputError):
    """A file that has no place in a model repository, or lies about itself; the message names it and the rule."""


class Header(NamedTuple):
    """What a safetensors header says: number of tensors, bytes of data, and how many tensors there are of each type."""

    tensors: int
    data: int
    dtypes: Mapping[str, int]


def check_file(path: str, size: int, opened: Callable[[], BinaryIO], kind: str = "model") -> None:
    """Everything that can be said of one file of a repository; ``opened`` opens it. What publisher and server ask.

    Raises WeightsRefused naming the file and the rule, and what ``opened`` raises.
    """
    # A dataset may well consist of source code; what loaders run is the script at its top.
    if kind == "dataset" and path.endswith(".py") and "/" in path:
        return
    lower = path.lower()
    config = kind == "model" and lower.endswith("config.json")
    if lower.endswith(_TEXTS) and not config:
        return check_content(path, b"", kind)
    with opened() as content:
        if config:
            return _check_config(path, content.read(MAX_CONFIG + 1))
        check_content(path, content.read(HEAD), kind)
        if lower.endswith(".safetensors"):
            content.seek(0)
            check_safetensors(content, size, path)


def _check_config(path: str, data: bytes) -> None:
    """Refuse a configuration that names code to download and run, or is none."""
    if len(data) > MAX_CONFIG:
        raise WeightsRefused(f"{path} has more than {MAX_CONFIG} bytes")
    try:
        # No key twice: another parser might take the `auto_map` that this one does not see.
        waiting = [loads(data, constants=True)]
    except ValueError as error:
        raise WeightsRefused(f"{path} is not valid JSON: {str(error)[:200]}") from error
    # No recursion: the nesting is the sender's.
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if item.get("auto_map"):
                raise WeightsRefused(
                    f"{path} has `auto_map`, which makes some tools run code out of a repository",
                    hint="remove `auto_map`; what needs code names its plugin in llmasos.toml",
                )
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def check_content(path: str, head: bytes, kind: str = "model") -> None:
    """Refuse formats that run code when they are read. ``head`` is the file's first ``HEAD`` bytes, ``kind`` model or dataset.

    Raises WeightsRefused naming the file, the format and what to do.
    """
    suffix = PurePosixPath(path).suffix.lower()
    pickles = _PICKLES - _DATA_ONLY if kind == "dataset" else _PICKLES
    if suffix in _CODE:
        raise WeightsRefused(f"{path} is code, and a {kind} repository holds none", hint=_NO_CODE)
    if suffix in pickles:
        raise WeightsRefused(
            f"{path} is of a format that can run code when it is loaded ({suffix})", hint=_CONVERT
        )
    # Protocols 2 to 5 begin like this; older ones are plain text and cannot be told from it.
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        raise WeightsRefused(f"{path} holds a pickle, whatever its name says", hint=_CONVERT)
    if kind == "model" and head.startswith(b"PK\x03\x04"):
        raise WeightsRefused(f"{path} is a zip archive, which may hold pickles", hint=_CONVERT)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise WeightsRefused(f"{path} is {what}, whatever its name says", hint=_NO_CODE)
    if suffix == ".gguf" and not head.startswith(b"GGUF"):
        raise WeightsRefused(
            f"{path} does not begin like a GGUF file: expected GGUF, found {ascii(head[:4])[2:-1]}"
        )


def check_safetensors(file: BinaryIO, size: int, path: str) -> Header:
    """Read and check the header of a safetensors file of ``size`` bytes; ``path`` names it in messages.

    Checked: length, JSON with unique keys, names, types, shapes, and offsets that cover the data exactly, without gaps or
    overlaps. Raises WeightsRefused naming file, tensor and rule.
    """
    start = file.read(8)
    if len(start) < 8:
        raise WeightsRefused(f"{path} has {size} bytes and is no safetensors file")
    length = int.from_bytes(start, "little")
    if not 2 <= length <= MAX_HEADER or 8 + length > size:
        raise WeightsRefused(
            f"{path}: the header is said to have {length} bytes, expected at most {min(MAX_HEADER, max(size - 8, 0))}"
        )
    header = file.read(length)
    if len(header) != length or not header.startswith(b"{"):
        raise WeightsRefused(f"{path}: the header is cut off or does not begin with {{")
    try:
        entries = loads(header)
    except ValueError as error:
        raise WeightsRefused(f"{path}: the header is not valid JSON: {str(error)[:200]}") from error
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsRefused(f"{path}: __metadata__ holds something else than text")
    if len(entries) > MAX_TENSORS:
        raise WeightsRefused(f"{path} has {len(entries)} tensors, at most {MAX_TENSORS} are taken")
    data = size - 8 - length
    spans: list[tuple[int, int, str]] = []
    dtypes: dict[str, int] = {}
    for name, entry in entries.items():
        begin, end, dtype = _tensor(path, name, entry)
        spans.append((begin, end, name))
        dtypes[dtype] = dtypes.get(dtype, 0) + 1
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            word = "overlaps the one before it" if begin < position else "leaves a gap before it"
            raise WeightsRefused(f"{path}: {name} {word}: it begins at {begin}, expected {position}")
        position = end
    if position != data:
        raise WeightsRefused(
            f"{path}: the tensors have {position} bytes, the file has {data}; is it cut off?"
        )
    return Header(len(entries), data, dtypes)


def _tensor(path: str, name: str, entry: object) -> tuple[int, int, str]:
    shown = f"{path}: tensor {ascii(name[:80])[1:-1]}"
    if not _NAME.fullmatch(name) or ".." in name.split("/") or name.startswith("/"):
        raise WeightsRefused(f"{shown} has a name that is no name of a tensor")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsRefused(f"{shown} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise WeightsRefused(f"{shown} is of the unknown type {str(dtype)[:20]!r}")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS or not _counts(offsets) or len(offsets) != 2:
        raise WeightsRefused(f"{shown} has a malformed shape or malformed offsets")
    bits = prod(shape) * _BITS[dtype]
    begin, end = offsets
    if bits % 8 or end - begin != bits // 8:
        raise WeightsRefused(f"{shown} has {end - begin} bytes, expected {bits / 8:g} for {dtype} {shape}")
    return begin, end, dtype


def _counts(value: object) -> bool:
    """A list of whole numbers that fit into 63 bits; True and 1.0 are none."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
