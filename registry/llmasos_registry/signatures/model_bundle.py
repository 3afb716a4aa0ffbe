"""Signatures of models in the format of OpenSSF model signing, version 1.0, made with a key, offline.

A Sigstore bundle (v0.3) holds a DSSE envelope, which holds an in-toto statement, whose predicate lists every file of the
model with its SHA-256. `model_signing verify key` accepts what is written here, and the other way round.
https://github.com/sigstore/model-transparency, https://docs.sigstore.dev/about/bundle/

Stricter than the format: files that the signer chose to leave out are refused too, except the signature and git's own
files, so that "signed" always means all of the model. The subject's name is compared with the name of the repository, and
a signature made for a release says so in ``predicate.llmasos.version``, a field that other verifiers ignore as the format
asks them to.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmasos_registry.signatures import dsse
from llmasos_registry.signatures.document import parse_object
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PrivateKey, PublicKey, public_pem
from llmasos_registry.signatures.model_files import (
    UNSIGNED,
    clean_path,
    hash_files,
    is_unsigned,
    list_files,
)
from llmasos_registry.signatures.wheel_statement import STATEMENT

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"
#: Bytes of a bundle: a listing of 100,000 files has about 20 MB, base64 included.
MAX_BUNDLE = 64 << 20
#: What downloads leave in a folder; named in the signature so that other tools verify a downloaded folder as it lies.
_LEFT_BY_DOWNLOADS = (".cache",)
#: Files named one by one in a refusal; the rest is counted.
_NAMED = 5
_DIGEST = re.compile(r"[0-9a-f]{64}")


class SignedModel(NamedTuple):
    """What a bundle says, once its signature holds."""

    name: str
    version: str | None
    files: Mapping[str, str]
    keyid: str


def sign_model(
    folder: Path,
    key: PrivateKey,
    *,
    name: str | None = None,
    version: str | None = None,
    ignore: Iterable[str] = (),
    read: Callable[[int], None] | None = None,
) -> bytes:
    """The bundle over all files of a folder, to be stored as ``model.sig``.

    ``name`` is ``org/name``, else the folder's own name; ``ignore`` adds paths to those that are never signed; ``read`` is
    told how many bytes were hashed. Raises InputError for what cannot be signed.
    """
    left_out = (*UNSIGNED, *ignore)
    files = hash_files(folder, list_files(folder, left_out), read)
    return sign_files(files, key, name=name or folder.resolve().name, version=version, ignore=ignore)


def sign_files(
    files: Mapping[str, str],
    key: PrivateKey,
    *,
    name: str,
    version: str | None = None,
    ignore: Iterable[str] = (),
) -> bytes:
    """The bundle over files whose SHA-256 (hex) are known."""
    order = sorted(files, key=lambda path: path.split("/"))
    predicate: dict[str, Any] = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": sorted({*UNSIGNED, *_LEFT_BY_DOWNLOADS, *ignore}),
        },
        "resources": [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in order],
    }
    if version is not None:
        predicate["llmasos"] = {"version": version}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root(files[path] for path in order)}}],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": dsse.sign(dsse.IN_TOTO, payload, key),
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def read_bundle(bundle: bytes, keys: Iterable[PublicKey]) -> SignedModel:
    """What a bundle says, after its signature was checked against ``keys``. Compares no files. Raises SignatureRefused."""
    document = parse_object(bundle, MAX_BUNDLE, "the bundle")
    if document.get("mediaType") != MEDIA_TYPE:
        raise SignatureRefused(
            f"the bundle is of the type {document.get('mediaType')!r}, expected {MEDIA_TYPE!r}"
        )
    envelope = document.get("dsseEnvelope")
    if not isinstance(envelope, dict):
        raise SignatureRefused("the bundle has no dsseEnvelope")
    known = list(keys)
    try:
        payload, keyid = dsse.verify(envelope, known, dsse.IN_TOTO)
    except SignatureRefused as refusal:
        raise _with_hint(refusal, document, known) from refusal
    statement = parse_object(payload, MAX_BUNDLE, "the signed statement")
    found = (statement.get("_type"), statement.get("predicateType"))
    if found != (STATEMENT, PREDICATE):
        raise SignatureRefused(
            f"the bundle signs a statement of the type {found[1]!r}, expected {PREDICATE!r}"
        )
    predicate = statement.get("predicate")
    if not isinstance(predicate, dict):
        raise SignatureRefused("the signed statement has no predicate")
    files = _resources(predicate)
    return SignedModel(_subject(statement, files), _version(predicate), files, keyid)


def verify_model(
    model: Path | Mapping[str, str],
    bundle: bytes,
    keys: Iterable[PublicKey],
    *,
    name: str | None = None,
    version: str | None = None,
    read: Callable[[int], None] | None = None,
) -> str:
    """The keyid that signed exactly these files.

    ``model`` is a folder, or path -> SHA-256 of *all* files of the repository. ``name`` (``org/name``) and ``version`` are
    compared when given; a bundle that names no version passes for any. A bundle of another tool, which names the folder it
    saw, passes when that is the last part of ``name``.

    Raises SignatureRefused naming each file with the digest expected and the one found, or the key, name or version.
    """
    signed = read_bundle(bundle, keys)
    if (
        name is not None
        and signed.name != name
        and ("/" in signed.name or signed.name != name.split("/")[-1])
    ):
        raise SignatureRefused(f"the signature is for the model {signed.name!r}, expected {name!r}")
    if version is not None and signed.version not in (None, version):
        raise SignatureRefused(
            f"the signature of {signed.name} is for version {signed.version}, expected {version}"
        )
    if isinstance(model, Path):
        files: Mapping[str, str] = hash_files(model, list_files(model), read)
    else:
        files = {path: digest for path, digest in model.items() if not is_unsigned(path)}
    if differences := compare(signed.files, files):
        more = len(differences) - _NAMED
        shown = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise SignatureRefused(f"{signed.name} is not what was signed: {shown}")
    return signed.keyid


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What differs, one line a file, in the order of the paths; empty when nothing does."""
    lines: list[str] = []
    for path in sorted({*expected, *found}):
        if path not in found:
            lines.append(f"{path} is missing, expected sha256 {expected[path]}")
        elif path not in expected:
            lines.append(f"{path} was not signed, found sha256 {found[path]}")
        elif expected[path] != found[path]:
            lines.append(f"{path}: expected sha256 {expected[path]}, found {found[path]}")
    return lines


