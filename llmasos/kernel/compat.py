"""Whether a plugin fits this environment, decided from its manifest and installed metadata alone.

A decision is a value with every step that led to it, so that ``plugin info`` and errors can print why.
Versions of packages come from their metadata: asking whether torch fits does not import torch.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from llmasos import API_VERSION


class Accepted(NamedTuple):
    """Fits. ``trace`` has one line for each requirement looked at."""

    trace: tuple[str, ...]


class Rejected(NamedTuple):
    """Does not fit. ``reason`` is the first requirement that failed, ``hint`` what to do."""

    reason: str
    hint: str
    trace: tuple[str, ...]


Verdict = Accepted | Rejected


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution from its metadata, or None."""
    import importlib.metadata as metadata

    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def check(manifest: Mapping[str, Any], *, devices: bool = False) -> Verdict:
    """Compare a manifest (as JSON types) with this environment.

    ``devices`` asks for accelerators too, which may start a short subprocess; it is left for when the plugin is used.
    """
    requires: Mapping[str, Any] = manifest.get("requires", {})
    extras = str(requires.get("extras_hint", ""))
    steps: list[tuple[bool, str, str]] = [_api(str(manifest.get("api", "")))]
    if "python" in requires:
        version = platform.python_version()
        fits = SpecifierSet(requires["python"]).contains(version, prereleases=True)
        steps.append((fits, f"needs Python {requires['python']}, this is {version}", "use another Python"))
    if "torch" in requires:
        steps.append(_package(Requirement(f"torch{requires['torch']}"), extras))
    steps.extend(_package(Requirement(line), extras) for line in requires.get("packages", []))
    if devices and requires.get("devices"):
        steps.append(_devices(list(requires["devices"])))
    trace = tuple(f"{'ok' if fits else 'no'}: {text}" for fits, text, _ in steps)
    for fits, text, hint in steps:
        if not fits:
            return Rejected(text, hint, trace)
    return Accepted(trace)


def _api(range_: str) -> tuple[bool, str, str]:
    here = ".".join(str(part) for part in API_VERSION)
    # `>=1.0` and API 1.0 must meet although a version range would read 1.0 as 1.0.0: packaging treats them as equal.
    fits = SpecifierSet(range_).contains(here, prereleases=True)
    newer = any(
        Version(item.version.rstrip(".*")) > Version(here)
        for item in SpecifierSet(range_)
        if item.operator in (">=", ">", "==", "~=")
    )
    return (
        fits,
        f"needs llmasos API {range_}, this is {here}",
        "upgrade llmasos" if newer else "upgrade the plugin",
    )


def _package(requirement: Requirement, extras: str) -> tuple[bool, str, str]:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True, f"{requirement} does not apply here", ""
    version = installed_version(requirement.name)
    hint = extras or f"pip install '{requirement}'"
    wanted = f"needs {requirement.name}{requirement.specifier}"
    if version is None:
        return False, f"{wanted}, which is not installed", hint
    try:
        fits = requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False, f"{wanted}, found the unreadable version {version!r}", hint
    return fits, f"{wanted}, found {version}", hint


def _devices(wanted: list[str]) -> tuple[bool, str, str]:
    text = f"needs one of the devices {', '.join(wanted)}"
    for device in wanted:
        match = re.match(r"([a-z0-9_]+)(.*)", device)
        name, range_ = (match[1], match[2]) if match else (device, "")
        version = device_version(name, detail=bool(range_))
        if version is not None and (not range_ or (version and SpecifierSet(range_).contains(version))):
            return True, f"{text}: {name} {version}".rstrip(), ""
    return (
        False,
        f"{text}, and this machine has none of them",
        "run it on a machine that has one, or disable the plugin",
    )


def device_version(name: str, *, detail: bool = False) -> str | None:
    """None when a device is absent, else its capability (``detail``) or the empty string. Loads no driver library."""
    if name == "cpu":
        return ""
    if name == "mps":
        return "" if sys.platform == "darwin" and platform.machine() == "arm64" else None
    if name == "cuda":
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not os.path.exists("/dev/nvidiactl"):
            return None
        return _cuda_capability() if detail else ""
    return None


def _cuda_capability() -> str | None:
    """Highest compute capability, asked in a subprocess: a bad driver must not be loaded into this process."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = [line.strip() for line in done.stdout.splitlines() if re.fullmatch(r"\d+\.\d+", line.strip())]
    return max(found, key=Version, default=None)
