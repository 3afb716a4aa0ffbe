"""Git object ids, computed as git computes them: blob, tree, commit, and the pointer file of Git LFS.

Source: gitformat-pack and git-hash-object manuals; the Git LFS pointer specification, version 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

#: The tree without entries.
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
FILE_MODE = b"100644"
TREE_MODE = b"40000"


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of a tree; ``oid`` is 40 hex digits."""

    name: str
    oid: str
    is_tree: bool


def object_id(kind: str, data: bytes) -> str:
    """The id of an object: sha1 over its header and its bytes."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def blob_id(data: bytes) -> str:
    """The id of a file's content."""
    return object_id("blob", data)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer file that stands in a tree for an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_data(entries: Iterable[TreeEntry]) -> bytes:
    """The bytes of a tree: entries in git's order, in which a folder sorts as if its name ended with a slash."""
    ordered = sorted(entries, key=lambda e: e.name.encode() + (b"/" if e.is_tree else b""))
    return b"".join(
        (TREE_MODE if e.is_tree else FILE_MODE) + b" " + e.name.encode() + b"\0" + bytes.fromhex(e.oid)
        for e in ordered
    )


def tree_entries(data: bytes) -> Iterator[TreeEntry]:
    """The entries of a tree's bytes, in their order."""
    position = 0
    while position < len(data):
        space = data.index(b" ", position)
        zero = data.index(b"\0", space)
        yield TreeEntry(
            data[space + 1 : zero].decode(),
            data[zero + 1 : zero + 21].hex(),
            data[position:space] == TREE_MODE,
        )
        position = zero + 21


def commit_data(tree: str, parents: Iterable[str], author: str, at: datetime, message: str) -> bytes:
    """The bytes of a commit. Author and committer are one; the mail address is ``NAME@registry``."""
    who = f"{author} <{author}@registry> {int(at.timestamp())} +0000"
    lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
    return ("\n".join(lines) + "\n\n" + message).encode()


def commit_id(tree: str, parents: Iterable[str], author: str, at: datetime, message: str) -> str:
    """The id of that commit."""
    return object_id("commit", commit_data(tree, parents, author, at, message))
