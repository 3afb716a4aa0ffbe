"""Weight files made byte by byte, so that tests can put any lie into any field."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmasos.api import LlmasosError

LLAMA_CONFIG = {"model_type": "llama", "hidden_size": 8}

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_SCALARS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d"}  # fmt: skip
GGML_F32, GGML_F16, GGML_Q4_0, GGML_Q4_K = 0, 1, 2, 12


# ---- safetensors --------------------------------------------------------------------------------------------------------


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header (JSON is made of anything but bytes) and data; ``length`` overrides the stated length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: str = "F32", shape: Sequence[Any] = (2,), offsets: Sequence[Any] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# ---- GGUF ---------------------------------------------------------------------------------------------------------------


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def scalar(kind: int, value: Any) -> bytes:
    return struct.pack("<I", kind) + (text(value) if kind == STRING else struct.pack(_SCALARS[kind], value))


def elements(kind: int, values: Iterable[Any], count: int | None = None) -> bytes:
    listed = list(values)
    body = b"".join(text(value) if kind == STRING else struct.pack(_SCALARS[kind], value) for value in listed)
    return struct.pack("<IIQ", ARRAY, kind, len(listed) if count is None else count) + body


def pair(key: str | bytes, value: bytes) -> bytes:
    return text(key) + value


@dataclass(frozen=True)
class Stored:
    """A tensor info. ``sizes`` are in file order: fastest-varying first."""

    name: str | bytes = "output_norm.weight"
    sizes: tuple[int, ...] = (8,)
    kind: int = GGML_F32
    offset: int = 0
    dims: int | None = None

    def __bytes__(self) -> bytes:
        dims = len(self.sizes) if self.dims is None else self.dims
        sizes = struct.pack(f"<{len(self.sizes)}Q", *self.sizes)
        return text(self.name) + struct.pack("<I", dims) + sizes + struct.pack("<IQ", self.kind, self.offset)


LLAMA_KEYS = (
    pair("general.architecture", scalar(STRING, "llama")),
    pair("llama.embedding_length", scalar(U32, 8)),
    pair("llama.feed_forward_length", scalar(U32, 16)),
    pair("llama.block_count", scalar(U32, 1)),
    pair("llama.attention.head_count", scalar(U32, 2)),
    pair("llama.context_length", scalar(U32, 64)),
)


@dataclass(frozen=True)
class Gguf:
    """A small, valid GGUF file; every field can be replaced by a lie."""

    keys: tuple[bytes, ...] = LLAMA_KEYS
    tensors: tuple[Stored, ...] = (Stored(),)
    data: bytes = bytes(32)
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32
    extra: bytes = field(default=b"")

    def __bytes__(self) -> bytes:
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts)
        head += b"".join(self.keys) + b"".join(map(bytes, self.tensors))
        padding = -len(head) % self.alignment if self.tensors else 0
        return head + bytes(padding) + self.data + self.extra

    def with_keys(self, *pairs: bytes) -> Gguf:
        return replace(self, keys=(*self.keys, *pairs))


# ---- what must hold for any file ------------------------------------------------------------------------------------------


def outcome(open_it: Callable[[], Any]) -> str:
    """Open a checkpoint and read all of it: "opens", or the message of a LlmasosError. Anything else is raised."""
    try:
        checkpoint = open_it()
        for name, info in checkpoint.tensors.items():
            tensor = checkpoint.tensor(name)
            assert tuple(tensor.shape) == info.shape
        for value in checkpoint.header.values():
            list(value) if not isinstance(value, bool | int | float | str) else value
        checkpoint.close()
    except LlmasosError as error:
        return error.message or "an error without a message"
    return "opens"


def write(folder: Path, name: str, content: bytes, config: object = LLAMA_CONFIG) -> Path:
    """A weight file with its config.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / name).write_bytes(content)
    return folder / name


def limited(
    factory: str, files: Mapping[str, bytes], folder: Path, *, megabytes: int, seconds: int
) -> dict[str, Any]:
    """Outcome by name of opening each file in a child process with hard limits on address space and CPU time."""
    for name, content in files.items():
        write(folder, name, content)
    command = [sys.executable, str(Path(__file__).with_name("limited_child.py")), factory, str(folder)]
    done = subprocess.run(
        [*command, str(megabytes), str(seconds)],
        capture_output=True,
        text=True,
        timeout=10 * seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes: dict[str, Any] = json.loads(done.stdout)
    return outcomes
