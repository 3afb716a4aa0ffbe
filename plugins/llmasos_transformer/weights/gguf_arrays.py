"""Arrays of a GGUF header, read from the mapped file when they are asked for."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from llmasos.api import WeightsError

_U64 = struct.Struct("<Q")


class TextArray(Sequence[str]):
    """An array of strings, each decoded when it is asked for.

    Raises WeightsError for an element that is not UTF-8.
    """

    def __init__(self, path: Path, key: str, view: memoryview, starts: array[int]) -> None:
        self._path, self._key, self._view, self._starts = path, key, view, starts

    def __len__(self) -> int:
        return len(self._starts)

    def _decode(self, start: int) -> str:
        (length,) = _U64.unpack_from(self._view, start)
        try:
            return str(self._view[start + 8 : start + 8 + length], "utf-8")
        except UnicodeDecodeError as error:
            raise WeightsError(
                f"{self._path}: {self._key}[{self._starts.index(start)}] at byte {start} is not UTF-8: {error.reason}",
                hint="the file is damaged; download it again and compare its sha256",
            ) from error

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(start) for start in self._starts[index]]
        return self._decode(self._starts[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._decode, self._starts)

    def __repr__(self) -> str:
        return f"<{len(self)} strings of {self._key}>"


class NumberArray(Sequence[Any]):
    """An array of numbers or booleans, read from the file when asked for."""

    def __init__(self, key: str, data: memoryview, code: str, boolean: bool) -> None:
        self._key, self._data, self._code, self._boolean = key, data, code, boolean
        self._size = struct.calcsize(code)

    def __len__(self) -> int:
        return len(self._data) // self._size

    def __iter__(self) -> Iterator[Any]:
        numbers = (value for (value,) in struct.iter_unpack(self._code, self._data))
        return map(bool, numbers) if self._boolean else numbers

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        (value,) = struct.unpack_from(self._code, self._data, position * self._size)
        return bool(value) if self._boolean else value

    def __repr__(self) -> str:
        return f"<{len(self)} numbers of {self._key}>"
