"""DSSE envelopes and the statements about wheels."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from llmasos_registry.signatures import dsse, keys
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.wheel_statement import check_wheel, sign_wheel, statement

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
PUBLIC = [KEY.public_key()]
DIGEST = "ab" * 32
WHEEL = "llmasos_acme-1.2.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("kind", "payload", "expected"),
    [
        # The example of the specification (protocol.md), and what its lengths mean beyond ASCII.
        (
            "http://example.com/HelloWorld",
            b"hello world",
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world",
        ),
        ("", b"", b"DSSEv1 0  0 "),
        ("é", "é ".encode(), "DSSEv1 2 é 3 é ".encode()),
    ],
)
def test_the_encoding_is_that_of_the_specification(kind: str, payload: bytes, expected: bytes) -> None:
    assert dsse.pae(kind, payload) == expected


def test_the_signature_is_over_the_encoding() -> None:
    envelope = dsse.sign("text/plain", b"hello", KEY)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    KEY.public_key().verify(signature, b"DSSEv1 10 text/plain 5 hello", ec.ECDSA(hashes.SHA256()))


def test_an_envelope_verifies_and_names_the_key() -> None:
    envelope = dsse.parse(json.dumps(dsse.sign("text/plain", b"hello", KEY)))
    assert dsse.verify(envelope, [OTHER.public_key(), *PUBLIC]) == (b"hello", keys.keyid(PUBLIC[0]))


def test_the_url_safe_alphabet_is_read_too() -> None:
    envelope = dsse.sign("text/plain", bytes(range(256)), KEY)
    envelope["payload"] = envelope["payload"].replace("+", "-").replace("/", "_")
    assert dsse.verify(envelope, PUBLIC)[0] == bytes(range(256))


def test_one_good_signature_among_others_is_enough() -> None:
    envelope = dsse.sign("text/plain", b"hello", OTHER)
    envelope["signatures"] += dsse.sign("text/plain", b"hello", KEY)["signatures"]
    assert dsse.verify(envelope, PUBLIC)[1] == keys.keyid(PUBLIC[0])


def test_a_keyid_in_the_envelope_is_not_believed() -> None:
    envelope = dsse.sign("text/plain", b"hello", OTHER)
    envelope["signatures"][0]["keyid"] = keys.keyid(PUBLIC[0])
    with pytest.raises(SignatureRefused):
        dsse.verify(envelope, PUBLIC)


def test_another_key_is_named_with_the_expected_one() -> None:
    with pytest.raises(SignatureRefused) as refusal:
        dsse.verify(dsse.sign("text/plain", b"hello", OTHER), PUBLIC)
    assert keys.keyid(PUBLIC[0]) in refusal.value.message
    assert keys.keyid(OTHER.public_key()) in refusal.value.message


def edited(**changes: Any) -> dict[str, Any]:
    return {**dsse.sign("text/plain", b"hello", KEY), **changes}


@pytest.mark.parametrize(
    ("envelope", "words"),
    [
        (edited(payload=base64.b64encode(b"hullo").decode()), "was changed after it was signed"),
        (edited(payloadType="text/html"), "was changed after it was signed"),
        (edited(payload="?"), "payload in the envelope is not base64"),
        (edited(signatures=[]), "0 signatures"),
        (edited(signatures=[{"sig": "AAAA"}] * 17), "17 signatures"),
        (edited(signatures=[{"sig": "?"}]), "signature in the envelope is not base64"),
        (edited(signatures=[{"sig": "AAAA"}]), "not by a key of the publisher"),
        (edited(signatures=["x"]), "malformed"),
        (edited(signatures=None), "lacks"),
        (edited(payload=7), "lacks"),
        ({}, "lacks"),
    ],
)
def test_an_edited_envelope_is_refused(envelope: dict[str, Any], words: str) -> None:
    with pytest.raises(SignatureRefused, match=words):
        dsse.verify(envelope, PUBLIC)


def test_no_known_key_is_said_as_such() -> None:
    with pytest.raises(SignatureRefused, match="no key is known"):
        dsse.verify(dsse.sign("text/plain", b"hello", KEY), [])


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(SignatureRefused, match=r"expected 'application/vnd\.in-toto"):
        dsse.verify(dsse.sign("text/plain", b"hello", KEY), PUBLIC, dsse.IN_TOTO)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"payload": NaN}',
        '{"payload": "", "payload": "x"}',
        "[" * 100_000,
        '{"a":' * 30_000 + "1" + "}" * 30_000,
        b"\xff\xfe",
        " " * (dsse.MAX_ENVELOPE + 1),
    ],
)
def test_what_is_no_envelope_is_refused(text: str | bytes) -> None:
    with pytest.raises(SignatureRefused):
        dsse.parse(text)


def test_a_wheel_is_signed_by_name_digest_project_version_and_publisher() -> None:
    envelope = sign_wheel(KEY, WHEEL, DIGEST, "LLMasOS.Acme", "1.2.0", "acme")
    found = json.loads(base64.b64decode(envelope["payload"]))
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["subject"] == [{"name": WHEEL, "digest": {"sha256": DIGEST}}]
    assert check_wheel(envelope, PUBLIC, WHEEL, DIGEST, "llmasos_acme", "1.2.0", "acme") == keys.keyid(
        PUBLIC[0]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filename": "evil-1.2.0-py3-none-any.whl"}, "file llmasos_acme-1.2.0"),
        ({"sha256": "cd" * 32}, f"sha256 {DIGEST}, expected {'cd' * 32}"),
        ({"project": "llmasos-evil"}, "project llmasos-acme, expected llmasos-evil"),
        ({"version": "1.3.0"}, "version 1.2.0, expected 1.3.0"),
        ({"publisher": "evil"}, "publisher acme, expected evil"),
    ],
)
def test_a_signature_for_another_thing_is_refused(changes: dict[str, str], words: str) -> None:
    envelope = sign_wheel(KEY, WHEEL, DIGEST, "llmasos-acme", "1.2.0", "acme")
    asked = {
        "filename": WHEEL,
        "sha256": DIGEST,
        "project": "llmasos-acme",
        "version": "1.2.0",
        "publisher": "acme",
        **changes,
    }
    with pytest.raises(SignatureRefused, match="for another thing") as refusal:
        check_wheel(envelope, PUBLIC, **asked)
    assert words in refusal.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"subject": []},
        {"subject": [{"name": WHEEL, "digest": {"sha256": DIGEST}}] * 2},
        {"subject": [{"name": WHEEL, "digest": {}}]},
        {"predicate": None},
    ],
)
def test_a_signed_statement_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    document = json.loads(statement(WHEEL, DIGEST, "llmasos-acme", "1.2.0", "acme")) | change
    envelope = dsse.sign(dsse.IN_TOTO, json.dumps(document).encode(), KEY)
    with pytest.raises(SignatureRefused):
        check_wheel(envelope, PUBLIC, WHEEL, DIGEST, "llmasos-acme")
