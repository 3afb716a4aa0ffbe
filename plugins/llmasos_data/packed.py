"""Reading packed token shards.

A shard is three files: ``NNNNN.bin`` the token ids (little-endian uint16 or uint32), ``NNNNN.idx`` where each document starts
and the last one ends (uint64 [documents + 1], in tokens), ``NNNNN.json`` what they are. Opening maps the files; nothing is read.
"""

from __future__ import annotations

import bisect
import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from llmasos.api import InputError

FORMAT = "llmasos-packed-1"


class PackedShard:
    """One shard. ``tokens`` [T] and ``offsets`` [documents + 1] are read-only memory maps."""

    def __init__(self, path: Path) -> None:
        """``path`` with any of the three suffixes. Raises InputError when the files do not fit together."""
        head = path.with_suffix(".json")
        try:
            self.info: dict[str, Any] = json.loads(head.read_text(encoding="utf-8"))
            if self.info["format"] != FORMAT:
                raise InputError(
                    f"{head}: format {self.info['format']!r} is unknown", hint=f"this reads {FORMAT}"
                )
            dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[self.info["dtype"]])
            self.tokens = _map(path.with_suffix(".bin"), dtype, int(self.info["tokens"]))
            self.offsets = _map(path.with_suffix(".idx"), np.dtype("<u8"), int(self.info["documents"]) + 1)
        except OSError as error:
            raise InputError(
                f"cannot open {error.filename}: {error.strerror}", hint="name a packed shard"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{head}: not the head of a packed shard ({error})", hint="pack again") from None

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def document(self, index: int) -> np.ndarray:
        """Token ids of a document with its separator; cut short where ``tail: drop`` cut the shard. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tokens[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def sequences(self, length: int | None = None) -> np.ndarray:
        """The tokens as [sequences, length], a view. ``length`` defaults to what the shard was packed for."""
        size = int(length or self.info["sequence_length"] or 0)
        if not size:
            raise InputError("the shard is one stream of tokens", hint="give a length")
        count = len(self.tokens) // size
        rows: np.ndarray = self.tokens[: count * size].reshape(count, size)
        return rows


class PackedDataset:
    """All shards of a folder, in order, as one list of sequences."""

    def __init__(self, folder: Path, length: int | None = None) -> None:
        paths = sorted(folder.glob("[0-9]*.bin"))
        if not paths:
            raise InputError(
                f"{folder} holds no packed shard", hint="name the folder that tokenize_pack wrote"
            )
        self.shards = [PackedShard(path) for path in paths]
        self._views = [shard.sequences(length) for shard in self.shards]
        self._ends = list(accumulate(len(view) for view in self._views))

    def __len__(self) -> int:
        """Number of sequences."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        """Token ids [length] of one sequence."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        row: np.ndarray = self._views[shard][index - (self._ends[shard - 1] if shard else 0)]
        return row


def _map(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    size = path.stat().st_size
    if size != count * dtype.itemsize:
        raise InputError(
            f"{path} has {size} bytes, its head promises {count * dtype.itemsize}", hint="pack again"
        )
    if not count:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    mapped: np.ndarray = np.memmap(path, dtype=dtype, mode="r", shape=(count,))
    return mapped
