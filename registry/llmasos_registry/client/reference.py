"""``registry://org/name[@version|range|revision][/file]``: a model at the registry of the settings, through ``client/pull.py``.

Fetched once, checked against the digests and the signature that the registry states, kept by commit. Python files stay
where they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmasos.api import HubAPI, ModelNotFound, Progress, ResolvedModel, UsageError
from llmasos.config import Config, load_config
from llmasos_registry.client.connection import registry_url
from llmasos_registry.client.credentials import connect
from llmasos_registry.client.locked import LockedModel
from llmasos_registry.client.model_store import ModelStore, is_code
from llmasos_registry.client.pull import FORM, Reference, ask, fetch, parse_reference, plan_model
from llmasos_registry.client.sources import RegistrySource
from llmasos_registry.client.verify import Verifier, registry_keys

SCHEME = "registry://"


class Silence:
    """A Progress that nobody watches; warnings are for those who do."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, amount: int = 1) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""


def resolve_reference(ref: str, hub: HubAPI) -> ResolvedModel:
    """What the hook answers for ``registry://``. Raises ModelNotFound, UsageError, SignatureRefused, DigestMismatch."""
    reference = parse_reference(ref)
    config = getattr(hub, "config", None)
    if not isinstance(config, Config):
        config = load_config({"cache_dir": hub.cache_dir, "offline": hub.offline})
    if not config.registry:
        raise UsageError(
            f"{ref}: no registry is set",
            hint="set LLMASOS_REGISTRY to its address, or `registry` in config.toml",
        )
    address = registry_url(config.registry)
    store = ModelStore(config.cache_dir, address)
    progress = getattr(hub, "progress", None) or Silence()
    model = _here(store, reference) if hub.offline else pulled(config, store, reference, progress)
    return resolved(ref, reference, model, store, address)


def pulled(config: Config, store: ModelStore, reference: Reference, progress: Progress) -> LockedModel:
    """What the registry says now, fetched unless its commit is here. One request when it is."""
    with connect(config) as connection:
        source = RegistrySource(connection)
        verifier = Verifier(connection.url, config.config_dir, registry_keys(connection), note=progress.warn)
        model, warnings = ask(connection, reference, verifier)
        for text in warnings:
            progress.warn(text)
        step = plan_model(model, store, source, verifier)
        if step is not None:
            progress.phase(f"fetching {model.id} (bytes)", step.size)
            fetch([replace(step, asked=reference.asked)], store, source, verifier, progress.advance)
        store.remember(model, reference.asked)
        return store.read(model.kind, model.id, model.commit) or model


def _here(store: ModelStore, reference: Reference) -> LockedModel:
    found = store.remembered(reference.kind, reference.id, reference.asked)
    if found is None:
        raise ModelNotFound(
            f"registry://{reference} is not in the cache, and this run is offline",
            hint=f"run once without --offline: llmasos model pull {reference}",
        )
    return found


def resolved(
    ref: str, reference: Reference, model: LockedModel, store: ModelStore, address: str
) -> ResolvedModel:
    """The answer for the Hub: a folder, or the one weight file that there is or that was named. Raises ModelNotFound."""
    folder = store.folder(model.kind, model.id, model.commit)
    names = [file.path for file in model.files if not is_code(file.path)]
    path, chosen = _chosen(folder, reference, names)
    return ResolvedModel(
        ref=ref,
        path=path,
        source="registry",
        revision=model.commit,
        license=None,
        files={
            file.path if path == folder else Path(file.path).name: file.sha256
            for file in model.files
            if (chosen is None and not is_code(file.path)) or file.path == chosen
        },
        provenance={
            "registry": address,
            "repository": model.id,
            "requested": reference.asked,
            "commit": model.commit,
            "publisher": model.publisher,
            **({"version": model.version} if model.version else {}),
            **({"keyid": model.keyid} if model.keyid else {}),
        },
    )


def _chosen(folder: Path, reference: Reference, names: list[str]) -> tuple[Path, str | None]:
    if reference.file:
        if reference.file not in names:
            raise ModelNotFound(
                f"{reference.id} has no file {reference.file}", hint=f"its files: {', '.join(names[:12])}"
            )
        return folder / reference.file, reference.file
    packed = [name for name in names if name.lower().endswith(".gguf")]
    if "config.json" in names or not packed:
        return folder, None
    if len(packed) > 1:
        shown = ", ".join(f"{SCHEME}{reference}/{name}" for name in packed[:8])
        raise ModelNotFound(
            f"{reference.id} holds {len(packed)} GGUF files", hint=f"choose one: {shown}; {FORM}"
        )
    return folder / packed[0], packed[0]
