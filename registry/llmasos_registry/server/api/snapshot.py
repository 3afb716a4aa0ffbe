"""What a commit holds: its files, and what its ``llmasos.toml`` requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from llmasos.errors import ManifestError
from llmasos.kernel.model_manifest import MANIFEST_FILE, MAX_BYTES, ModelManifest, parse_model_manifest
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.hub.objects import Objects, listing
from llmasos_registry.server.hub.repository import Commit
from llmasos_registry.server.store.blobs import BlobStore

#: Files of one commit that an answer lists; what Hub clients are told to stay below is half of it.
MAX_FILES = 200_000


@dataclass(frozen=True, slots=True)
class CommitFile:
    """A file of a commit: git's id of what stands in the tree, and the content's digest and size."""

    path: str
    oid: str
    sha256: str
    size: int


def commit_files(conn: sa.Connection, objects: Objects, commit: Commit) -> list[CommitFile]:
    """All files of a commit, by path. Raises Failure 413 for more than any answer lists."""
    names: list[tuple[str, str]] = []
    for entry in listing(conn, objects, commit.tree, recursive=True):
        if not entry.is_tree:
            names.append((entry.name, entry.oid))
        if len(names) > MAX_FILES:
            raise Failure(413, f"The commit {commit.oid} has more than {MAX_FILES} files")
    contents = objects.files(conn, (oid for _, oid in names))
    found = [CommitFile(path, oid, contents[oid].sha256, contents[oid].size) for path, oid in names]
    return sorted(found, key=lambda file: file.path)


def read_manifest(store: BlobStore, files: Sequence[CommitFile], name: str) -> ModelManifest:
    """The model's ``llmasos.toml`` in a commit; an empty one when there is none.

    Raises ManifestError when it is invalid: any commit may hold one, only releases are checked.
    """
    file = next((file for file in files if file.path == MANIFEST_FILE), None)
    if file is None:
        return ModelManifest()
    source = f"{MANIFEST_FILE} of {name}"
    if file.size > MAX_BYTES:
        raise ManifestError(f"{source} has {file.size} bytes, at most {MAX_BYTES} are read")
    with store.open(file.sha256) as content:
        return parse_model_manifest(content.read(MAX_BYTES + 1), source=source)
