"""Publishers' keys: files, names, and what is refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from llmasos_registry.signatures import keys
from llmasos_registry.signatures.errors import KeyRefused, SignatureRefused


def private_pem(key: object, form: serialization.PrivateFormat, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)  # type: ignore[attr-defined]


def test_a_new_key_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "publisher.pem"
    key = keys.generate(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not keys.exposed(path)
    assert keys.keyid(keys.load_private(path).public_key()) == keys.keyid(key.public_key())


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "publisher.pem"
    keys.generate(path)
    before = path.read_bytes()
    with pytest.raises(KeyRefused, match="is not overwritten"):
        keys.generate(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_both_forms_of_private_keys_are_read(tmp_path: Path, form: serialization.PrivateFormat) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(private_pem(key, form))
    assert keys.keyid(keys.load_private(path).public_key()) == keys.keyid(key.public_key())


def test_a_key_of_openssl_with_parameters_is_read(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    assert b"EC PARAMETERS" in path.read_bytes()
    assert keys.keyid(keys.load_private(path).public_key()).startswith("sha256:")


def test_the_keyid_is_the_digest_of_the_der_form() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert keys.keyid(public) == "sha256:" + hashlib.sha256(der).hexdigest()
    wrapped = keys.public_pem(public).replace("\n", "\r\n")
    assert keys.keyid(keys.load_public(wrapped)) == keys.keyid(public)


P256 = ec.generate_private_key(ec.SECP256R1())
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
        (keys.public_pem(P256.public_key()).encode(), "no private key"),
        (private_pem(P256, PKCS8, b"secret"), "is encrypted"),
        (private_pem(ec.generate_private_key(ec.SECP384R1()), PKCS8), "on the curve secp384r1"),
        (private_pem(rsa.generate_private_key(65537, 2048), PKCS8), "RSAPrivateKey"),
        (b"x" * (keys.MAX_PEM + 1), "is no key file"),
    ],
)
def test_other_private_keys_are_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(KeyRefused, match=words) as refusal:
        keys.load_private(path)
    assert str(path) in refusal.value.message


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused) as refusal:
        keys.load_private(tmp_path / "none.pem")
    assert "llmasos registry key new" in str(refusal.value.hint)


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----", "x" * 99999]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(KeyRefused):
        keys.load_public(text)


def test_a_public_key_on_another_curve_is_refused() -> None:
    with pytest.raises(KeyRefused, match="secp256k1"):
        keys.load_public(keys.public_pem(ec.generate_private_key(ec.SECP256K1()).public_key()))


def test_a_readable_key_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    keys.generate(path)
    os.chmod(path, 0o644)
    assert keys.exposed(path)


def test_a_proof_is_for_one_account_and_one_key() -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = keys.public_pem(key.public_key())
    proof = keys.prove(key, "acme")
    assert keys.keyid(keys.check_proof(pem, "acme", proof)) == keys.keyid(key.public_key())
    with pytest.raises(SignatureRefused, match="for the account evil"):
        keys.check_proof(pem, "evil", proof)
    with pytest.raises(SignatureRefused, match="does not show possession"):
        keys.check_proof(keys.public_pem(other.public_key()), "acme", proof)
    with pytest.raises(SignatureRefused, match="not base64"):
        keys.check_proof(pem, "acme", "?")
    with pytest.raises(SignatureRefused, match="does not show possession"):
        keys.check_proof(pem, "acme", "AAAA")
