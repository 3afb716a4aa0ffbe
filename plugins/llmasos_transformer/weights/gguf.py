"""Checkpoints in GGUF, presented under Hugging Face names, layouts and configuration."""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llmasos.api import Checkpoint, QuantisedFile, QuantisedName, TensorInfo, WeightsError

from .directory import safest_format
from .gguf_config import build_config, metadata
from .gguf_header import GgufTensor, import_gguf, parse_header
from .gguf_names import ROPE_FACTORS, Rename, rename
from .mapping import MappedFile, locate, names_in, sniff
from .rope_factors import recognise

if TYPE_CHECKING:
    from torch import Tensor

#: Types that torch has itself: returned as they are stored.
PLAIN = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8",
}  # fmt: skip
#: Block types that are turned into float32.
QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")

_SPLIT = re.compile(r".*-(\d{5})-of-(\d{5})\.gguf")
# Blocks decode independently, so rows may be cut anywhere between blocks. The gguf package works on 16 rows at a time
# in Python: rows of about this many elements keep that loop short and its temporaries in cache.
_ROW_ELEMENTS = 2048
# One factor for every two elements of an attention head.
_LARGEST_FACTORS = 4 * 4096


class GgufFormat:
    """Reads a .gguf file, or a directory that holds exactly one; writes quantised ones."""

    ending = ".gguf"

    def accepts(self, path: Path) -> bool:
        if os.path.isdir(path):
            return safest_format(path) == "gguf"
        content = sniff(path)
        return content == "gguf" or (not content and path.suffix == ".gguf" and os.path.isfile(path))

    def open(self, path: Path, *, allow_pickle: bool = False) -> GgufCheckpoint:
        """Check the header and map the file; reads no tensor.

        ``allow_pickle`` changes nothing: GGUF holds none. Raises ModelNotFound when the path leads nowhere, and
        WeightsError naming the byte and the numbers that do not fit.
        """
        path = Path(path)
        file = path
        if locate(path) == "directory":
            found = [name for name in names_in(path) if name.endswith(".gguf")]
            if len(found) != 1:
                listed = ", ".join(found[:8]) or "none"
                raise WeightsError(
                    f"{path}: a directory must hold exactly one .gguf file, this one has {len(found)}: {listed}",
                    hint=f"name the file itself: {path / found[0]}" if found else "name a .gguf file",
                )
            file = path / found[0]
        if (match := _SPLIT.fullmatch(file.name)) and int(match[2]) > 1:
            raise WeightsError(
                f"{file}: part {int(match[1])} of {int(match[2])} of a split GGUF, which cannot be read in parts",
                hint="join the parts first: llama-gguf-split --merge FIRST_PART OUTPUT.gguf",
            )
        return GgufCheckpoint(path, file)

    def quantise(
        self,
        checkpoint: Checkpoint,
        target: Path,
        dtype: QuantisedName,
        importance: Mapping[str, Tensor],
        advance: Callable[[int], None],
    ) -> QuantisedFile:
        """Write a Llama or GPT-2 with matrices in blocks of eight or four bits; see ``gguf_writer``."""
        from .gguf_writer import write

        return write(checkpoint, target, dtype, importance, advance)


