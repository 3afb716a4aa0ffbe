"""Publishing a model or a data set: check, sign, upload what changed in one commit, seal a version.

Every step looks at what is there first, so a run that was killed is finished by the same command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from llmasos.contracts.evaluation import Progress
from llmasos.errors import UsageError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.connection import Connection, RegistryError, RegistryNotFound, path_segment
from llmasos_registry.client.hub_upload import ByteCount, HubUpload
from llmasos_registry.client.model_folder import check_folder, read_folder
from llmasos_registry.client.publisher import check_registered
from llmasos_registry.release_version import FORM, is_version
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PrivateKey, keyid
from llmasos_registry.signatures.model_bundle import (
    MAX_BUNDLE,
    SignedModel,
    compare,
    read_bundle,
    sign_files,
)
from llmasos_registry.signatures.model_files import SIGNATURE_FILE, hash_files, is_unsigned

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO_ID = re.compile(rf"(?P<org>{_SEGMENT})/(?P<name>{_SEGMENT})")
_SHOWN = 5


class PublishedModel(NamedTuple):
    """What a run did. ``commit`` holds the folder's content; ``changed`` and ``deleted`` are empty when it did already."""

    id: str
    kind: str
    commit: str
    version: str | None
    keyid: str | None
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    left_out: tuple[str, ...]
    #: Whether this run sealed the version; False when it was sealed before, or none was asked for.
    sealed_now: bool


class _Remote(NamedTuple):
    """A repository as it stands: the head of main, its files (path -> SHA-256), and its releases (version -> commit)."""

    head: str | None
    files: Mapping[str, str]
    releases: Mapping[str, str]

    def content(self) -> dict[str, str]:
        """The files that a signature covers."""
        return {path: digest for path, digest in self.files.items() if not is_unsigned(path)}


def split_id(repo_id: str) -> tuple[str, str]:
    """(org, name). Raises UsageError."""
    match = _REPO_ID.fullmatch(repo_id)
    if match is None:
        raise UsageError(
            f"{repo_id!r} is not of the form org/name", hint="letters, digits, dots, dashes, underscores"
        )
    return match["org"], match["name"]


def publish_model(
    connection: Connection,
    root: Path,
    repo_id: str,
    *,
    key: PrivateKey | None,
    progress: Progress,
    kind: str = "model",
    version: str | None = None,
    message: str | None = None,
    private: bool = False,
) -> PublishedModel:
    """Make the repository ``repo_id`` equal to the folder ``root``, signed with ``key`` (None: unsigned); seal ``version``.

    ``kind`` is ``model`` or ``dataset``. The signature is also written into the folder, as ``model.sig``. Raises InputError
    for what must not be published, UsageError when the version is sealed with another content, RegistryError.
    """
    org, _ = split_id(repo_id)
    if version is not None and not is_version(version):
        # Before anything is signed or sent: the signature would name a version that can never be.
        raise UsageError(f"{version!r} is not a version of a release", hint=FORM)
    folder = read_folder(root)
    progress.phase(f"checking {len(folder.files)} files")
    check_folder(folder, kind)
    remote = _remote(connection, repo_id, kind)
    if remote.head is not None:
        # Asked first: somebody without the right must not hear that his content is published, even when it happens to be.
        connection.get(f"/api/{kind}s/{repo_id}/auth-check/write")
    if key is not None:
        check_registered(connection, org, key)
    count = ByteCount(progress, f"hashing {len(folder.files)} files", folder.size)
    files = hash_files(root, folder.files, count)
    count.done()
    if version is not None and (sealed := remote.releases.get(version)) is not None:
        found = _at(connection, repo_id, kind, sealed)
        _check_sealed(repo_id, version, sealed, remote.head, found, files)
        return PublishedModel(
            repo_id, kind, sealed, version, None, (), (), len(files), folder.left_out, sealed_now=False
        )
    upload = HubUpload(connection, repo_id, kind)
    if remote.head is None:
        upload.create(private=private)
        remote = _remote(connection, repo_id, kind)
    bundle = None
    if key is not None:
        bundle = _signature(root, files, key, repo_id, kind, version, folder.left_out, remote, connection)
        _keep(root / SIGNATURE_FILE, bundle, progress)
    changed = {path: digest for path, digest in files.items() if remote.files.get(path) != digest}
    extra = _changed_signature(bundle, remote)
    deleted = sorted(set(remote.content()) - set(files))
    if bundle is None and SIGNATURE_FILE in remote.files and (changed or deleted):
        # It would no longer hold.
        deleted.append(SIGNATURE_FILE)
    commit = remote.head
    if changed or extra or deleted or commit is None:
        commit = upload.commit(
            root,
            changed,
            extra,
            deleted,
            parent=remote.head,
            message=message.splitlines()[0] if message else _message(version, len(changed), len(deleted)),
            description="\n".join(message.splitlines()[1:]).strip() if message else "",
            progress=progress,
        )
        _check_arrived(repo_id, commit, _at(connection, repo_id, kind, commit), files)
    if version is not None:
        progress.phase(f"sealing {version}")
        _seal(connection, repo_id, kind, version, commit, message)
    return PublishedModel(
        repo_id,
        kind,
        commit,
        version,
        keyid(key.public_key()) if key is not None else None,
        tuple(changed),
        tuple(deleted),
        len(files) - len(changed),
        folder.left_out,
        sealed_now=version is not None,
    )


