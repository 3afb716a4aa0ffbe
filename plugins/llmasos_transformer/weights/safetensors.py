"""Checkpoints in safetensors: a Hugging Face directory (one file or shards with an index) or a single file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llmasos.api import TensorInfo, WeightsError

from .directory import compare_shard, describe, read_config, read_index, safest_format, with_model_type
from .mapping import MappedFile, locate, names_in, sniff
from .safetensors_header import SafetensorsHeader, StoredTensor, parse_header
from .shown_text import shown

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_TORCH_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class SafetensorsFormat:
    """Reads safetensors. A directory is accepted when it has ``model.safetensors`` or its index, a file by content or
    by its suffix."""

    def accepts(self, path: Path) -> bool:
        if os.path.isdir(path):
            return safest_format(path) == "safetensors"
        content = sniff(path)
        return content == "safetensors" or (
            not content and path.suffix == ".safetensors" and os.path.isfile(path)
        )

    def open(self, path: Path, *, allow_pickle: bool = False) -> SafetensorsCheckpoint:
        """Check headers, index and configuration, and map the files; reads no tensor.

        ``allow_pickle`` changes nothing: safetensors holds none. Raises ModelNotFound when the path leads nowhere, and
        WeightsError naming the file, the entry and the numbers that do not fit.
        """
        path = Path(path)
        if locate(path) == "file":
            return SafetensorsCheckpoint(path, path.parent, [(path, None)], None)
        names = names_in(path)
        if SINGLE in names:
            return SafetensorsCheckpoint(path, path, [(path / SINGLE, None)], None)
        if INDEX not in names:
            others = [name for name in names if name.endswith(".safetensors")]
            hint = f"name the file itself: {path / others[0]}" if others else f"expected {SINGLE} or {INDEX}"
            raise WeightsError(f"{path}: has neither {SINGLE} nor {INDEX}", hint=hint)
        shards = read_index(path, INDEX, ".safetensors")
        return SafetensorsCheckpoint(
            path, path, [(path / shard, names) for shard, names in shards.items()], path / INDEX
        )


class SafetensorsCheckpoint:
    """An open safetensors checkpoint; see the Checkpoint contract. Tensors are views of the mapped files."""

    format = "safetensors"

    def __init__(
        self, path: Path, directory: Path, shards: Sequence[tuple[Path, list[str] | None]], index: Path | None
    ) -> None:
        self.path = path
        self._index = index
        self._directory = directory
        self._maps: list[MappedFile] = []
        self._stored: dict[str, tuple[MappedFile, StoredTensor]] = {}
        self._file_metadata: dict[str, str] = {}
        try:
            config = read_config(directory)
            for file, promised in shards:
                self._add(file, promised)
            shapes = {name: stored.shape for name, (_, stored) in self._stored.items()}
            self._config = with_model_type(directory / "config.json", config, shapes)
        except BaseException:
            self.close()
            raise
        self._tensors = {
            name: TensorInfo(name, stored.shape, stored.dtype, stored.nbytes)
            for name, (_, stored) in self._stored.items()
        }

    def _add(self, file: Path, promised: list[str] | None) -> None:
        mapped = MappedFile(file)
        self._maps.append(mapped)
        header: SafetensorsHeader = parse_header(file, mapped.view)
        if promised is not None and self._index is not None:
            compare_shard(self._index, file.name, promised, header.tensors)
        self._stored.update({name: (mapped, stored) for name, stored in header.tensors.items()})
        self._file_metadata.update(header.metadata)

    @property
    def config(self) -> Mapping[str, Any]:
        return MappingProxyType(self._config)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._tensors)

    @property
    def metadata(self) -> Mapping[str, str]:
        """``file_format``, ``dtype`` (by bytes, largest first), what the file's own ``__metadata__`` says, and the
        directory's name, licence and ``custom_code`` note where known."""
        sizes: Counter[str] = Counter()
        for info in self._tensors.values():
            sizes[info.dtype] += info.nbytes
        shards = f", {len(self._maps)} shards" if len(self._maps) > 1 else ""
        return {
            **{shown(key): shown(value) for key, value in self._file_metadata.items()},
            **describe(self._directory, self._config),
            "file_format": f"safetensors{shards}",
            "dtype": ", ".join(dtype for dtype, _ in sizes.most_common()),
        }

    @property
    def header(self) -> Mapping[str, Any]:
        return MappingProxyType({})

    def tensor(self, name: str) -> Tensor:
        """One tensor as a view of the mapped file (a copy where the file does not align it to its element size).

        Raises KeyError for an unknown name; WeightsError when the checkpoint is closed, the file shrank, or a BOOL
        tensor has bytes other than 0 and 1.
        """
        mapped, stored = self._stored[name]
        if stored.dtype == "BOOL" and stored.nbytes:
            highest = int(mapped.tensor("uint8", stored.shape, stored.begin).max())
            if highest > 1:
                raise WeightsError(
                    f"{mapped.path}: BOOL tensor {name!r} holds the byte {highest}, only 0 and 1 may occur",
                    hint="the file is damaged; download it again",
                )
        return mapped.tensor(_TORCH_DTYPES[stored.dtype], stored.shape, stored.begin)

    def release(self, name: str) -> None:
        """No view of this tensor is needed any more: its pages may leave memory."""
        mapped, stored = self._stored[name]
        mapped.release(stored.begin, stored.nbytes)

    def files(self) -> Sequence[Path]:
        index = [self._index] if self._index else []
        return [self._directory / "config.json", *index, *(mapped.path for mapped in self._maps)]

    def close(self) -> None:
        for mapped in self._maps:
            mapped.close()
