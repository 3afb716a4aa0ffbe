"""Signatures over documents: who stands behind a record or a verification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from llmasos.contracts.base import Contribution

if TYPE_CHECKING:
    from llmasos.contracts.hub import HubAPI


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature that holds says. ``keyid`` names the key; ``known_as`` says whose it is as far as this machine knows:
    publishers whose keys are pinned here, and ``you``. Nobody when empty."""

    payload: bytes
    keyid: str
    known_as: tuple[str, ...] = ()
    #: The key was revoked by its publisher.
    revoked: bool = False


class Signer(Protocol):
    """Factory object of a SignerDef: signs with the user's key, verifies with the key that an envelope names."""

    def sign(
        self, payload_type: str, payload: bytes, *, hub: HubAPI, key: Path | None = None
    ) -> dict[str, Any]:
        """A DSSE envelope (https://github.com/secure-systems-lab/dsse) over the payload, as a JSON object, with the public
        key in it. ``key`` is a key file instead of the usual one. Raises InputError when there is no usable key."""

    def verify(self, envelope: Mapping[str, Any], payload_type: str, *, hub: HubAPI) -> Signed:
        """What the envelope says and who signed it. That the key is known here is not required; see ``known_as``.

        Raises RunError for a signature that does not hold or is over another type of payload.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerDef(Contribution):
    """Something that signs."""

    kind: ClassVar[str] = "signer"
