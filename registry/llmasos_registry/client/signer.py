"""The publisher's key as a signer of documents: evaluation records and attestations.

An envelope brings its public key along, so that it can be checked without asking anybody; what the key is worth is another
question, which the pins of this machine answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmasos.contracts.signing import Signed
from llmasos_registry.client.publisher import key_path
from llmasos_registry.client.trust import pinned_as
from llmasos_registry.signatures import dsse
from llmasos_registry.signatures.errors import KeyRefused, SignatureRefused
from llmasos_registry.signatures.keys import PublicKey, keyid, load_private, load_public, public_pem

if TYPE_CHECKING:
    from llmasos.contracts.hub import HubAPI


class PublisherSigner:
    """Signs with the key of `llmasos registry key new`."""

    def sign(
        self, payload_type: str, payload: bytes, *, hub: HubAPI, key: Path | None = None
    ) -> dict[str, Any]:
        """A DSSE envelope whose signature names its public key. Raises KeyRefused."""
        private = load_private(key_path(_config_dir(hub), key))
        envelope = dsse.sign(payload_type, payload, private)
        envelope["signatures"][0]["publicKey"] = public_pem(private.public_key())
        return envelope

    def verify(self, envelope: Mapping[str, Any], payload_type: str, *, hub: HubAPI) -> Signed:
        """The payload and whose key signed it, as far as this machine knows. Raises SignatureRefused."""
        payload, name = dsse.verify(envelope, _named_keys(envelope), payload_type)
        pins = pinned_as(_config_dir(hub), name)
        known = sorted({account for account, _ in pins})
        if name == _own(_config_dir(hub)):
            known.insert(0, "you")
        return Signed(payload, name, tuple(known), any(revoked for _, revoked in pins))


def _named_keys(envelope: Mapping[str, Any]) -> list[PublicKey]:
    """The public keys that an envelope brings. They prove that the content is whole, not who wrote it."""
    found = []
    signatures = envelope.get("signatures")
    for entry in signatures[: dsse.MAX_SIGNATURES] if isinstance(signatures, list) else ():
        pem = entry.get("publicKey") if isinstance(entry, dict) else None
        if isinstance(pem, str):
            try:
                found.append(load_public(pem))
            except KeyRefused as error:
                raise SignatureRefused(
                    f"the envelope names a key that cannot be read: {error.message}"
                ) from error
    return found


def _own(config_dir: Path) -> str | None:
    """The keyid of the user's own key, None when there is none."""
    try:
        return keyid(load_private(key_path(config_dir)).public_key())
    except KeyRefused:
        return None


def _config_dir(hub: HubAPI) -> Path:
    config = getattr(hub, "config", None)
    if config is None:
        from llmasos.config import load_config

        config = load_config({})
    return Path(config.config_dir)
