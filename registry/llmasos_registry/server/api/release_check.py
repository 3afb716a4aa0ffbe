"""What a commit must be before it is sealed: data that no loader would execute, a card, a valid manifest, a true signature."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmasos.errors import ManifestError
from llmasos_registry.server.api.snapshot import CommitFile, read_manifest
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.store.blobs import BlobStore
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PublicKey
from llmasos_registry.signatures.model_bundle import MAX_BUNDLE, verify_model
from llmasos_registry.signatures.model_files import SIGNATURE_FILE
from llmasos_registry.weights import HEAD, WeightsRefused, check_content, check_safetensors

CARD = "README.md"
#: Formats that nothing executes; their first bytes are not looked at.
TEXTS = (".json", ".jsonl", ".txt", ".md", ".toml", ".yaml", ".yml", ".csv", ".tsv", ".jinja", ".sig")
#: Files whose `auto_map` key names classes that some loaders download and run.
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
#: Bytes of a configuration that is read; a vocabulary does not belong into it.
MAX_CONFIG = 8 << 20
_PLUGIN = "models never execute code here: put it into a plugin, and name that in the model's llmasos.toml"


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
        _check_format(store, file, kind)
    card = by_path.get(CARD)
    if card is None or not _head(store, card, 4096).strip():
        raise refused(
            f"{name} has no card: {CARD} is {'missing' if card is None else 'empty'}",
            "say in README.md what it is, what it is for, where it comes from and its licence",
        )
    if kind == "model":
        for path in CONFIGS:
            if path in by_path:
                _check_config(store, by_path[path])
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


def _check_format(store: BlobStore, file: CommitFile, kind: str) -> None:
    head = b"" if file.path.lower().endswith(TEXTS) else _head(store, file)
    # A dataset may well consist of source code; what loaders run is the script at its top.
    if kind == "dataset" and file.path.endswith(".py") and "/" in file.path:
        return
    try:
        check_content(file.path, head, kind)
        if kind == "model" and file.path.endswith(".safetensors"):
            with store.open(file.sha256) as content:
                check_safetensors(content, file.size, file.path)
    except WeightsRefused as error:
        raise refused(error.message, error.hint) from error


def _check_config(store: BlobStore, file: CommitFile) -> None:
    """Refuse a configuration that names code, or is none."""
    if file.size > MAX_CONFIG:
        raise refused(f"{file.path} has {file.size} bytes; at most {MAX_CONFIG} are read")
    with store.open(file.sha256) as content:
        data = content.read(MAX_CONFIG)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise refused(f"{file.path} is not valid JSON") from None
    if _names_code(value):
        raise refused(f"{file.path} names code to run (`auto_map`)", f"remove the key; {_PLUGIN}")


def _names_code(value: Any) -> bool:
    """Whether ``auto_map`` stands anywhere in a document. No recursion: the nesting is the sender's."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if item.get("auto_map"):
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


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


def _head(store: BlobStore, file: CommitFile, size: int = HEAD) -> bytes:
    with store.open(file.sha256) as content:
        return content.read(size)
