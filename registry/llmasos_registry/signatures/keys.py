"""Publishers' keys: ECDSA on P-256 with SHA-256, in PEM files.

Private keys are read from PKCS#8 (RFC 5958) and SEC 1 (RFC 5915) files without a passphrase, written as PKCS#8, mode 0600.
Public keys are SubjectPublicKeyInfo (RFC 5280). A key is named by its keyid: ``sha256:`` and the hex SHA-256 of the
SubjectPublicKeyInfo in DER, so the name does not depend on how the PEM text was wrapped.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llmasos_registry.signatures.errors import KeyRefused, SignatureRefused

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

#: A PEM file of one P-256 key has about 250 bytes; a file with comments and EC parameters some more.
MAX_PEM = 16 << 10
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def generate(path: Path) -> PrivateKey:
    """A new private key, stored in ``path`` with mode 0600. Raises KeyRefused when the file exists, OSError."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    os.makedirs(path.parent, mode=0o700, exist_ok=True)
    try:
        # Exclusive: a publisher who loses a key cannot sign for its users any more. The mode is set before the content.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyRefused(
            f"{path} exists and is not overwritten", hint="use it, or name another file with --key"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return key


def load_private(path: Path) -> PrivateKey:
    """The private key in a PEM file. Raises KeyRefused naming the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PEM + 1)
    except FileNotFoundError as error:
        raise KeyRefused(
            f"there is no key file {path}", hint="`llmasos registry key new` makes a key"
        ) from error
    except OSError as error:
        raise KeyRefused(f"cannot read the key file {path}: {error.strerror or error}") from error
    if len(data) > MAX_PEM:
        raise KeyRefused(f"{path} has more than {MAX_PEM} bytes and is no key file")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise KeyRefused(
            f"the key in {path} is encrypted, and passphrases are not asked for",
            hint="write a copy without a passphrase: openssl pkcs8 -topk8 -nocrypt -in KEY -out COPY",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(
            f"{path} holds no private key that can be read", hint="a PEM file: PKCS#8 or SEC 1, P-256"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefused(
            f"{path} holds {_kind(key)}, not an ECDSA key on P-256",
            hint="`llmasos registry key new` makes one",
        )
    return key


def load_public(pem: str | bytes) -> PublicKey:
    """The public key in a PEM text. Raises KeyRefused."""
    data = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
    if len(data) > MAX_PEM:
        raise KeyRefused(f"a public key has at most {MAX_PEM} bytes, this text has {len(data)}")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(
            "this is no public key in PEM form", hint="it starts with -----BEGIN PUBLIC KEY-----"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefused(f"this is {_kind(key)}, not an ECDSA key on P-256")
    return key


def public_pem(key: PublicKey) -> str:
    """A public key as PEM text: SubjectPublicKeyInfo."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode("ascii")


def keyid(key: PublicKey) -> str:
    """``sha256:`` and the hex digest of the SubjectPublicKeyInfo in DER."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def by_keyid(keys: Iterable[PublicKey]) -> dict[str, PublicKey]:
    """Keys under their keyids, computed here: a keyid that someone states is never believed."""
    return {keyid(key): key for key in keys}


def sign(key: PrivateKey, data: bytes) -> bytes:
    """An ECDSA signature over SHA-256, DER-encoded."""
    return key.sign(data, _ALGORITHM)


def holds(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether a signature over ``data`` was made by the private half of ``key``."""
    try:
        key.verify(signature, data, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def exposed(path: Path) -> bool:
    """Whether others on this machine may read the file. Always False where files have no such modes."""
    return os.name == "posix" and bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)


def prove(key: PrivateKey, account: str) -> str:
    """The proof that whoever registers a key for an account has its private half: base64."""
    public = key.public_key()
    return base64.b64encode(sign(key, _claim(account, keyid(public)))).decode("ascii")


def check_proof(pem: str, account: str, proof: str) -> PublicKey:
    """The key of ``pem``, when ``proof`` shows that its owner registers it for ``account``.

    Raises KeyRefused for a bad key, SignatureRefused for a bad proof.
    """
    key = load_public(pem)
    try:
        signature = base64.b64decode(proof, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureRefused("the proof of possession is not base64") from error
    if not holds(key, signature, _claim(account, keyid(key))):
        raise SignatureRefused(
            f"the proof does not show possession of key {keyid(key)} for the account {account}",
            hint="`llmasos registry key register` makes the proof",
        )
    return key


def _claim(account: str, name: str) -> bytes:
    return f"llmasos publisher key\n{account}\n{name}\n".encode()


def _kind(key: object) -> str:
    if isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        return f"a key on the curve {key.curve.name}"
    return f"a key of the kind {type(key).__name__.strip('_')}"
