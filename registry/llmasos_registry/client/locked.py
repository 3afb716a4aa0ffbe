"""What a lock says, as values: packages with their wheels, plugins with their signers, models with their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from packaging.pylock import Package, PackageWheel
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import parse_wheel_filename
from packaging.version import InvalidVersion, Version

from llmasos_registry.client.catalogue import machine_tags
from llmasos_registry.signatures.model_files import clean_path

_DIGEST = re.compile(r"[0-9a-f]{64}")


class LockedWheel(NamedTuple):
    """One file of a package; ``size`` in bytes where it is known."""

    filename: str
    url: str
    sha256: str
    size: int | None


class LockedPackage(NamedTuple):
    """One package. Without wheels it is a fact: it was installed when the lock was made, and no index had it."""

    name: str
    version: str
    wheels: tuple[LockedWheel, ...]

    def best(self) -> LockedWheel | None:
        """The wheel that suits this machine best."""
        order = machine_tags()
        found = [
            (min(places), wheel.filename, wheel)
            for wheel in self.wheels
            if (places := [order[tag] for tag in parse_wheel_filename(wheel.filename)[3] if tag in order])
        ]
        return min(found)[2] if found else None


class LockedPlugin(NamedTuple):
    """Who answers for a plugin. ``keyid`` is None where it is not signed; ``permissions`` as its manifest declares them."""

    name: str
    version: str
    id: str
    summary: str
    publisher: str
    keyid: str | None
    permissions: Mapping[str, Any]


class ModelFile(NamedTuple):
    """One file of a repository at one commit."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LockedModel:
    """A model or dataset at one commit. ``version`` is the release, None when a branch or commit was asked for."""

    kind: str
    id: str
    version: str | None
    commit: str
    publisher: str
    files: tuple[ModelFile, ...]
    keyid: str | None = None
    #: Path of the signature in the repository.
    signature: str | None = None
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lock:
    """A whole lock. ``facts`` are versions that were there and are not installed by a lock, only compared."""

    registry: str
    packages: tuple[LockedPackage, ...] = ()
    plugins: tuple[LockedPlugin, ...] = ()
    models: tuple[LockedModel, ...] = ()
    requested: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def plugin(self, name: str) -> LockedPlugin | None:
        """The entry of a plugin by its canonical name."""
        return next((one for one in self.plugins if one.name == name), None)


def package_from(package: Package) -> LockedPackage:
    """A package of a pylock file, with the wheels that have an address."""
    wheels = [
        _wheel(one) for one in package.wheels or () if urlsplit(one.url or "").scheme in ("http", "https")
    ]
    return LockedPackage(
        str(package.name), str(package.version), tuple(sorted(one for one in wheels if one is not None))
    )


def _wheel(wheel: PackageWheel) -> LockedWheel | None:
    digest = str(wheel.hashes.get("sha256", ""))
    if not _DIGEST.fullmatch(digest):  # what cannot be checked is not used
        return None
    return LockedWheel(wheel.filename, str(wheel.url), digest, wheel.size)


def model_files(rows: Sequence[Mapping[str, Any]]) -> tuple[ModelFile, ...]:
    """Files of a repository out of JSON or TOML. Raises ValueError for paths, digests or sizes that make no sense."""
    found: dict[str, ModelFile] = {}
    for row in rows:
        path, size, digest = row["path"], row["size"], row["sha256"]
        if not isinstance(path, str) or not clean_path(path) or len(path) > 1024:
            raise ValueError(f"a file is called {str(path)[:80]!r}")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"{path} has the sha256 {str(digest)[:80]!r}")
        if type(size) is not int or size < 0:
            raise ValueError(f"{path} has the size {size!r}")
        if path in found:
            raise ValueError(f"{path} is there twice")
        found[path] = ModelFile(path, size, digest)
    for path in found:
        # `a` and `a/b` cannot both be files.
        parts = path.split("/")
        if any("/".join(parts[:count]) in found for count in range(1, len(parts))):
            raise ValueError(f"{path} lies below another file")
    return tuple(found[path] for path in sorted(found))


def release_range(asked: str) -> SpecifierSet | None:
    """The releases that a request means: a range as it is written, a whole version that one, ``1.2`` every 1.2.x.

    None for what names no releases: a branch, a tag of other words, a commit, nothing.
    """
    if not asked or re.fullmatch(r"[0-9a-f]{40}", asked):
        return None
    try:
        if asked[0] in "<>=!~":
            return SpecifierSet(asked)
        version = Version(asked)
    except (InvalidSpecifier, InvalidVersion):
        return None
    short = len(version.release) < 3 and str(version) == ".".join(map(str, version.release))
    return SpecifierSet(f"=={version}.*" if short else f"=={version}")
