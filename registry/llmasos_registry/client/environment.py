"""What is installed here: read from metadata, never by importing. The facts that a plan starts from and must not break."""

from __future__ import annotations

import importlib.metadata as metadata
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmasos import API_VERSION

GROUP = "llmasos.plugins"
#: Never installed, changed or removed as a side effect: the machine's owner chose these builds for its hardware.
_FIXED = re.compile(r"llmasos|torch|torchvision|torchaudio|numpy|triton|pytorch-triton.*|nvidia-.*|cuda-.*")


def is_fixed(name: str) -> bool:
    """Whether a distribution (canonical name) is a fact of this machine: torch, numpy, the CUDA stack and llmasos itself."""
    return _FIXED.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed distribution. ``plugins`` are the ids of its plugins."""

    name: str
    version: str
    requires: tuple[Requirement, ...]
    plugins: tuple[str, ...]
    requires_python: str | None
    distribution: metadata.Distribution

    @property
    def parsed(self) -> Version | None:
        """The version, None when it cannot be read as one."""
        try:
            return Version(self.version)
        except InvalidVersion:
            return None


@dataclass(frozen=True, slots=True)
class Environment:
    """One Python environment. ``installed`` is by canonical name."""

    executable: str
    installed: Mapping[str, Installed]
    #: Where packages go; the tools write there.
    site: Path

    @classmethod
    def current(cls, path: Sequence[str] | None = None) -> Environment:
        """The environment of this process; ``path`` replaces ``sys.path``."""
        importlib_path = list(sys.path if path is None else path)
        found: dict[str, Installed] = {}
        for distribution in metadata.distributions(path=importlib_path):
            one = _read(distribution)
            # The first on the path is the one that would be imported.
            if one is not None and one.name not in found:
                found[one.name] = one
        return cls(sys.executable, found, Path(sysconfig.get_paths()["purelib"]))

    @property
    def python(self) -> str:
        """The version of Python."""
        return platform.python_version()

    @property
    def api(self) -> str:
        """The version of the plugin API."""
        return ".".join(str(part) for part in API_VERSION)

    def version(self, name: str) -> str | None:
        """The installed version of a canonical name."""
        one = self.installed.get(name)
        return None if one is None else one.version

    def is_fact(self, name: str) -> bool:
        """Whether a canonical name stands for what cannot change here. A torch that is missing is chosen by the machine's
        owner too, among builds for different hardware; numpy, which has one build, may be added where it is missing."""
        return is_fixed(name) and (name in self.installed or name != "numpy")

    def plugins(self) -> list[Installed]:
        """Installed distributions that bring plugins, without llmasos itself, sorted by name."""
        return [one for _, one in sorted(self.installed.items()) if one.plugins and one.name != "llmasos"]

    def facts(self) -> dict[str, str]:
        """Names and versions of the fixed distributions, sorted; a lock records them."""
        return {name: one.version for name, one in sorted(self.installed.items()) if is_fixed(name)}


def modules_of(name: str) -> list[str]:
    """Top-level modules that a distribution installed, from its record; empty when it is not there."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return []
    heads = {str(path).partition("/")[0] for path in files}
    return sorted(head.removesuffix(".py") for head in heads if head.removesuffix(".py").isidentifier())


def applies(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    """Whether a requirement's marker holds here, with any of the extras."""
    if requirement.marker is None:
        return True
    here = {str(key): str(value) for key, value in default_environment().items()}
    return any(requirement.marker.evaluate({**here, "extra": extra}) for extra in ("", *extras))


def fits(requirement: Requirement, version: str) -> bool:
    """Whether a version is in the requirement's range; pre-releases count, because they are there already."""
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _read(distribution: metadata.Distribution) -> Installed | None:
    """None for what is left of a distribution whose metadata is damaged."""
    try:
        fields = distribution.metadata
        names, versions = fields.get_all("Name"), fields.get_all("Version")
        if not names or not versions:
            return None
        requires = [_requirement(line) for line in fields.get_all("Requires-Dist") or ()]
        points = [point for point in distribution.entry_points if point.group == GROUP]
    except Exception:  # a stranger's damaged metadata, or a finder on sys.meta_path that raises anything
        return None
    return Installed(
        name=canonicalize_name(names[0]),
        version=versions[0],
        requires=tuple(one for one in requires if one is not None),
        plugins=tuple(sorted(point.name for point in points)),
        requires_python=(fields.get_all("Requires-Python") or [None])[0],
        distribution=distribution,
    )


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:  # written by an old tool; nothing can be said about it
        return None
