"""DSSE, the Dead Simple Signing Envelope, version 1 (https://github.com/secure-systems-lab/dsse, protocol.md, envelope.md).

An envelope carries a payload, its type, and signatures over both. Keyids in an envelope are hints and never trusted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

from llmasos_registry.signatures import keys as publisher_keys
from llmasos_registry.signatures.document import parse_object
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PrivateKey, PublicKey

#: Payload type of in-toto statements.
IN_TOTO = "application/vnd.in-toto+json"
#: Bytes of an envelope of a single file as JSON.
MAX_ENVELOPE = 256 << 10
#: More signatures than this in one envelope are refused before any is checked.
MAX_SIGNATURES = 16


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed. Lengths are of the bytes, in decimal."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, key: PrivateKey) -> dict[str, Any]:
    """An envelope with one signature, as a JSON object."""
    signature = publisher_keys.sign(key, pae(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": payload_type,
        "signatures": [
            {
                "keyid": publisher_keys.keyid(key.public_key()),
                "sig": base64.b64encode(signature).decode("ascii"),
            }
        ],
    }


def parse(data: bytes | str, limit: int = MAX_ENVELOPE) -> dict[str, Any]:
    """An envelope from JSON text; nothing is verified yet. Raises SignatureRefused."""
    return parse_object(data, limit, "the envelope")


def verify(
    envelope: Mapping[str, Any], keys: Iterable[PublicKey], payload_type: str | None = None
) -> tuple[bytes, str]:
    """(payload, keyid of the key that signed it).

    Raises SignatureRefused when the envelope is malformed, is of another ``payload_type``, or no signature in it was made
    by one of ``keys``; the message names the keys that were expected and those that the envelope claims.
    """
    kind, encoded, signatures = (envelope.get(name) for name in ("payloadType", "payload", "signatures"))
    if not isinstance(kind, str) or not isinstance(encoded, str) or not isinstance(signatures, list):
        raise SignatureRefused("the envelope lacks payload, payloadType or signatures")
    if payload_type is not None and kind != payload_type:
        raise SignatureRefused(f"the envelope holds {kind!r}, expected {payload_type!r}")
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise SignatureRefused(
            f"the envelope has {len(signatures)} signatures, expected 1 to {MAX_SIGNATURES}"
        )
    payload = _decode(encoded, "payload")
    signed = pae(kind, payload)
    known = publisher_keys.by_keyid(keys)
    claimed: list[str] = []
    for entry in signatures:
        if not isinstance(entry, dict) or not isinstance(entry.get("sig"), str):
            raise SignatureRefused("a signature in the envelope is malformed")
        signature = _decode(entry["sig"], "signature")
        hint = entry.get("keyid")
        if isinstance(hint, str) and hint:
            claimed.append(hint[:80])
        for name, key in known.items():
            if publisher_keys.holds(key, signature, signed):
                return payload, name
    raise SignatureRefused(_explanation(sorted(known), claimed))


def _explanation(expected: list[str], claimed: list[str]) -> str:
    if not expected:
        return (
            f"no key is known to check the signature with; it says it is by {', '.join(claimed) or 'nobody'}"
        )
    wanted = f"expected a signature by {' or '.join(expected)}"
    if any(name in expected for name in claimed):
        return f"the signature does not fit its content, which was changed after it was signed; {wanted}"
    return f"the signature is not by a key of the publisher: {wanted}, found {', '.join(claimed) or 'an unnamed key'}"


def _decode(text: str, what: str) -> bytes:
    """Base64, of the standard or the URL-safe alphabet: the specification allows both."""
    try:
        return base64.b64decode(text.translate({45: "+", 95: "/"}), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureRefused(f"the {what} in the envelope is not base64") from error