class GgufCheckpoint:
    """An open GGUF file; see the Checkpoint contract."""

    format = "gguf"

    def __init__(self, path: Path, file: Path) -> None:
        self.path = path
        self._mapped = MappedFile(file)
        self._header = parse_header(file, self._mapped.view)
        parts = self._header.values.get("split.count", 0)
        if type(parts) is int and parts > 1:
            raise WeightsError(
                f"{file}: split.count is {parts}: this is one part of a split GGUF",
                hint="join the parts first: llama-gguf-split --merge FIRST_PART OUTPUT.gguf",
            )
        self._values = MappingProxyType(dict(self._header.values))
        self._config = build_config(file, self._header)
        self._stored: dict[str, tuple[GgufTensor, Rename]] = {}
        self._name_tensors(file)
        self._tensors = {name: self._info(name, stored, new) for name, (stored, new) in self._stored.items()}

    def _name_tensors(self, file: Path) -> None:
        family = self._config["model_type"]
        heads = self._config.get("num_attention_heads", 0)
        kv_heads = self._config.get("num_key_value_heads", heads)
        for stored in self._header.tensors.values():
            if family == "llama" and stored.name == ROPE_FACTORS:
                self._config["rope_scaling"] = recognise(file, self._rope_factors(file, stored), self._config)
                continue
            new = rename(family, stored.name, heads, kv_heads)
            rows = stored.shape[0] if stored.shape else 1
            if new.layout == "rotary" and (not new.heads or rows % (2 * new.heads)):
                raise WeightsError(
                    f"{file}: {stored.name} has {rows} rows, which are not {new.heads} heads of an even size",
                    hint="the header's head counts and its tensors do not fit; convert the original again",
                )
            if new.layout == "transposed" and len(stored.shape) != 2:
                raise WeightsError(
                    f"{file}: {stored.name} has shape {list(stored.shape)}, not two dimensions"
                )
            if new.name in self._stored:
                raise WeightsError(
                    f"{file}: {stored.name} and {self._stored[new.name][0].name} are both {new.name}",
                    hint="convert the original again",
                )
            self._stored[new.name] = (stored, new)

    def _rope_factors(self, file: Path, stored: GgufTensor) -> tuple[float, ...]:
        """The factors without torch, so that describing a model never needs it."""
        if stored.type_name != "F32" or len(stored.shape) != 1 or stored.nbytes > _LARGEST_FACTORS:
            raise WeightsError(
                f"{file}: {stored.name} is {stored.type_name} {list(stored.shape)}, not a short list of F32",
                hint="convert the original again",
            )
        return struct.unpack_from(f"<{stored.shape[0]}f", self._mapped.view, stored.begin)

    @staticmethod
    def _info(name: str, stored: GgufTensor, new: Rename) -> TensorInfo:
        shape = stored.shape[::-1] if new.layout == "transposed" else stored.shape
        return TensorInfo(name, shape, stored.type_name, stored.nbytes)

    @property
    def config(self) -> Mapping[str, Any]:
        return MappingProxyType(self._config)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Stored tensors by Hugging Face name; ``dtype`` is the quantised type. Architectures other than llama, gpt2 and
        bert keep their GGUF names."""
        return MappingProxyType(self._tensors)

    @property
    def metadata(self) -> Mapping[str, str]:
        """``file_format``, ``quantization`` (types by bytes, largest first), and name, licence, organisation, size and
        architecture where the file states them."""
        sizes: Counter[str] = Counter()
        for info in self._tensors.values():
            sizes[info.dtype] += info.nbytes
        types = ", ".join(dtype for dtype, _ in sizes.most_common()) or "no tensors (vocabulary only)"
        return {**metadata(self._header), "quantization": types}

    @property
    def header(self) -> Mapping[str, Any]:
        """The file's key-values; arrays are read on access and stay readable after ``close``."""
        return self._values

    def tensor(self, name: str) -> Tensor:
        """One tensor in Hugging Face's layout: float32 when it was quantised, else as stored.

        Raises KeyError for an unknown name; WeightsError for a quantised type that cannot be read, a closed checkpoint
        or a file that shrank.
        """
        stored, new = self._stored[name]
        weight = self._mapped_tensor(stored)
        if new.layout == "transposed":
            return weight.t().contiguous()
        if new.layout == "rotary":
            return _unturned(weight, new.heads)
        return weight

    def _mapped_tensor(self, stored: GgufTensor) -> Tensor:
        if stored.type_name in PLAIN:
            return self._mapped.tensor(PLAIN[stored.type_name], stored.shape, stored.begin)
        if stored.type_name not in QUANTISED:
            raise WeightsError(
                f"{self._mapped.path}: tensor {stored.name} is stored as {stored.type_name}, which cannot be read",
                hint=f"use a file quantised as one of {', '.join(QUANTISED)}, F16, BF16 or F32",
            )
        return dequantise(
            self._mapped.tensor("uint8", (stored.nbytes,), stored.begin), stored.type_name
        ).view(stored.shape)

    @cached_property
    def block_bits(self) -> int | None:
        """Bits of the numbers that most of the weights are kept in, by bytes; None when they are not in blocks."""
        sizes: Counter[str] = Counter()
        for info in self._tensors.values():
            sizes[info.dtype] += info.nbytes
        most = next((dtype for dtype, _ in sizes.most_common(1)), "")
        return int(most[1]) if most in QUANTISED else None

    def blocks(self, name: str, *, transposed: bool) -> GgufBlocks | None:
        """The matrix as the file keeps it, turned round if ``transposed``; None where the blocks do not run along its rows.

        Raises as ``tensor``.
        """
        stored, new = self._stored[name]
        if stored.type_name not in QUANTISED or len(stored.shape) != 2:
            return None
        if transposed != (new.layout == "transposed"):
            return None
        raw = self._mapped.tensor("uint8", (stored.shape[0], stored.nbytes // stored.shape[0]), stored.begin)
        if new.layout == "rotary":
            raw = _unturned(raw, new.heads)
        return GgufBlocks(stored.type_name, raw, stored.shape[1])

    @property
    def stored_tensors(self) -> Sequence[GgufTensor]:
        """All tensors as the file has them, in the order of their data."""
        return sorted(self._header.tensors.values(), key=lambda tensor: tensor.begin)

    @property
    def alignment(self) -> int:
        """Bytes of whose multiples tensors begin."""
        return self._header.alignment

    def stored_name(self, name: str) -> str:
        """The name in the file of a tensor of ``tensors``."""
        return self._stored[name][0].name

    def stored_numbers(self, stored: GgufTensor) -> Tensor:
        """A tensor of ``stored_tensors`` in the file's own layout, dequantised."""
        return self._mapped_tensor(stored)

    def stored_bytes(self, stored: GgufTensor) -> memoryview:
        """Its bytes."""
        return self._mapped.check()[stored.begin : stored.begin + stored.nbytes]

    def key_bytes(self) -> tuple[int, bytes]:
        """How many key-values the header has, and their bytes."""
        header = self._header
        return len(header.values), bytes(self._mapped.check()[header.keys_begin : header.keys_end])

    def release(self, name: str) -> None:
        """No view of this tensor is needed any more: its pages may leave memory."""
        stored, _ = self._stored[name]
        self._mapped.release(stored.begin, stored.nbytes)

    def files(self) -> Sequence[Path]:
        return [self._mapped.path]

    def close(self) -> None:
        self._mapped.close()


def _unturned(rows: Tensor, heads: int) -> Tensor:
    """Rows in the order of Hugging Face: [heads, d/2, 2, ...] as stored -> [heads, 2, d/2, ...]."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True, slots=True, eq=False)
class GgufBlocks:
    """A ``BlockWeight`` [O, I]: ``data`` [O, bytes of a row] uint8 has the rows' blocks."""

    kind: str
    data: Tensor
    inputs: int

    @property
    def outputs(self) -> int:
        """O."""
        return self.data.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self.data.numel()

    def part(self, begin: int, end: int) -> GgufBlocks:
        """Rows ``begin`` to ``end``."""
        return GgufBlocks(self.kind, self.data[begin:end], self.inputs)

    def plain(self) -> Tensor:
        """The numbers: [O, I] float32."""
        return dequantise(self.data.reshape(-1), self.kind).view(self.outputs, self.inputs)


def dequantise(raw: Tensor, type_name: str) -> Tensor:
    """The numbers in ``raw`` [bytes] uint8, whole blocks of one quantised type: [elements] float32."""
    import torch

    gguf = import_gguf()
    kind = gguf.GGMLQuantizationType[type_name]
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = raw.numel() // block_bytes
    row = next(size for size in range(max(1, _ROW_ELEMENTS // block_elements), 0, -1) if blocks % size == 0)
    return torch.from_numpy(gguf.dequantize(raw.numpy().reshape(-1, row * block_bytes), kind).reshape(-1))
