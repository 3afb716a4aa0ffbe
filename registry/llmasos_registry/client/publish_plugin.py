"""Publishing a plugin: build or take a wheel, read it as the registry will, sign, upload. The same again changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmasos.contracts.evaluation import Progress
from llmasos.errors import InputError, UsageError
from llmasos_registry.client.connection import Connection, RegistryNotFound, path_segment
from llmasos_registry.client.publisher import caller_name, check_registered
from llmasos_registry.signatures.keys import PrivateKey, keyid
from llmasos_registry.signatures.wheel_statement import sign_wheel
from llmasos_registry.wheel.archive import WheelFacts, read_wheel
from llmasos_registry.wheel.plugin import GROUP, read_plugin

#: METADATA fields that the upload form repeats, one value each line (core metadata specification, upload form of PyPI).
_SINGLE = {
    "summary": "summary",
    "description": "description",
    "description_content_type": "description_content_type",
    "keywords": "keywords",
    "author": "author",
    "author_email": "author_email",
    "maintainer": "maintainer",
    "maintainer_email": "maintainer_email",
    "license": "license",
    "license_expression": "license_expression",
    "requires_python": "requires_python",
}
_MULTIPLE = {
    "classifiers": "classifiers",
    "requires_dist": "requires_dist",
    "provides_extra": "provides_extra",
    "license_files": "license_files",
    "dynamic": "dynamic",
}


class PublishedPlugin(NamedTuple):
    """What a run did. ``uploaded`` is False when the registry had this very file."""

    name: str
    version: str
    plugin: str
    filename: str
    sha256: str
    size: int
    publisher: str
    keyid: str | None
    uploaded: bool


def publish_plugin(
    connection: Connection,
    wheel: Path,
    *,
    key: PrivateKey | None,
    progress: Progress,
    owner: str | None = None,
) -> PublishedPlugin:
    """Upload a wheel that holds a plugin, signed with ``key`` (None: unsigned).

    ``owner`` is the account that a new project becomes the property of, the caller's when left out.

    Raises WheelRefused or ManifestError for what the registry would refuse, UsageError when the version is published with
    other bytes or belongs to somebody else, RegistryError.
    """
    progress.phase(f"checking {wheel.name}")
    facts = read_wheel(wheel)
    manifest = read_plugin(facts)
    if manifest is None:
        raise InputError(
            f"{wheel.name} holds no plugin: it has no entry point in the group {GROUP}",
            hint="docs/tutorials/first-plugin.md shows what a plugin needs",
        )
    content = wheel.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    page = _page(connection, facts.name)
    publisher = str(page["owner"]) if page is not None else owner or caller_name(connection)
    if owner is not None and publisher != owner:
        raise UsageError(f"{facts.name} belongs to {publisher}, not to {owner}", hint="leave --owner out")
    if key is not None:
        check_registered(connection, publisher, key)
    signature = (
        None if key is None else sign_wheel(key, wheel.name, sha256, facts.name, facts.version, publisher)
    )
    done = PublishedPlugin(
        facts.name,
        facts.version,
        manifest.id,
        wheel.name,
        sha256,
        len(content),
        publisher,
        keyid(key.public_key()) if key is not None else None,
        uploaded=True,
    )
    stored = _stored(page, wheel.name)
    if stored is not None and stored != sha256:
        raise UsageError(
            f"{facts.name} {facts.version} is published with other bytes: {wheel.name} has sha256 {stored} at "
            f"{connection.url}, yours {sha256}",
            hint="a published version never changes: raise `version` in pyproject.toml",
        )
    if stored is None:
        progress.phase(f"uploading {wheel.name}")
        form = upload_form(facts, content)
        if signature is not None:
            form["llmasos_signature"] = json.dumps(signature)
        if owner is not None:
            form["llmasos_owner"] = owner
        files = {"content": (wheel.name, content, "application/octet-stream")}
        connection.post_form("/legacy/", form, files)
        return done
    if signature is not None:
        _sign_stored(connection, facts.name, wheel.name, done.keyid, signature, progress)
    return done._replace(uploaded=False)


def upload_form(facts: WheelFacts, content: bytes) -> dict[str, Any]:
    """The fields that twine and `uv publish` send with a wheel."""
    metadata = facts.metadata
    form: dict[str, Any] = {
        ":action": "file_upload",
        "protocol_version": "1",
        "metadata_version": str(metadata.metadata_version),
        "name": str(metadata.name),
        "version": str(metadata.version),
        "filetype": "bdist_wheel",
        "pyversion": facts.filename.removesuffix(".whl").split("-")[-3],
        "sha256_digest": hashlib.sha256(content).hexdigest(),
        "blake2_256_digest": hashlib.blake2b(content, digest_size=32).hexdigest(),
    }
    for field, attribute in _SINGLE.items():
        value = getattr(metadata, attribute)
        if value:
            form[field] = ",".join(value) if isinstance(value, list) else str(value)
    for field, attribute in _MULTIPLE.items():
        values = getattr(metadata, attribute)
        if values:
            form[field] = [str(value) for value in values]
    if metadata.project_urls:
        form["project_urls"] = [f"{name}, {url}" for name, url in metadata.project_urls.items()]
    return form


def _page(connection: Connection, name: str) -> Mapping[str, Any] | None:
    try:
        page = connection.get(f"/v1/plugins/{path_segment(name)}")
    except RegistryNotFound:
        return None
    return page if isinstance(page, dict) else None


def _stored(page: Mapping[str, Any] | None, filename: str) -> str | None:
    """The digest of the file of that name at the registry."""
    for version in page["versions"] if page is not None else ():
        for file in version["files"]:
            if file["filename"] == filename:
                return str(file["sha256"])
    return None


def _sign_stored(
    connection: Connection,
    name: str,
    filename: str,
    by: str | None,
    signature: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Add the signature to a file that is there without one of this key: an upload by another tool, or an interrupted run."""
    address = f"/v1/plugins/{path_segment(name)}/files/{path_segment(filename)}/signatures"
    known = connection.get(address)
    named = {
        str(entry.get("keyid"))
        for envelope in known.get("signatures", [])
        for entry in envelope.get("signatures", [])
    }
    if by not in named:
        progress.phase(f"signing {filename}")
        connection.post(address, signature)
