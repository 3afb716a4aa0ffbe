"""Reading git objects out of the database. They never change, so what was read once may be kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import sqlalchemy as sa

from llmasos_registry.server.db.tables_store import git_blobs, git_trees
from llmasos_registry.server.store.git import EMPTY_TREE, TreeEntry, tree_entries

#: How many ids one query names. SQLite takes 32,766 parameters, PostgreSQL 65,535.
BATCH = 500
#: How many names and blobs a process keeps; about 300 bytes each.
KEPT = 200_000


@dataclass(frozen=True, slots=True)
class File:
    """A file's content as a tree names it: ``oid`` is git's id (of the pointer for LFS), ``sha256`` and ``size`` the content's."""

    oid: str
    sha256: str
    size: int
    lfs: bool

    @property
    def etag(self) -> str:
        """What Hub clients name the cached file by, and check it against."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a commit. ``file`` is None for a folder; ``oid`` is that of the tree then."""

    path: str
    oid: str
    file: File | None


Names = Mapping[str, TreeEntry]


class Objects:
    """Trees and blobs by id, the most recently used kept in memory. Safe in threads."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._trees: OrderedDict[str, Names] = OrderedDict()
        self._names = 0
        self._files: OrderedDict[str, File] = OrderedDict()

    def tree(self, conn: sa.Connection, oid: str) -> Names:
        """The entries of a tree by name, in git's order. Raises LookupError when the database lacks it."""
        with self._lock:
            found = self._trees.get(oid)
            if found is not None:
                self._trees.move_to_end(oid)
                return found
        data = (
            b""
            if oid == EMPTY_TREE
            else conn.execute(sa.select(git_trees.c.data).where(git_trees.c.oid == oid)).scalar_one_or_none()
        )
        if data is None:
            raise LookupError(f"tree {oid} is missing")
        names: Names = MappingProxyType({entry.name: entry for entry in tree_entries(data)})
        with self._lock:
            if oid not in self._trees:
                self._trees[oid] = names
                self._names += len(names) + 1
            while self._names > self._kept and len(self._trees) > 1:
                _, dropped = self._trees.popitem(last=False)
                self._names -= len(dropped) + 1
        return names

    def files(self, conn: sa.Connection, oids: Iterable[str]) -> dict[str, File]:
        """Content of blobs. Raises LookupError when the database lacks one."""
        wanted = set(oids)
        with self._lock:
            known = {oid: self._files[oid] for oid in wanted if oid in self._files}
            for oid in known:
                self._files.move_to_end(oid)
        missing = sorted(wanted - known.keys())
        found = stored_files(conn, missing)
        if len(found) != len(missing):
            raise LookupError(f"blob {next(o for o in missing if o not in found)} is missing")
        with self._lock:
            self._files.update(found)
            while len(self._files) > self._kept:
                self._files.popitem(last=False)
        return known | found


def stored_files(conn: sa.Connection, oids: Iterable[str]) -> dict[str, File]:
    """Content of the blobs that the database knows, past any memory: what is about to be referenced must be there now."""
    wanted = sorted(set(oids))
    found: dict[str, File] = {}
    for start in range(0, len(wanted), BATCH):
        rows = conn.execute(
            sa.select(git_blobs.c.oid, git_blobs.c.sha256, git_blobs.c.size, git_blobs.c.lfs).where(
                git_blobs.c.oid.in_(wanted[start : start + BATCH])
            )
        )
        found |= {row.oid: File(row.oid, row.sha256, row.size, bool(row.lfs)) for row in rows}
    return found


def find(conn: sa.Connection, objects: Objects, tree: str, path: str) -> TreeEntry | None:
    """The name at a path of a tree; None when there is nothing. The empty path is the tree itself."""
    current = TreeEntry("", tree, True)
    for name in path.split("/") if path else ():
        if not current.is_tree:
            return None
        found = objects.tree(conn, current.oid).get(name)
        if found is None:
            return None
        current = found
    return current


def walk(conn: sa.Connection, objects: Objects, tree: str, path: str) -> Entry | None:
    """What a path of a tree is, with a file's content."""
    found = find(conn, objects, tree, path)
    if found is None:
        return None
    return Entry(path, found.oid, None if found.is_tree else objects.files(conn, [found.oid])[found.oid])


def listing(
    conn: sa.Connection, objects: Objects, tree: str, *, recursive: bool, after: str = "", prefix: str = ""
) -> Iterator[TreeEntry]:
    """Entries below a tree with whole paths as names, depth first in git's order; only what follows the path ``after``.

    Folders before ``after`` are not read, so a page costs what it shows. Nothing follows a path that is not there.
    """
    seek, _, rest = after.partition("/")
    seeking = bool(after)
    for name, entry in objects.tree(conn, tree).items():
        inside = ""
        if seeking:
            if name != seek:
                continue
            seeking, inside = False, rest
        else:
            yield TreeEntry(prefix + name, entry.oid, entry.is_tree)
        if recursive and entry.is_tree:
            yield from listing(
                conn, objects, entry.oid, recursive=True, after=inside, prefix=f"{prefix}{name}/"
            )
