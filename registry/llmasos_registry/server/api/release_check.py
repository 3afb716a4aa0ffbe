"""What a commit must be before it is sealed: data that no loader would execute, a card, a valid manifest, a true signature."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from llmasos.errors import ManifestError
from llmasos_registry.server.api.snapshot import CommitFile, read_manifest
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.store.blobs import BlobStore
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PublicKey
from llmasos_registry.signatures.model_bundle import MAX_BUNDLE, verify_model
from llmasos_registry.signatures.model_files import SIGNATURE_FILE
from llmasos_registry.weights import WeightsRefused, check_file

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a release is recorded with. ``keyid`` names the key of the signature, None when there is none."""

    requires: tuple[str, ...]
    keyid: str | None


def check_release(
    store: BlobStore,
    files: list[CommitFile],
    keys: Iterable[PublicKey],
    *,
    kind: str,
    name: str,
    version: str,
) -> Checked:
    """Check all files of a commit that is to become ``version`` of ``name``. Raises Failure 422 naming file and rule."""
    by_path = {file.path: file for file in files}
    for file in files:
        try:
            check_file(file.path, file.size, partial(store.open, file.sha256), kind)
        except WeightsRefused as error:
            raise refused(error.message, error.hint) from error
    card = by_path.get(CARD)
    if card is None or not _head(store, card, 4096).strip():
        raise refused(
            f"{name} has no card: {CARD} is {'missing' if card is None else 'empty'}",
            "say in README.md what it is, what it is for, where it comes from and its licence",
        )
    try:
        manifest = read_manifest(store, files, name)
    except ManifestError as error:
        raise refused(error.message, error.hint) from error
    signature = by_path.get(SIGNATURE_FILE)
    keyid = None if signature is None else _check_signature(store, signature, files, keys, name, version)
    return Checked(manifest.requires, keyid)


def refused(message: str, hint: str | None = None) -> Failure:
    """422: understood, and not to be released."""
    return Failure(422, message, hint=hint)


def _check_signature(
    store: BlobStore,
    signature: CommitFile,
    files: list[CommitFile],
    keys: Iterable[PublicKey],
    name: str,
    version: str,
) -> str:
    if signature.size > MAX_BUNDLE:
        raise refused(f"{SIGNATURE_FILE} has {signature.size} bytes; at most {MAX_BUNDLE} are read")
    with store.open(signature.sha256) as content:
        bundle = content.read(MAX_BUNDLE)
    try:
        return verify_model(
            {file.path: file.sha256 for file in files}, bundle, keys, name=name, version=version
        )
    except SignatureRefused as error:
        raise refused(
            f"{SIGNATURE_FILE} does not hold: {error.message}",
            error.hint or "sign again with a key that the publisher registered, or remove the file",
        ) from error


def _head(store: BlobStore, file: CommitFile, size: int) -> bytes:
    with store.open(file.sha256) as content:
        return content.read(size)
