"""What a registry knows of plugins, as the resolver asks for it. One request a project; no wheel is looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from llmasos_registry.client.connection import Connection, RegistryError, RegistryNotFound, path_segment

_DIGEST = re.compile(r"[0-9a-f]{64}")


class File(NamedTuple):
    """One file of a release."""

    filename: str
    url: str
    sha256: str
    size: int | None


class Release(NamedTuple):
    """One version of a project. ``manifest`` is its ``llmasos.toml`` as JSON, None when it is no plugin."""

    version: Version
    yanked: bool
    yanked_reason: str | None
    requires_python: str | None
    requires: tuple[Requirement, ...]
    manifest: Mapping[str, Any] | None
    files: tuple[File, ...]


class Project(NamedTuple):
    """One project that the registry itself holds. ``releases`` are newest first."""

    name: str
    owner: str
    status: str
    releases: tuple[Release, ...]


class Catalogue(Protocol):
    """Where the resolver asks."""

    #: How messages call it.
    title: str

    def project(self, name: str) -> Project | None:
        """A project by canonical name; None when it is not here (it may still be on the index behind)."""


class RegistryCatalogue:
    """The catalogue behind a connection. Each project is asked for once; ``check_serial`` hears every serial."""

    def __init__(
        self, connection: Connection, check_serial: Callable[[int, str], None] | None = None
    ) -> None:
        self._connection = connection
        self._check_serial = check_serial
        self._known: dict[str, Project | None] = {}
        self.title = connection.url

    def project(self, name: str) -> Project | None:
        """As ``Catalogue``. Raises RegistryError for an answer that makes no sense, RolledBack for one that went back."""
        key = canonicalize_name(name)
        if key not in self._known:
            try:
                answer = self._connection.get(f"/v1/plugins/{path_segment(key)}")
            except RegistryNotFound:
                self._known[key] = None
                return None
            self._known[key] = read_project(answer, key, self._connection.url)
            serial = answer.get("serial")
            if self._check_serial is not None and isinstance(serial, int):
                self._check_serial(serial, f"plugin:{key}")
        return self._known[key]


def read_project(answer: Any, name: str, origin: str) -> Project:
    """A project out of the registry's answer. Raises RegistryError naming what is wrong with it."""
    try:
        if canonicalize_name(answer["name"]) != name:
            raise ValueError(f"it is about {answer['name']!r}")
        releases = [_release(row, name, origin) for row in answer["versions"]]
        return Project(
            name=name,
            owner=str(answer["owner"]),
            status=str(answer.get("status") or "active"),
            releases=tuple(sorted(releases, key=lambda one: one.version, reverse=True)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidVersion, InvalidRequirement) as error:
        raise RegistryError(
            f"{origin} answered nonsense about {name}: {type(error).__name__}: {error}"
        ) from error


def _release(row: Mapping[str, Any], name: str, origin: str) -> Release:
    manifest = row.get("manifest")
    return Release(
        version=Version(row["version"]),
        yanked=row.get("yanked") is True,
        yanked_reason=row.get("yanked_reason") or None,
        requires_python=row.get("requires_python") or None,
        requires=tuple(Requirement(line) for line in row.get("requires_dist") or ()),
        manifest=manifest if isinstance(manifest, Mapping) else None,
        files=tuple(_file(item, name, origin) for item in row.get("files") or ()),
    )


def _file(item: Mapping[str, Any], name: str, origin: str) -> File:
    filename, digest, url = str(item["filename"]), str(item["sha256"]), str(item["url"])
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{filename} has the sha256 {digest[:80]!r}")
    if "/" in filename or "\\" in filename or filename.startswith("."):
        raise ValueError(f"a file is called {filename[:80]!r}")
    size = item.get("size")
    address = url if "://" in url else origin + "/" + url.lstrip("/")
    return File(filename, address, digest, size if isinstance(size, int) else None)


@cache
def machine_tags() -> Mapping[Tag, int]:
    """The tags that this interpreter takes, best first. There are a thousand, and they do not change while it runs."""
    return {tag: place for place, tag in enumerate(sys_tags())}


def best_wheel(files: Sequence[File], tags: Sequence[Tag] | None = None) -> File | None:
    """The wheel that suits this machine best, None when none does."""
    order = machine_tags() if tags is None else {tag: place for place, tag in enumerate(tags)}
    found: list[tuple[int, str, File]] = []
    for file in files:
        if not file.filename.endswith(".whl"):
            continue
        try:
            *_, wheel_tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        places = [order[tag] for tag in wheel_tags if tag in order]
        if places:
            found.append((min(places), file.filename, file))
    return min(found)[2] if found else None
