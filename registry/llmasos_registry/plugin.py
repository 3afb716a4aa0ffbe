"""The hooks of the registry's client: cheap to import, because every use of a model asks every resolver."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.api import HubAPI, ResolvedModel, SignerDef, hookimpl

SCHEME = "registry://"


@hookimpl
def llmasos_resolve_model(ref: str, hub: HubAPI) -> ResolvedModel | None:
    """Resolve ``registry://``; None for other references. Raises ModelNotFound, UsageError, SignatureRefused, DigestMismatch."""
    if not ref.startswith(SCHEME):
        return None
    from llmasos_registry.client.reference import resolve_reference

    return resolve_reference(ref, hub)


@hookimpl
def llmasos_signers() -> Iterator[SignerDef]:
    """The publisher's key."""
    yield SignerDef(name="publisher", factory="llmasos_registry.client.signer:PublisherSigner")
