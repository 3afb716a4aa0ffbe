"""The weight format: one file, a header of 64 bytes and then arrays, all little-endian.

=======  ==========  =========================================================================
offset   type        meaning
=======  ==========  =========================================================================
0        8 bytes     ``LLMNGRAM``
8        u32         version, 1
12       u32         order N, 2 to 5
16       u32         vocabulary size V, 258 to 2^24 - 1
20       u32         longest sequence in tokens, 2 to 2^24 - 1
24       5 x u64     entries n of levels 1 to 5; level 1 has V, levels above N have 0
=======  ==========  =========================================================================

Then for each level from 1 to N: ``token`` i32 [n], ``share`` f32 [n], and for levels below N ``rest`` f32 [n] and ``first`` i32
[n + 1]. What they mean is said in ``llmasos_ngram.estimate``. The file ends there: its size follows from the header.

Opening checks the header against the size of the file and reads nothing else. ``check`` reads the arrays once and refuses any
that are not a model: since everything in the file is a number and every number is checked, a file cannot do worse than be refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmasos.api import Checkpoint, TensorInfo, WeightsError
from llmasos_ngram.estimate import MAX_ENTRIES, Level, Table

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".ngram"
MAGIC = b"LLMNGRAM"
VERSION = 1
HEADER = struct.Struct("<8sIIII5Q")
ORDERS = range(2, 6)
#: Token ids travel as float32 numbers, which count to 2^24.
MAX_IDS = (1 << 24) - 1
MIN_VOCABULARY = 258
#: How far sums of float32 numbers may be from 1.
TOLERANCE = 1e-4

_DTYPES: Mapping[str, str] = {"token": "<i4", "share": "<f4", "rest": "<f4", "first": "<i4"}


def write_table(path: Path, table: Table, *, max_length: int) -> None:
    """Write a model file."""
    sizes = [len(level.token) for level in table.levels] + [0] * (5 - len(table.levels))
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, len(table.levels), table.vocab_size, max_length, *sizes))
        for level in table.levels:
            for name in _DTYPES:
                array = getattr(level, name)
                if array is not None:
                    file.write(array.astype(_DTYPES[name]).tobytes())


class NgramFormat:
    """The ``ngram`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A file that begins as such files do, or a directory with exactly one ``*.ngram`` file."""
        try:
            file = _file(path)
            with file.open("rb") as opened:
                return opened.read(len(MAGIC)) == MAGIC
        except (OSError, WeightsError):
            return False

    def open(self, path: Path, *, allow_pickle: bool = False) -> Checkpoint:
        """Check the header and map the file. Raises WeightsError naming the field that is wrong."""
        return NgramCheckpoint(_file(path))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise WeightsError(
            f"{path} has {len(found)} {SUFFIX} files, expected one", hint="name the file itself"
        )
    return found[0]


class NgramCheckpoint:
    """A ``Checkpoint``: the file's arrays by the names ``level.1.token`` and so on."""

    format = "ngram"

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise _refused(
                path, f"it does not begin with a header of {HEADER.size} bytes that says {MAGIC.decode()}"
            )
        _, version, self.order, self.vocab_size, self.max_length, *entries = HEADER.unpack(head)
        if version != VERSION:
            raise _refused(
                path,
                f"it has version {version}, this plugin reads {VERSION}",
                "install a newer llmasos-ngram",
            )
        for name, value, low, high in (
            ("order", self.order, ORDERS[0], ORDERS[-1]),
            ("vocabulary", self.vocab_size, MIN_VOCABULARY, MAX_IDS),
            ("longest sequence", self.max_length, 2, MAX_IDS),
            ("level 1", entries[0], self.vocab_size, self.vocab_size),
            *(
                (f"level {k}", entries[k - 1], int(k <= self.order), MAX_ENTRIES if k <= self.order else 0)
                for k in ORDERS
            ),
        ):
            if not low <= value <= high:
                raise _refused(path, f"the header says {name} = {value}, expected {low} to {high}")
        self._entries: tuple[int, ...] = tuple(entries[: self.order])
        end = HEADER.size + sum(info.nbytes for info in self.tensors.values())
        if size != end:
            raise _refused(path, f"it has {size} bytes, its header promises {end}")

    @property
    def config(self) -> Mapping[str, Any]:
        """The header, with the keys of a Hugging Face configuration."""
        return {
            "model_type": "ngram",
            "order": self.order,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_length,
        }

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The arrays, in the order of the file."""
        found: dict[str, TensorInfo] = {}
        for k, size in enumerate(self._entries, 1):
            for name in _DTYPES if k < self.order else ("token", "share"):
                count = size + (name == "first")
                dtype = "F32" if _DTYPES[name] == "<f4" else "I32"
                found[f"level.{k}.{name}"] = TensorInfo(f"level.{k}.{name}", (count,), dtype, 4 * count)
        return found

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts for ``model info``."""
        return {
            "file_format": f"{MAGIC.decode()} v{VERSION}",
            "dtype": "F32",
            "ngrams": ", ".join(f"{size:,} of order {k}" for k, size in enumerate(self._entries, 1)),
        }

    @property
    def header(self) -> Mapping[str, Any]:
        """Nothing: ``config`` has it all."""
        return {}

    def array(self, name: str) -> NDArray[Any]:
        """A private map of one array: writing into it does not change the file. Raises KeyError for an unknown name."""
        offset = HEADER.size
        for info in self.tensors.values():
            if info.name == name:
                dtype = _DTYPES[name.rpartition(".")[2]]
                return np.memmap(self.path, dtype=dtype, mode="c", offset=offset, shape=info.shape)
            offset += info.nbytes
        raise KeyError(name)

    def tensor(self, name: str) -> Tensor:
        """A view of the mapped file."""
        import torch

        return torch.from_numpy(self.array(name))

    def files(self) -> Sequence[Path]:
        """The one file."""
        return [self.path]

    def close(self) -> None:
        """Nothing: maps go when the last view of them goes."""


def check(path: Path, vocab_size: int, levels: Sequence[Level]) -> None:
    """Raise WeightsError unless the arrays are a trie and every history's probabilities sum to 1."""
    for k, level in enumerate(levels, 1):
        share = level.share.astype(np.float64)
        if not (np.isfinite(share).all() and (share >= 0).all() and (share <= 1).all()):
            raise _refused(path, f"level {k} has a share that is not between 0 and 1")
        if k == 1:
            if not np.array_equal(level.token, np.arange(vocab_size)):
                raise _refused(path, "level 1 does not list the vocabulary")
            if (share <= 0).any() or abs(share.sum() - 1) > TOLERANCE:
                raise _refused(
                    path, f"the probabilities of level 1 sum to {share.sum():.6g}, or one of them is 0"
                )
        else:
            _check_children(path, k, vocab_size, levels[k - 2], level)


def _check_children(path: Path, k: int, vocab_size: int, above: Level, level: Level) -> None:
    """The ranges of level k - 1 cut level k into runs of ascending tokens, and each run with its rest sums to 1."""
    assert above.first is not None
    assert above.rest is not None
    first, token, rest = above.first.astype(np.int64), level.token, above.rest.astype(np.float64)
    if first[0] != 0 or first[-1] != len(token) or (np.diff(first) < 0).any():
        raise _refused(path, f"the ranges of level {k - 1} do not cut level {k} into pieces")
    if (token < 0).any() or (token >= vocab_size).any():
        raise _refused(path, f"level {k} has a token outside the vocabulary of {vocab_size}")
    inside = np.ones(len(token), dtype=bool)
    inside[first[:-1][first[:-1] < len(token)]] = False  # the first of each run
    if (np.diff(token) <= 0)[inside[1:]].any():
        raise _refused(path, f"tokens of level {k} are not in ascending order")
    total = rest + np.bincount(
        np.repeat(np.arange(len(rest)), np.diff(first)), weights=level.share, minlength=len(rest)
    )
    if not (np.isfinite(rest).all() and (rest >= 0).all() and (abs(total - 1) <= TOLERANCE).all()):
        worst = int(np.argmax(np.where(np.isfinite(total), abs(total - 1), np.inf)))
        raise _refused(
            path, f"the probabilities after entry {worst} of level {k - 1} sum to {total[worst]:.6g}, not 1"
        )


def _refused(path: Path, what: str, hint: str = "fetch or train the model again") -> WeightsError:
    return WeightsError(f"{path.name} is refused: {what}", hint=hint)
