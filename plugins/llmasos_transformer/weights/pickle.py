"""PyTorch pickles, read only when the user asks for it and only through torch's restricted unpickler.

A pickle is a program. ``torch.load(weights_only=True)`` runs a small interpreter that knows a fixed list of harmless
constructors; scanners that try to tell good programs from bad ones are not a defence and are not used here.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llmasos.api import TensorInfo, WeightsError

from .directory import compare_shard, describe, read_config, read_index, safest_format, with_model_type
from .mapping import import_torch, locate, names_in, open_regular, refuse_pointer, sniff
from .shown_text import shown

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

MAX_ENTRIES = 200_000
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_SAFER = "ask for a safetensors copy of the model"


class PickleFormat:
    """Reads ``pytorch_model.bin``, alone or sharded. Never accepted where safetensors or GGUF lie beside it."""

    def accepts(self, path: Path) -> bool:
        if os.path.isdir(path):
            return safest_format(path) == "pickle"
        return path.suffix in SUFFIXES and sniff(path) in ("zip", "pickle")

    def open(self, path: Path, *, allow_pickle: bool = False) -> PickleCheckpoint:
        """Unpickle tensors with ``torch.load(weights_only=True)``; files of torch >= 1.6 are memory-mapped.

        Raises ModelNotFound when the path leads nowhere; WeightsError when ``allow_pickle`` is false, when the file is
        truncated, compressed, asks for anything but tensors, or holds anything but tensors by name.
        """
        path = Path(path)
        index: Path | None = None
        directory = path.parent
        files: list[tuple[Path, list[str] | None]] = [(path, None)]
        if locate(path) == "directory":
            directory = path
            names = names_in(path)
            if SINGLE in names:
                files = [(path / SINGLE, None)]
            elif INDEX in names:
                index = path / INDEX
                files = [
                    (path / shard, promised) for shard, promised in read_index(path, INDEX, ".bin").items()
                ]
            else:
                raise WeightsError(
                    f"{path}: has neither {SINGLE} nor {INDEX}", hint="name the weight file itself"
                )
        if not allow_pickle:
            raise WeightsError(
                f"{files[0][0]}: a PyTorch pickle, which can carry code, and was not asked for by name",
                hint=f"if you trust its author: --allow-pickle (it is opened with torch.load(weights_only=True)); or {_SAFER}",
            )
        return PickleCheckpoint(path, directory, files, index)


class PickleCheckpoint:
    """An open pickle; see the Checkpoint contract. Unlike the other formats, tensors are known only after unpickling."""

    format = "pickle"

    def __init__(
        self, path: Path, directory: Path, files: Sequence[tuple[Path, list[str] | None]], index: Path | None
    ) -> None:
        self.path = path
        self._directory = directory
        self._index = index
        self._paths = [file for file, _ in files]
        self._closed = False
        config = read_config(directory)
        self._values: dict[str, Tensor] = {}
        for file, promised in files:
            loaded = load(file)
            if promised is not None and index is not None:
                compare_shard(index, file.name, promised, loaded)
            self._values.update(loaded)
        self._tensors = {name: _info(name, value) for name, value in self._values.items()}
        shapes = {name: info.shape for name, info in self._tensors.items()}
        self._config = with_model_type(directory / "config.json", config, shapes)

    @property
    def config(self) -> Mapping[str, Any]:
        return MappingProxyType(self._config)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._tensors)

    @property
    def metadata(self) -> Mapping[str, str]:
        """``file_format``, ``dtype`` (by bytes, largest first), and name, licence, ``custom_code`` where known."""
        sizes: Counter[str] = Counter()
        for info in self._tensors.values():
            sizes[info.dtype] += info.nbytes
        shards = f", {len(self._paths)} shards" if len(self._paths) > 1 else ""
        return {
            **describe(self._directory, self._config),
            "file_format": f"PyTorch pickle{shards}",
            "dtype": ", ".join(dtype for dtype, _ in sizes.most_common()),
        }

    @property
    def header(self) -> Mapping[str, Any]:
        return MappingProxyType({})

    def tensor(self, name: str) -> Tensor:
        """One tensor, a view of the mapped file where torch could map it. Raises KeyError; WeightsError once closed."""
        if self._closed:
            raise WeightsError(f"{self.path}: the checkpoint was closed", hint="open it again")
        return self._values[name]

    def files(self) -> Sequence[Path]:
        index = [self._index] if self._index else []
        return [self._directory / "config.json", *index, *self._paths]

    def close(self) -> None:
        self._closed = True
        self._values = {}


def _info(name: str, value: Tensor) -> TensorInfo:
    return TensorInfo(
        name, tuple(value.shape), _DTYPES[str(value.dtype).removeprefix("torch.")], value.nbytes
    )


def check_archive(path: Path, size: int) -> None:
    """Refuse a zip whose entries are compressed (torch writes them stored, so that they can be mapped), too many, or
    larger than the file. Raises WeightsError."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(
            f"{path}: {size} bytes that begin like a zip archive but are not a whole one: {error}",
            hint="download it again",
        ) from error
    if len(entries) > MAX_ENTRIES:
        raise WeightsError(f"{path}: {len(entries)} archive entries, the limit is {MAX_ENTRIES}", hint=_SAFER)
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise WeightsError(
                f"{path}: entry {entry.filename[:120]!r} is compressed; torch never does that", hint=_SAFER
            )
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise WeightsError(f"{path}: entries of {total} bytes in a file of {size}", hint=_SAFER)


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of one pickle file, by name. Raises WeightsError; ModelNotFound when there is no such file."""
    descriptor, size = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        refuse_pointer(path, file.read(64))
    content = sniff(path)
    if content not in ("zip", "pickle"):
        raise WeightsError(
            f"{path}: neither a torch archive nor a pickle" + (f" but {content}" if content else ""),
            hint="the file is damaged or of another format; download it again",
        )
    if content == "zip":
        check_archive(path, size)
    torch = import_torch()
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=content == "zip")
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused by torch's weights-only unpickler: {_first_line(error)}",
            hint=f"it asks for more than tensors, or is damaged; {_SAFER}",
        ) from error
    except (
        Exception
    ) as error:  # a damaged pickle can raise anything: EOFError, KeyError, RuntimeError, struct.error...
        raise WeightsError(
            f"{path}: damaged or not a PyTorch checkpoint: {type(error).__name__}: {_first_line(error)}",
            hint="download it again and compare its sha256",
        ) from error
    return _checked(path, values, size)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return shown(lines[0])


def _checked(path: Path, values: object, size: int) -> dict[str, Tensor]:
    torch = import_torch()
    if not isinstance(values, Mapping):
        raise WeightsError(f"{path}: holds a {type(values).__name__}, not tensors by name", hint=_SAFER)
    storages: dict[int, int] = {}
    result: dict[str, Tensor] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{path}: the entry {shown(str(name), 120)!r} is a {type(value).__name__}, not a tensor",
                hint="this may be a training checkpoint: save model.state_dict() alone, best as safetensors",
            )
        dtype = str(value.dtype).removeprefix("torch.")
        if value.layout != torch.strided or value.device.type != "cpu" or dtype not in _DTYPES:
            raise WeightsError(
                f"{path}: tensor {name[:120]!r} is {dtype}, {value.layout} on {value.device}, which cannot be read",
                hint=_SAFER,
            )
        storage = value.untyped_storage()
        if value.nbytes > storage.nbytes():
            # A stride of 0 makes any size out of a few bytes; no trained weight is stored like that.
            raise WeightsError(
                f"{path}: tensor {name[:120]!r} claims {value.nbytes} bytes and stores {storage.nbytes()}",
                hint=_SAFER,
            )
        storages[storage.data_ptr()] = storage.nbytes()
        result[name] = value.detach()
    claimed = sum(storages.values())
    if claimed > size:
        raise WeightsError(
            f"{path}: claims {claimed} bytes of tensors but the file has only {size}",
            hint="download it again",
        )
    return result
