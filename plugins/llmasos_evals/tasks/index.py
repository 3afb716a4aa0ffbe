"""The names in folders of task files, kept between runs.

A scan reads every file once; what it found lies in the cache directory, and the next look-up only asks the file system
whether folders and files are still what they were (two numbers each). What changed is read again, the rest is not. The
kept file is a cache and nothing more: when it is missing, damaged, of another version or cannot be written, the folder is
scanned.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.api import InputError, Progress
from llmasos_evals.tasks.summary import Kind, Reader, Summary

#: Written into every kept index; another one means: scan again.
FORMAT = "llmasos-task-index/1"
#: Folders with fewer task files are scanned each time, which is as fast as reading what was kept.
WORTH_KEEPING = 64
#: A file that changed this short a time before it was read may change again without its time showing it. Nanoseconds.
RACE = 2 * 10**9

_IGNORED = frozenset({"__pycache__", ".ipynb_checkpoints", ".git"})

#: Size and time of last change of a file. No file has the first of these; the second stands for one that is not there.
Stamp = tuple[int, int]
_NEVER: Stamp = (-1, -1)
_ABSENT: Stamp = (-2, -2)
#: Look-ups that read only the lines in question; with more of them it pays to read everything once.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that can be asked for, and where it comes from. A tag has members and no file."""

    name: str
    kind: Kind
    origin: str
    file: str | None = None
    members: tuple[str, ...] = ()
    summary: Summary | None = None

    @property
    def path(self) -> Path | None:
        """The file, for what is no tag and was found in a folder."""
        return None if self.file is None else Path(self.file)


class FolderIndex:
    """Names of one folder tree, a line of JSON a file: ``[included files, summaries, error]``.

    Lines are read when they are asked for: one look-up among 13,000 files reads a handful of them.
    """

    def __init__(
        self,
        root: Path,
        folders: dict[str, int],
        parts: dict[str, Stamp],
        files: list[str],
        stamps: list[Stamp],
        lines: list[str],
    ) -> None:
        self.root = root
        #: Folder and time of its last change; and the same for included files, wherever they lie.
        self.folders, self.parts = folders, parts
        #: Paths relative to the root, sorted, with their stamps and lines.
        self.files, self.stamps, self.lines = files, stamps, lines
        self._asked = 0
        self._all: dict[str, list[Entry]] | None = None

    def find(self, name: str, *, within: str | None = None) -> list[Entry]:
        """Entries of a name, a tag with its members last. ``within``: only files that lie in that very folder."""
        self._asked += 1
        if self._all is None and self._asked <= _FEW:
            quoted = json.dumps(name, ensure_ascii=False)
            lines = [number for number, line in enumerate(self.lines) if quoted in line]
            found = [entry for entry in self._entries(lines) if entry.name == name]
        else:
            found = self.by_name.get(name, [])
        if within is not None:
            found = [entry for entry in found if entry.file and os.path.dirname(entry.file) == within]
        return found

    def containing(self, text: str) -> Iterator[Entry]:
        """Entries of files in whose summaries a text occurs, tags with all their members: more than those it is part of
        the name of, and far fewer than all."""
        written = json.dumps(text, ensure_ascii=False)[1:-1]
        return self._entries([number for number, line in enumerate(self.lines) if written in line])

    @property
    def by_name(self) -> Mapping[str, Sequence[Entry]]:
        """Every task and group in the order of their files, then every tag."""
        if self._all is None:
            self._all = {}
            for entry in self._entries(range(len(self.lines))):
                self._all.setdefault(entry.name, []).append(entry)
        return self._all

    @property
    def broken(self) -> dict[str, str]:
        """Files that could not be read, and why."""
        lines = (number for number, line in enumerate(self.lines) if not line.endswith(",null]"))
        return {self._file(number): json.loads(self.lines[number])[2] for number in lines}

    def _entries(self, lines: Iterable[int]) -> Iterator[Entry]:
        chosen = list(lines)
        tags: dict[str, set[str]] = {}
        decoded = json.loads("[" + ",".join([self.lines[number] for number in chosen]) + "]")
        for number, (_, rows, _) in zip(chosen, decoded, strict=True):
            for row in rows:
                file = self._file(number)
                summary = Summary.of(row)
                yield Entry(summary.name, summary.kind, file, file, summary=summary)
                for tag in summary.tags:
                    tags.setdefault(tag, set()).add(summary.name)
        for tag, members in sorted(tags.items()):
            yield Entry(tag, "tag", str(self.root), members=tuple(sorted(members)))

    def _file(self, number: int) -> str:
        return f"{self.root}{os.sep}{self.files[number]}"


def open_index(
    root: Path, cache: Path | None, progress: Progress | None = None, *, deep: bool = True
) -> FolderIndex:
    """The index of a folder: as it was kept where nothing changed, brought up to date where something did.

    ``cache`` None keeps nothing. ``deep`` False looks at the files of the folder itself only. Raises InputError when
    there is no such folder.
    """
    root = Path(os.path.abspath(root.expanduser()))
    if not root.is_dir():
        raise InputError(f"--include {root}: no such folder", hint="give a folder with task files")
    kept = _kept_path(root, cache) if cache is not None and deep else None
    known = _load(kept, root) if kept is not None else None
    if known is not None and _is_current(known):
        return known
    index = _scan(root, known or FolderIndex(root, {}, {}, [], [], []), progress, deep=deep)
    if kept is not None and len(index.files) >= WORTH_KEEPING:
        _save(kept, index)
    return index