def address(repo_id: str, kind: str) -> str:
    """The path of a repository's page data."""
    org, name = split_id(repo_id)
    return f"/v1/{kind}s/{path_segment(org)}/{path_segment(name)}"


def fetch_small(connection: Connection, repo_id: str, kind: str, commit: str, path: str, limit: int) -> bytes:
    """One file of at most ``limit`` bytes at a commit. Raises RegistryError."""
    prefix = "datasets/" if kind == "dataset" else ""
    data = bytearray()
    with connection.stream(f"/{prefix}{repo_id}/resolve/{commit}/{quote(path)}") as answer:
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > limit:
                raise RegistryError(f"{path} of {repo_id} has more than {limit} bytes")
    return bytes(data)


def _remote(connection: Connection, repo_id: str, kind: str) -> _Remote:
    try:
        page = connection.get(address(repo_id, kind))
    except RegistryNotFound:
        return _Remote(None, {}, {})
    head = page.get("head")
    releases = {str(row["version"]): str(row["commit"]) for row in page.get("releases", [])}
    files = _at(connection, repo_id, kind, head) if isinstance(head, str) else {}
    return _Remote(head if isinstance(head, str) else None, files, releases)


def _at(connection: Connection, repo_id: str, kind: str, commit: str) -> dict[str, str]:
    answer = connection.get(f"{address(repo_id, kind)}/resolve", {"revision": commit})
    rows: list[dict[str, Any]] = answer["files"]
    return {str(row["path"]): str(row["sha256"]) for row in rows}


def _check_sealed(
    repo_id: str,
    version: str,
    sealed: str,
    head: str | None,
    found: Mapping[str, str],
    files: Mapping[str, str],
) -> None:
    expected = {path: digest for path, digest in found.items() if not is_unsigned(path)}
    if differences := compare(expected, files):
        shown = "\n  ".join(line.replace("was not signed", "is new") for line in differences[:_SHOWN])
        more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise UsageError(
            f"{repo_id} {version} is sealed at commit {sealed}, and this folder has another content "
            f"(main is at {head}):\n  {shown}{more}",
            hint="a published version never changes: choose a higher one, or leave --version out",
        )


def _check_arrived(repo_id: str, commit: str, found: Mapping[str, str], files: Mapping[str, str]) -> None:
    """What was committed is what was signed: a file may have changed between the two."""
    arrived = {path: digest for path, digest in found.items() if not is_unsigned(path)}
    if differences := compare(files, arrived):
        shown = "; ".join(differences[:_SHOWN])
        raise RegistryError(
            f"commit {commit} of {repo_id} is not what was signed: {shown}",
            hint="a file changed while it was published; run the same command again",
        )


def _signature(
    root: Path,
    files: Mapping[str, str],
    key: PrivateKey,
    repo_id: str,
    kind: str,
    version: str | None,
    left_out: tuple[str, ...],
    remote: _Remote,
    connection: Connection,
) -> bytes:
    """The signature in the folder, or in the repository, when it still says the right thing; else a new one.

    ECDSA signatures differ each time, so signing again would make a commit out of nothing.
    """

    def holds(bundle: bytes) -> bool:
        try:
            said: SignedModel = read_bundle(bundle, [key.public_key()])
        except SignatureRefused:
            return False
        fits = version is None or said.version == version
        return said.name == repo_id and fits and dict(said.files) == dict(files)

    path = root / SIGNATURE_FILE
    if path.is_file() and path.stat().st_size <= MAX_BUNDLE and holds(bundle := path.read_bytes()):
        return bundle
    if remote.head is not None and SIGNATURE_FILE in remote.files and remote.content() == dict(files):
        bundle = fetch_small(connection, repo_id, kind, remote.head, SIGNATURE_FILE, MAX_BUNDLE)
        if holds(bundle):
            return bundle
    return sign_files(files, key, name=repo_id, version=version, ignore=left_out)


def _keep(path: Path, bundle: bytes, progress: Progress) -> None:
    """Put the signature beside the files, where `model_signing verify` and the next run look for it."""
    try:
        if not path.is_file() or path.read_bytes() != bundle:
            write_atomic(path, bundle)
    except OSError as error:
        progress.warn(f"the signature is published, but {path} cannot be written: {error.strerror or error}")


def _changed_signature(bundle: bytes | None, remote: _Remote) -> dict[str, bytes]:
    import hashlib

    if bundle is None or remote.files.get(SIGNATURE_FILE) == hashlib.sha256(bundle).hexdigest():
        return {}
    return {SIGNATURE_FILE: bundle}


def _message(version: str | None, changed: int, deleted: int) -> str:
    if version is not None:
        return f"Release {version}"
    parts = [f"upload {changed} file{'s' if changed != 1 else ''}"] if changed else []
    parts += [f"delete {deleted}"] if deleted else []
    return (", ".join(parts) or "sign").capitalize()


def _seal(
    connection: Connection, repo_id: str, kind: str, version: str, commit: str, message: str | None
) -> None:
    body = {"version": version, "revision": commit} | ({"message": message} if message else {})
    try:
        connection.post(f"{address(repo_id, kind)}/releases", body)
    except (UsageError, RegistryError) as error:
        # The content is up; only the name is missing.
        error.hint = error.hint or f"the content is at commit {commit}; run the same command again to seal it"
        raise
