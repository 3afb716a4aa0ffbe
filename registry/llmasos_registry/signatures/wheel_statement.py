"""What a publisher signs about a wheel: an in-toto statement (Statement v1) naming the file, its digest and its project.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from packaging.utils import canonicalize_name, canonicalize_version

from llmasos_registry.signatures import dsse
from llmasos_registry.signatures.document import parse_object
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PrivateKey, PublicKey

STATEMENT = "https://in-toto.io/Statement/v1"
#: The predicate says that a publisher releases this file as a version of a project.
PREDICATE = "https://llmasos/attestation/wheel/v1"


def statement(filename: str, sha256: str, project: str, version: str, publisher: str) -> bytes:
    """The payload to sign. ``sha256`` is 64 hex digits; name and version are normalised (PEP 503, PEP 440)."""
    document = {
        "_type": STATEMENT,
        "subject": [{"name": filename, "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "project": canonicalize_name(project),
            "publisher": publisher,
            "version": canonicalize_version(version, strip_trailing_zero=False),
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def sign_wheel(
    key: PrivateKey, filename: str, sha256: str, project: str, version: str, publisher: str
) -> dict[str, Any]:
    """An envelope over the statement, as a JSON object."""
    return dsse.sign(dsse.IN_TOTO, statement(filename, sha256, project, version, publisher), key)


def check_wheel(
    envelope: Mapping[str, Any],
    keys: Iterable[PublicKey],
    filename: str,
    sha256: str,
    project: str,
    version: str | None = None,
    publisher: str | None = None,
) -> str:
    """The keyid that signed this very file. ``version`` and ``publisher`` are compared when given.

    Raises SignatureRefused naming what was expected and what was found.
    """
    payload, keyid = dsse.verify(envelope, keys, dsse.IN_TOTO)
    document = parse_object(payload, dsse.MAX_ENVELOPE, f"the signed statement about {filename}")
    found = (document.get("_type"), document.get("predicateType"))
    if found != (STATEMENT, PREDICATE):
        raise SignatureRefused(
            f"the signature of {filename} is a statement of the type {found[1]!r}, expected {PREDICATE!r}"
        )
    name, digest = _subject(document, filename)
    predicate = document.get("predicate")
    if not isinstance(predicate, dict):
        raise SignatureRefused(f"the signed statement about {filename} has no predicate")
    wanted = [
        ("file", filename, name),
        ("sha256", sha256, digest),
        ("project", canonicalize_name(project), predicate.get("project")),
    ]
    if version is not None:
        expected_version = canonicalize_version(version, strip_trailing_zero=False)
        wanted.append(("version", expected_version, predicate.get("version")))
    if publisher is not None:
        wanted.append(("publisher", publisher, predicate.get("publisher")))
    for what, expected, value in wanted:
        if value != expected:
            raise SignatureRefused(
                f"the signature of {filename} is for another thing: {what} {str(value)[:100]}, expected {expected}"
            )
    return keyid


def _subject(document: Mapping[str, Any], filename: str) -> tuple[str, str]:
    subjects = document.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise SignatureRefused(f"the signed statement about {filename} does not name exactly one file")
    name, digests = subjects[0].get("name"), subjects[0].get("digest")
    digest = digests.get("sha256") if isinstance(digests, dict) else None
    if not isinstance(name, str) or not isinstance(digest, str):
        raise SignatureRefused(f"the signed statement about {filename} has no sha256")
    return name, digest
