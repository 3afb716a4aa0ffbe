"""Signatures of records and attestations: a DSSE envelope beside the file, over an in-toto statement that names its digest.

The statement has the SHA-256 of the canonical JSON of the whole document, so a file that was only laid out anew keeps its
signature, and one of which anything was changed does not. Keys are the publisher's (``llmasos registry key new``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos.api import (
    HubAPI,
    MissingDependency,
    RunError,
    Signed,
    Signer,
    UnknownName,
    canonical_digest,
    canonical_json,
)
from llmasos_evals.records.store import write_json
from llmasos_evals.records.untrusted import parse_object, read_object

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
#: What a statement says of its subject, by the schema of the document.
PREDICATES = {
    "llmasos-record": "https://llmasos/attestation/record/v1",
    "llmasos-attestation": "https://llmasos/attestation/verification/v1",
}
#: Bytes of an envelope.
MAX_ENVELOPE = 256 << 10


def signature_path(document: Path) -> Path:
    """Where the signature of a document lies: ``record.json`` -> ``record.sig``."""
    return document.with_suffix(".sig")


def sign_document(hub: HubAPI, document: Mapping[str, Any], key: Path | None = None) -> dict[str, Any]:
    """The envelope over a record or attestation. Raises InputError without a usable key, MissingDependency without a signer."""
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": document["schema"], "digest": {"sha256": canonical_digest(document)}}],
        "predicateType": _predicate(document),
        "predicate": {"schema": document["schema"], "digest": document.get("digest", document.get("record"))},
    }
    return _signer(hub).sign(PAYLOAD, canonical_json(statement), hub=hub, key=key)


def write_signature(hub: HubAPI, path: Path, document: Mapping[str, Any], key: Path | None = None) -> Signed:
    """Sign the document that lies at ``path`` and write the envelope beside it. Returns who signed."""
    envelope = sign_document(hub, document, key)
    write_json(signature_path(path), envelope)
    return check_signature(hub, document, envelope)


def check_signature(hub: HubAPI, document: Mapping[str, Any], envelope: Mapping[str, Any]) -> Signed:
    """Who signed this very document. Raises RunError saying what does not hold."""
    signed = _signer(hub).verify(envelope, PAYLOAD, hub=hub)
    try:
        statement = parse_object(signed.payload)
        kinds = (statement["_type"], statement["predicateType"])
        (subject,) = statement["subject"]
        digest = subject["digest"]["sha256"]
    except (ValueError, KeyError, TypeError):
        raise RunError("the signature is over something that is no statement about a document") from None
    if kinds != (STATEMENT, _predicate(document)):
        raise RunError(f"the signature is over another kind of statement: {str(kinds[1])[:100]}")
    actual = canonical_digest(document)
    if digest != actual:
        raise RunError(
            f"the signature is for another document: it says sha256 {str(digest)[:64]}, this one has {actual}",
            hint="the document was changed after it was signed",
        )
    return signed


def read_signature(hub: HubAPI, path: Path, document: Mapping[str, Any]) -> Signed | None:
    """Who signed the document at ``path``, None when nobody did. Raises RunError for a signature that does not hold."""
    file = signature_path(path)
    if not file.exists():
        return None
    return check_signature(hub, document, read_object(file, MAX_ENVELOPE))


def described(signed: Signed | None) -> dict[str, Any] | None:
    """A signature for JSON output."""
    if signed is None:
        return None
    return {"keyid": signed.keyid, "known_as": list(signed.known_as), "revoked": signed.revoked}


def in_words(signed: Signed | None) -> str:
    """A signature for people."""
    if signed is None:
        return "nobody"
    who = ", ".join(signed.known_as) or "somebody unknown here"
    return f"{who} ({signed.keyid[:23]}{', revoked' if signed.revoked else ''})"


def _predicate(document: Mapping[str, Any]) -> str:
    return PREDICATES[str(document["schema"]).partition("/")[0]]


def _signer(hub: HubAPI) -> Signer:
    try:
        signer: Signer = hub.get("signer", "publisher")()
    except UnknownName as error:
        raise MissingDependency(
            f"no enabled plugin signs: {error.message}",
            hint="enable llmasos-registry: `llmasos plugin list` shows why it is not used",
        ) from error
    return signer