# ---- what was kept ----------------------------------------------------------------------------------------------------


def _kept_path(root: Path, cache: Path) -> Path:
    return cache / "task-index" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.jsonl"


def _load(path: Path, root: Path) -> FolderIndex | None:
    """What was kept, or None when there is nothing that can be relied on."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if head.decode("ascii").split(" ") != [FORMAT, hashlib.sha256(body).hexdigest()]:
            return None
        first, *lines = body.decode("utf-8", "surrogatepass").removesuffix("\n").split("\n")
        value = json.loads(first)
        if value["root"] != str(root):
            return None
        stamps = list(zip(value["sizes"], value["changed"], strict=True))
        parts = {name: (size, changed) for name, (size, changed) in value["parts"].items()}
        if not len(value["files"]) == len(stamps) == len(lines):
            return None
        return FolderIndex(root, value["folders"], parts, value["files"], stamps, lines)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _save(path: Path, index: FolderIndex) -> None:
    first = _dump(
        {
            "root": str(index.root),
            "folders": index.folders,
            "parts": index.parts,
            "files": index.files,
            "sizes": [size for size, _ in index.stamps],
            "changed": [changed for _, changed in index.stamps],
        }
    )
    body = ("\n".join([first, *index.lines]) + "\n").encode("utf-8", "surrogatepass")
    head = f"{FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode("ascii")
    temporary = path.parent / f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    # A cache directory that cannot be written costs time, and nothing else.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as handle:
                handle.write(head + body)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _is_current(index: FolderIndex) -> bool:
    """Whether folders and files are what they were when the index was made."""
    base = f"{index.root}{os.sep}"
    stat = os.stat
    try:
        for name, changed in index.folders.items():
            if stat(base + name).st_mtime_ns != changed:
                return False
        for name, stamp in zip(index.files, index.stamps, strict=True):
            found = stat(base + name)
            if (found.st_size, found.st_mtime_ns) != stamp:
                return False
        return all(_stamp(name) == stamp for name, stamp in index.parts.items())
    except OSError:
        return False


# ---- scanning ---------------------------------------------------------------------------------------------------------


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return _ABSENT
    return found.st_size, found.st_mtime_ns


def _scan(root: Path, known: FolderIndex, progress: Progress | None, *, deep: bool) -> FolderIndex:
    if progress is not None:
        progress.phase(f"looking for tasks in {root}")
    now = time.time_ns()
    folders: dict[str, int] = {}
    stamps: dict[str, Stamp] = {}
    _walk(str(root), "", folders, stamps, deep=deep)
    if progress is not None:
        progress.phase(f"reading task files in {root}", len(stamps))

    reader = Reader()
    parts: dict[str, Stamp] = {}
    stale = {name for name, stamp in known.parts.items() if _stamp(name) != stamp}
    before = {name: number for number, name in enumerate(known.files)}
    lines = []
    files = sorted(stamps)
    for name in files:
        number = before.get(name)
        line = None
        if number is not None and known.stamps[number] == stamps[name]:
            line = known.lines[number]
            included = [] if line.startswith("[[],") else json.loads(line)[0]
            if not stale.isdisjoint(included):
                line = None
        if line is None:
            included, line = _read(f"{root}{os.sep}{name}", reader)
        for part in included:
            if part not in parts:
                parts[part] = _settled(_stamp(part), now)
        lines.append(line)
        if progress is not None:
            progress.advance()
    settled = {name: changed if changed < now - RACE else -1 for name, changed in folders.items()}
    return FolderIndex(root, settled, parts, files, [_settled(stamps[name], now) for name in files], lines)


def _settled(stamp: Stamp, now: int) -> Stamp:
    return stamp if stamp[1] < now - RACE else _NEVER


def _walk(base: str, below: str, folders: dict[str, int], files: dict[str, Stamp], *, deep: bool) -> None:
    place = os.path.join(base, below) if below else base
    folders[below] = os.stat(place).st_mtime_ns
    from llmasos_evals.tasks.sources import task_suffixes

    inner = []
    suffixes = task_suffixes()
    try:
        with os.scandir(place) as found:
            for item in found:
                name = f"{below}/{item.name}" if below else item.name
                if item.is_dir(follow_symlinks=False):
                    if item.name not in _IGNORED:
                        inner.append(name)
                elif item.name.endswith(suffixes):
                    with suppress(OSError):  # a link to nothing
                        status = item.stat()
                        files[name] = (status.st_size, status.st_mtime_ns)
    except PermissionError:
        return
    if deep:
        for name in inner:
            _walk(base, name, folders, files, deep=True)


def _read(path: str, reader: Reader) -> tuple[Sequence[str], str]:
    # Here, because a look-up in an index that was kept reads no task file.
    from llmasos_evals.tasks.sources import summaries_of

    try:
        summaries, parts = summaries_of(path, reader)
    except InputError as error:
        return reader.tried, _dump([reader.tried, [], error.message])
    return parts, _dump([parts, [summary.row() for summary in summaries], None])
