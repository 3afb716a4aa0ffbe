"""From a name of a model or dataset at a registry to its files: asked for, checked, stored by commit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from packaging.version import InvalidVersion, Version

from llmasos.errors import ModelNotFound, UsageError
from llmasos_registry.client.connection import Connection, RegistryError, RegistryNotFound, path_segment
from llmasos_registry.client.locked import LockedModel, ModelFile, model_files, release_range
from llmasos_registry.client.lockfile import check_commit, check_repository
from llmasos_registry.client.model_store import ModelStore
from llmasos_registry.client.plan import ModelStep, Signer
from llmasos_registry.client.sources import Source
from llmasos_registry.client.verify import Verifier
from llmasos_registry.signatures.model_bundle import MAX_BUNDLE

FORM = "write registry://org/name, registry://org/name@1.2, registry://org/name@REVISION or registry://org/name/file.gguf"
_REFERENCE = re.compile(
    r"(?:registry://)?(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<asked>[^/@]+))?(?:/(?P<file>[^@]+))?", re.ASCII
)


class Reference(NamedTuple):
    """``registry://org/name[@asked][/file]``, taken apart. ``asked`` is a version, a range or a revision, or empty."""

    id: str
    asked: str = ""
    file: str = ""
    kind: str = "model"

    def __str__(self) -> str:
        return f"{self.id}@{self.asked}" if self.asked else self.id


