"""``llmasos.toml`` of a model repository: the plugins that a model needs. A data file; nothing in it is ever executed.

The page docs/reference/model-manifest.md describes the keys. A plugin's file has the same name and other keys
(``llmasos.kernel.manifest``); the two are told apart by ``id``, which every plugin has and no model.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from llmasos.errors import ManifestError
from llmasos.near_miss import did_you_mean

MODEL_MANIFEST_VERSION = 1
MANIFEST_FILE = "llmasos.toml"
#: A page of text; anything larger is a mistake or an attack on the parser.
MAX_BYTES = 64 << 10
#: Plugins that one model may name.
MAX_REQUIREMENTS = 32
KEYS = ("manifest", "requires", "architecture")

_HINT = "docs/reference/model-manifest.md lists the keys"


class ModelManifest(NamedTuple):
    """What a model says about the plugins it needs. ``requires`` are requirement lines in their canonical spelling."""

    requires: tuple[str, ...] = ()
    #: ``plugin-id/name`` of the architecture, or a bare name; None leaves the choice to what manifests match.
    architecture: str | None = None


def parse_model_manifest(data: bytes, *, source: str) -> ModelManifest:
    """Check the bytes of a model's manifest; ``source`` names it in messages. Raises ManifestError, one line."""
    manifest = _parse(_table(data, source), source)
    if manifest is None:
        raise ManifestError(f"{source} is the manifest of a plugin, not of a model", hint=_HINT)
    return manifest


def read_model_manifest(folder: Path) -> ModelManifest | None:
    """The manifest in a model's folder; None when there is none or the file there is a plugin's.

    Raises ManifestError when it is malformed or cannot be read.
    """
    path = folder / MANIFEST_FILE
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from error
    return _parse(_table(data, str(path)), str(path))


def model_requirement(text: str, *, source: str) -> Requirement:
    """One entry of ``requires``: a distribution's name and a version range. Raises ManifestError for anything else."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ManifestError(
            f"{source}: {text!r} is not a requirement such as 'llmasos-acme>=1.2,<2'", hint=_HINT
        ) from error
    if requirement.url is not None or requirement.marker is not None:
        what = "an address" if requirement.url is not None else "a marker"
        raise ManifestError(
            f"{source}: {text!r} holds {what}; a model names plugins and version ranges only", hint=_HINT
        )
    return requirement


def _table(data: bytes, source: str) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise ManifestError(f"{source}: more than {MAX_BYTES} bytes are too many for a model's manifest")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError(f"{source}: not valid TOML: {error}", hint="fix or remove the file") from error


def _parse(table: dict[str, Any], source: str) -> ModelManifest | None:
    if "id" in table and "module" in table:
        return None
    version = table.get("manifest", MODEL_MANIFEST_VERSION)
    if type(version) is int and version > MODEL_MANIFEST_VERSION:
        raise ManifestError(
            f"{source}: manifest version {version} is newer than this llmasos reads ({MODEL_MANIFEST_VERSION})",
            hint="upgrade llmasos",
        )
    if type(version) is not int or version != MODEL_MANIFEST_VERSION:
        raise ManifestError(f"{source}: `manifest` is {version!r}", hint="write manifest = 1")
    for key in table:
        if key not in KEYS:
            raise ManifestError(f"{source}: unknown key `{key}`{did_you_mean(key, KEYS)}", hint=_HINT)
    architecture = table.get("architecture")
    if architecture is not None and not (isinstance(architecture, str) and 0 < len(architecture) <= 300):
        raise ManifestError(
            f"{source}: `architecture` is not a string", hint='write architecture = "plugin-id/name"'
        )
    return ModelManifest(_requires(table.get("requires", []), source), architecture)


def _requires(value: Any, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ManifestError(
            f"{source}: `requires` is not a list of strings", hint='write requires = ["llmasos-acme>=1.2,<2"]'
        )
    if len(value) > MAX_REQUIREMENTS:
        raise ManifestError(f"{source}: {len(value)} requirements are too many (at most {MAX_REQUIREMENTS})")
    found: dict[str, str] = {}
    for line in value:
        requirement = model_requirement(line, source=source)
        name = canonicalize_name(requirement.name)
        if name in found:
            raise ManifestError(f"{source}: `{name}` is required twice", hint="write one range")
        found[name] = f"{name}{_extras(requirement)}{requirement.specifier}"
    return tuple(found.values())


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
