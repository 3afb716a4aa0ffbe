"""Finding input files, cutting them into shards, and reading lines without trusting their length."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llmasos.api import FilePart, InputError, InputShard

#: Bytes of input a shard aims at: big enough to amortise a commit, small enough to spread over workers and to show progress.
SHARD_BYTES = 32 * 2**20

_CHUNK = 2**20

#: Where a file may be cut: the first allowed offset at or after the given one, or None for the end of the file.
Boundary = Callable[[BinaryIO, int], int | None]


def find_files(patterns: Sequence[str], root: Path, *, what: str) -> list[str]:
    """Names that match, as the pipeline file writes them, each once, in the order of the patterns and sorted within one.

    Raises InputError for a pattern that matches nothing, a folder, and a missing or unreadable file.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        if glob.has_magic(pattern):
            found = sorted(
                n for n in glob.glob(pattern, root_dir=root, recursive=True) if (root / n).is_file()
            )
            if not found:
                raise InputError(
                    f"{what}: no file matches {pattern!r}",
                    hint=f"relative patterns start in {root.absolute()}",
                )
        else:
            path = root / pattern
            if path.is_dir():
                raise InputError(
                    f"{what}: {pattern!r} is a folder",
                    hint=f"name its files, for example {pattern.rstrip('/')}/*",
                )
            if not path.is_file():
                raise InputError(
                    f"{what}: there is no file {pattern!r}", hint=f"relative names start in {root}"
                )
            found = [pattern]
        names.update(dict.fromkeys(Path(name).as_posix() for name in found))
    for name in names:
        try:
            with (root / name).open("rb"):
                pass
        except OSError as error:
            raise InputError(
                f"{what}: cannot read {name!r}: {error.strerror}", hint="check the permissions"
            ) from None
    return list(names)


def plan_shards(
    names: Iterable[str], root: Path, shard_bytes: int, boundary: Boundary | None
) -> Iterator[InputShard]:
    """Shards of about ``shard_bytes``: small files go together, big ones are cut where ``boundary`` allows."""
    group: list[FilePart] = []
    held = 0
    for name in names:
        size = (root / name).stat().st_size
        if group and held + size > shard_bytes:
            yield InputShard(tuple(group))
            group, held = [], 0
        if size > shard_bytes and boundary is not None:
            yield from _cut(name, root, size, shard_bytes, boundary)
            continue
        group.append(FilePart(name))
        held += size
    if group:
        yield InputShard(tuple(group))


def _cut(name: str, root: Path, size: int, shard_bytes: int, boundary: Boundary) -> Iterator[InputShard]:
    start = 0
    with (root / name).open("rb") as file:
        while start < size:
            end = boundary(file, start + shard_bytes) if start + shard_bytes < size else None
            if end is not None and end >= size:
                end = None
            yield InputShard((FilePart(name, start, end),))
            if end is None:
                return
            start = end


def line_boundary(file: BinaryIO, offset: int) -> int | None:
    """The start of the first line that begins at or after ``offset``."""
    # One byte back: an offset just behind a newline is a boundary itself.
    file.seek(offset - 1)
    base = offset - 1
    while chunk := file.read(_CHUNK):
        at = chunk.find(b"\n")
        if at >= 0:
            return base + at + 1
        base += len(chunk)
    return None


def paragraph_boundary(file: BinaryIO, offset: int) -> int | None:
    """The offset behind the first blank line that begins at or after ``offset``."""
    start = line_boundary(file, offset)
    if start is None:
        return None
    file.seek(start)
    while line := file.readline(_CHUNK):
        if not line.strip():
            return file.tell()
    return None


class Line(NamedTuple):
    """A line without its newline. ``data`` is None when it is longer than the limit; ``length`` is its length in bytes."""

    offset: int
    data: bytes | None
    length: int


def read_lines(file: BinaryIO, start: int, end: int | None, limit: int) -> Iterator[Line]:
    """Lines of ``file`` (positioned at ``start``) that begin before ``end``; a line over ``limit`` bytes is skipped, not held."""
    offset = start
    while end is None or offset < end:
        data = file.readline(limit + 1)
        if not data:
            return
        length = len(data)
        ended = data.endswith(b"\n")
        if not ended and length > limit:
            while more := file.readline(_CHUNK):
                length += len(more)
                if more.endswith(b"\n"):
                    ended = True
                    break
            yield Line(offset, None, length - ended)
        else:
            yield Line(offset, data[:-1] if ended else data, length - ended)
        offset += length


def position_id(name: str, offset: int) -> str:
    """Identity of a document by where it lies. Padded, so that ids sort as the documents lie."""
    return f"{name}@{offset:012d}"


def well_formed(text: str) -> str:
    """``text`` with lone surrogates, which no UTF-8 file can hold, replaced by U+FFFD and split pairs joined."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