def _resources(predicate: Mapping[str, Any]) -> dict[str, str]:
    serialization, resources = predicate.get("serialization"), predicate.get("resources")
    if not isinstance(serialization, dict) or not isinstance(resources, list):
        raise SignatureRefused("the signed statement has no serialization or no resources")
    method = (serialization.get("method"), serialization.get("hash_type"))
    if method != ("files", "sha256"):
        raise SignatureRefused(
            f"the model was signed as {method[0]} with {method[1]}, expected files with sha256",
            hint="sign it again with the default serialization and hash",
        )
    files: dict[str, str] = {}
    for entry in resources:
        if not isinstance(entry, dict):
            raise SignatureRefused("an entry of the signed listing is malformed")
        path, algorithm, digest = (entry.get(field) for field in ("name", "algorithm", "digest"))
        if not isinstance(path, str) or not clean_path(path) or path in files:
            raise SignatureRefused(
                f"the signed listing has {str(path)[:100]!r}, which is no path or is there twice"
            )
        if algorithm != "sha256" or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise SignatureRefused(f"the signed listing has no sha256 for {path}")
        files[path] = digest
    return files


def _subject(statement: Mapping[str, Any], files: Mapping[str, str]) -> str:
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise SignatureRefused("the signed statement does not name exactly one model")
    name, digests = subjects[0].get("name"), subjects[0].get("digest")
    if not isinstance(name, str) or not isinstance(digests, dict):
        raise SignatureRefused("the signed statement has no name or no digest")
    # The digest is over the digests in the order of the listing, so a listing that was assembled by hand does not pass.
    root = _root(files.values())
    if digests.get("sha256") != root:
        raise SignatureRefused(
            f"the signed listing hashes to {root}, but says {str(digests.get('sha256'))[:100]}"
        )
    return name


def _version(predicate: Mapping[str, Any]) -> str | None:
    own = predicate.get("llmasos")
    if own is None:
        return None
    version = own.get("version") if isinstance(own, dict) else None
    if not isinstance(version, str):
        raise SignatureRefused("the signed statement has a malformed version")
    return version


def _root(digests: Iterable[str]) -> str:
    root = hashlib.sha256()
    for digest in digests:
        root.update(bytes.fromhex(digest))
    return root.hexdigest()


def _hint(key: PublicKey) -> str:
    """The name that other verifiers look for: hex SHA-256 of the key's PEM text."""
    return hashlib.sha256(public_pem(key).encode()).hexdigest()


def _with_hint(
    refusal: SignatureRefused, document: Mapping[str, Any], keys: Iterable[PublicKey]
) -> SignatureRefused:
    """Say that a bundle is by another key when only its hint, not its keyid, tells."""
    material = document.get("verificationMaterial")
    named = material.get("publicKey") if isinstance(material, dict) else None
    hint = named.get("hint") if isinstance(named, dict) else None
    if not isinstance(hint, str) or "unnamed key" not in refusal.message:
        return refusal
    if hint in {_hint(key) for key in keys}:
        return SignatureRefused(
            "the signature does not fit the bundle, which was changed after it was signed"
        )
    return SignatureRefused(f"{refusal.message} with the PEM digest {hint[:64]}")
