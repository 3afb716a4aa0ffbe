"""Where each document lies in a samples file, so that one of 200,000 is read without the others.

Built in one pass over the file and kept beside it (``samples_TASK.jsonl.index``): little-endian 64-bit integers, a header
(magic, size and change time of the samples file, rows) and one row (document, offset, bytes) a document, sorted by document.
An index that does not fit its file is built again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from llmasos.api import InputError
from llmasos_evals.records.untrusted import MAX_LINE, regular_file

_MAGIC = int.from_bytes(b"LLMOSIX1", "little")
_HEADER = 4
_ROW = 3
#: How canonical JSON has the number of a sample. Quotes within strings are escaped, so no text can look like this; what lies in
#: a nested object might, and is found out when the document is read. Other spellings are parsed whole.
_CANONICAL = re.compile(rb'"doc_digest":"[0-9a-f]{64}","index":(0|[1-9][0-9]{0,17}),')


class Place(NamedTuple):
    """One line of a samples file."""

    index: int
    offset: int
    length: int


class Offsets:
    """The places of the documents of one samples file, sorted by document number."""

    def __init__(self, rows: array[int]) -> None:
        #: document, offset, bytes, document, ...
        self._rows = rows
        self._indices = rows[0::_ROW]

    @property
    def indices(self) -> Sequence[int]:
        """The numbers of the documents, ascending."""
        return self._indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Place]:
        rows = self._rows
        return (Place(rows[i], rows[i + 1], rows[i + 2]) for i in range(0, len(rows), _ROW))

    def __getitem__(self, number: int) -> Place:
        """The ``number``-th document in order."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return Place(*self._rows[number * _ROW : number * _ROW + _ROW])

    def find(self, index: int) -> Place | None:
        """The place of the document ``index``."""
        number = bisect_left(self._indices, index)
        return self[number] if number < len(self) and self._indices[number] == index else None


def offsets_of(samples: Path, *, fresh: bool = False) -> Offsets:
    """The offsets of a samples file, from the index beside it where that fits.

    ``fresh`` reads the file itself in any case: an index that came with a stranger's run proves nothing. Raises InputError
    naming file and line for damage; a torn last line is a document that was not finished.
    """
    regular_file(samples)
    status = samples.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    kept = samples.with_name(f"{samples.name}.index")
    if not fresh:
        found = _load(kept, *stamp)
        if found is not None:
            return Offsets(found)
    rows = _scan(samples)
    _keep(kept, rows, *stamp)
    return Offsets(rows)


def _scan(samples: Path) -> array[int]:
    found: dict[int, tuple[int, int]] = {}
    offset = 0
    with open(samples, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise InputError(f"{samples}, line {number} has more than {MAX_LINE} bytes")
            if not line.endswith(b"\n"):
                break
            found.setdefault(_number(line, samples, number), (offset, len(line)))
            offset += len(line)
    rows = array("q")
    for index in sorted(found):
        rows.extend((index, *found[index]))
    return rows


def _number(line: bytes, samples: Path, number: int) -> int:
    quick = _CANONICAL.search(line)
    if quick is not None:
        return int(quick.group(1))
    try:
        index = json.loads(line)["index"]
        if type(index) is not int or not 0 <= index < 2**62:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{samples}, line {number} is damaged",
            hint="compute the run again, or ask whoever gave you the file",
        ) from None
    return index


def _load(path: Path, size: int, changed: int) -> array[int] | None:
    """The rows of an index that belongs to a file of this size and change time, None for any other."""
    values = array("q")
    try:
        if path.is_symlink():
            return None
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) % values.itemsize or len(data) < _HEADER * values.itemsize:
        return None
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    magic, of_size, of_time, count = values[:_HEADER]
    rows = values[_HEADER:]
    if (magic, of_size, of_time) != (_MAGIC, size, changed) or count * _ROW != len(rows):
        return None
    indices = rows[0::_ROW]
    if any(a >= b for a, b in pairwise(indices)):
        return None
    lines = zip(rows[1::_ROW], rows[2::_ROW], strict=True)
    if not all(
        offset >= 0 and 0 < length <= MAX_LINE and offset + length <= size for offset, length in lines
    ):
        return None
    return rows


def _keep(path: Path, rows: array[int], size: int, changed: int) -> None:
    """Write the index; a folder that cannot be written costs time at the next reading, nothing else."""
    values = array("q", (_MAGIC, size, changed, len(rows) // _ROW)) + rows
    if sys.byteorder == "big":
        values.byteswap()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            values.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