def parse_reference(text: str, kind: str = "model") -> Reference:
    """A reference with or without ``registry://``; ``%2F`` stands for ``/`` in a revision. Raises UsageError."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} does not name a {kind} at a registry", hint=FORM)
    try:
        check_repository(match["id"])
    except ValueError as error:
        raise UsageError(str(error), hint=FORM) from None
    file = match["file"] or ""
    if file and any(part in ("", ".", "..") for part in file.split("/")):
        raise UsageError(f"the path {file!r} does not stay inside the repository", hint=FORM)
    return Reference(match["id"], unquote(match["asked"] or ""), file, kind)


def check_whole(reference: Reference) -> None:
    """A repository is meant, not one file of it: what is fetched, locked and carried is whole. Raises UsageError."""
    if reference.file:
        raise UsageError(
            f"{reference}/{reference.file} names one file, and the whole {reference.kind} is taken here",
            hint=f"leave out /{reference.file}",
        )


def ask(connection: Connection, reference: Reference, verifier: Verifier) -> tuple[LockedModel, list[str]]:
    """What a reference stands for now, and warnings. One request.

    Raises ModelNotFound, RegistryError for an answer that makes no sense, RolledBack.
    """
    organisation, name = reference.id.split("/")
    path = f"/v1/{reference.kind}s/{path_segment(organisation)}/{path_segment(name)}/resolve"
    wanted = release_range(reference.asked)
    # A whole version is asked for by its name: that finds a yanked one too, which no range does.
    text = str(wanted) if str(wanted).endswith(".*") else reference.asked
    query = {"version": text} if wanted is not None else {"revision": reference.asked}
    try:
        answer = connection.get(path, query if reference.asked else {})
    except RegistryNotFound as error:
        raise ModelNotFound(
            f"{connection.url}: {error.message}",
            hint=error.hint
            or "check the spelling; a private repository needs a token: llmasos registry login",
        ) from None
    model = _model(answer, reference, connection.url)
    serial = answer.get("serial")
    if isinstance(serial, int):
        verifier.check_serial(serial, f"{reference.kind}:{model.id}")
    warnings = []
    if answer.get("yanked"):
        warnings.append(
            f"{model.id} {model.version} was yanked: {answer.get('yanked_reason') or 'no reason'}"
        )
    return model, warnings


def _model(answer: Any, reference: Reference, origin: str) -> LockedModel:
    try:
        if answer["kind"] != reference.kind or answer["id"].lower() != reference.id.lower():
            raise ValueError(f"it is about the {answer['kind']} {answer['id']!r}")
        check_repository(answer["id"])
        check_commit(answer["commit"])
        version = answer["version"]
        if version is not None or release_range(reference.asked) is not None:
            _check_version(reference, str(version))
        if re.fullmatch(r"[0-9a-f]{40}", reference.asked) and answer["commit"] != reference.asked:
            raise ValueError(f"it is about the commit {answer['commit']}, asked for was {reference.asked}")
        signature = answer.get("signature")
        return LockedModel(
            kind=reference.kind,
            id=answer["id"],
            version=version,
            commit=answer["commit"],
            publisher=str(answer["publisher"]),
            files=model_files(answer["files"]),
            signature=str(signature["path"]) if signature else None,
            requires=tuple(str(line) for line in answer.get("requires") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RegistryError(
            f"{origin} answered nonsense about {reference.id}: {type(error).__name__}: {error}"
        ) from error


def _check_version(reference: Reference, version: str) -> None:
    """An answer outside of what was asked for would let a registry choose an older or newer release than the user did."""
    try:
        parsed = Version(version)
    except InvalidVersion as error:
        raise ValueError(str(error)) from None
    wanted = release_range(reference.asked)
    if wanted is not None and not wanted.contains(parsed, prereleases=True):
        raise ValueError(f"it is about version {version}, asked for was {reference.asked}")


def plan_model(
    model: LockedModel,
    store: ModelStore,
    source: Source,
    verifier: Verifier,
    *,
    locked: bool = False,
    bundle: bytes | None = None,
) -> ModelStep | None:
    """The step that fetches a model, with who signed it; None when its commit is here.

    ``locked`` compares with the key in the lock; ``bundle`` is the signature where it was read before. Raises SignatureRefused, TrustChanged, DigestMismatch.
    """
    if store.missing(model) == 0 and store.read(model.kind, model.id, model.commit) is not None:
        return None
    known = verifier.trust.publisher(model.publisher)
    entry = next((file for file in model.files if file.path == model.signature), None)
    if model.signature is not None and entry is None:
        raise RegistryError(f"{model.id}: the signature {model.signature} is not among its files")
    if entry is not None and bundle is None:
        bundle = read_small(model, entry, source, verifier)
    signed = verifier.verify_model(
        {file.path: file.sha256 for file in model.files},
        model_id=model.id,
        publisher=model.publisher,
        bundle=bundle,
        version=model.version,
        kind=model.kind,
        locked_keyid=model.keyid if locked else None,
    )
    keyid = None if signed is None else signed.keyid
    if locked and model.keyid is not None and keyid != model.keyid:
        raise RegistryError(
            f"{model.id}: the lock names the key {model.keyid}, found {keyid or 'no signature'}",
            hint="nothing was fetched",
        )
    state: Any = "unsigned" if keyid is None else "pinned" if known is not None and known.keys else "new"
    signer = Signer(model.publisher, keyid, state)
    return ModelStep(with_key(model, keyid), signer, store.missing(model), bundle=bundle)


def with_key(model: LockedModel, keyid: str | None) -> LockedModel:
    """The model with the key that signed it."""
    return replace(model, keyid=keyid)


def read_small(model: LockedModel, file: ModelFile, source: Source, verifier: Verifier) -> bytes:
    """A short file of a repository, into memory, checked. Raises DigestMismatch, RegistryError."""
    name = f"{model.id}/{file.path}"
    if file.size > MAX_BUNDLE:
        raise RegistryError(f"{name} has {file.size} bytes, which is too much for what it should be")
    data = bytearray()
    with source.model_file(model, file.path, file.sha256) as (_, pieces):
        for piece in pieces:
            data += piece
            if len(data) > file.size:
                raise RegistryError(f"{name} is longer than the {file.size} bytes that were announced")
    verifier.verify_digest(hashlib.sha256(data).hexdigest(), file.sha256, name=name)
    return bytes(data)


def fetch(
    steps: Sequence[ModelStep],
    store: ModelStore,
    source: Source,
    verifier: Verifier,
    read: Callable[[int], None] | None = None,
) -> list[Path]:
    """Carry out model steps; the folders. Signatures are checked once more, now with pinning."""
    folders = []
    for step in steps:
        locked = step.model.keyid is not None
        plan_model(step.model, store, source, verifier, locked=locked, bundle=step.bundle)
        folders.append(store.put(step.model, source, verifier, read))
        if step.asked is not None:
            store.remember(step.model, step.asked)
    return folders
