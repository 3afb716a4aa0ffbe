"""``llmasos.toml``, schema version 1: everything needed to list, search, resolve and refuse a plugin without importing it.

The page docs/reference/manifest.md describes the keys. Unknown keys are errors, because a misspelt key that is ignored
is a promise that is silently not kept. pydantic is imported here, so this module is imported only when the environment
changed, or to check one manifest before its plugin is loaded.
"""

from __future__ import annotations

import keyword
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from llmasos.errors import ManifestError
from llmasos.hooks.specs import HOOKS
from llmasos.near_miss import did_you_mean

MANIFEST_VERSION = 1
#: A manifest is a page of text; anything larger is a mistake or an attack on the parser.
MAX_BYTES = 1 << 20

KINDS: tuple[str, ...] = tuple(info.kind for info in HOOKS.values() if info.kind is not None)
VERBS: tuple[str, ...] = tuple(name for name, info in HOOKS.items() if info.kind is None)

_DEVICE = re.compile(r"^(?P<name>[a-z][a-z0-9_]*)(?P<spec>[<>=!~].*)?$")

PluginId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=80)]
#: Names may hold dots and dashes (``cpu.linear``, ``hf-json``), never a slash: that separates plugin and name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=120)]
#: Shown on terminals: no control characters, which could move the cursor and hide what is shown.
Line = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"
    ),
]


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"{text!r} is not a version range such as '>=1.0,<2'") from error
    return text


def _is_module(text: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Requires(_Table):
    """``[requires]``: checked before import; each failure has a reason."""

    python: str | None = Field(default=None, description="version range of Python")
    torch: str | None = Field(
        default=None, description="version range of torch; leave out when torch is not needed"
    )
    packages: list[str] = Field(default=[], description="other distributions, as requirement lines")
    devices: list[str] = Field(
        default=[], description="any of these must be present: cpu, cuda, cuda>=8.0, mps"
    )
    extras_hint: Line | None = Field(default=None, description="the line to show when something is missing")

    @field_validator("python", "torch")
    @classmethod
    def _ranges(cls, value: str | None) -> str | None:
        return value if value is None else _specifier(value)

    @field_validator("packages")
    @classmethod
    def _requirements(cls, value: list[str]) -> list[str]:
        for line in value:
            try:
                Requirement(line)
            except InvalidRequirement as error:
                raise ValueError(f"{line!r} is not a requirement such as 'tokenizers>=0.21'") from error
        return value

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: list[str]) -> list[str]:
        for text in value:
            match = _DEVICE.match(text)
            if match is None:
                raise ValueError(f"{text!r} is not a device such as 'cpu' or 'cuda>=8.0'")
            if match["spec"]:
                _specifier(match["spec"])
        return value


class Permissions(_Table):
    """``[permissions]``: declared and shown at install. Not a sandbox: plugins run with the rights of the user."""

    network: list[Line] = Field(default=[], description="hosts it talks to")
    filesystem: Literal["none", "read", "cache", "user"] = Field(
        default="cache",
        description="none; read: what the user names; cache: writes below the cache folder; user: writes where it likes",
    )
    subprocess: bool = Field(default=False, description="whether it starts other programs")
    runs_remote_code: bool = Field(default=False, description="whether it runs code that it fetched")


class Provides(_Table):
    """``[[provides]]``: one contribution, delivered by the collect hook of its kind."""

    kind: str = Field(description="contribution kind")
    name: Name = Field(description="bare name; the full name is plugin-id/name")
    summary: Line = Field(description="one line, shown by --help and plugin info")
    capabilities: dict[str, Any] = Field(default={}, description="free table, for people and searches")
    aliases_for: list[Line] = Field(
        [], description="other names the same thing is known by elsewhere; searched, never resolved"
    )
    matches: dict[Line, list[Line]] = Field(
        default={}, description="what makes this the provider: model_type, architectures, files"
    )
    probe: str | None = Field(
        default=None,
        description="`package.module:function` that returns lines for `llmasos doctor`: what it is on this machine; imports no torch",
    )

    @field_validator("probe")
    @classmethod
    def _function(cls, value: str | None) -> str | None:
        module, colon, function = (value or "").partition(":")
        if value is not None and not (colon and _is_module(module) and function.isidentifier()):
            raise ValueError(f"{value!r} does not name a function as 'package.module:function'")
        return value

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in KINDS:
            raise ValueError(
                f"unknown kind `{value}`{did_you_mean(value, KINDS)} (kinds: {', '.join(sorted(KINDS))})"
            )
        return value


class SettingDef(_Table):
    """``[settings.name]``: a value the user may set under ``[plugins.<id>]`` in config.toml."""

    type: Literal["str", "int", "float", "bool"] = Field(description="type of the value")
    default: str | int | float | bool = Field(description="a value of that type")
    help: Line = Field(description="one line, shown by plugin info")

    @model_validator(mode="after")
    def _default_fits(self) -> SettingDef:
        if type(self.default).__name__ != self.type:
            raise ValueError(f"default {self.default!r} is not of type {self.type}")
        return self


class Manifest(_Table):
    """One ``llmasos.toml``."""

    manifest: Literal[1] = Field(description="schema version")
    id: PluginId = Field(
        description="plugin id: the entry point's name and the namespace of every contribution"
    )
    summary: Line = Field(description="one line, shown by plugin list")
    module: str = Field(
        description="module with the hook implementations; imported only when something below is used"
    )
    api: str = Field(description="range of the llmasos API version, not of the package")
    license: Line = Field(description="SPDX expression")
    hooks: list[str] = Field(
        default=[], description="verbs that the module implements, without the llmasos_ prefix"
    )
    stability: Literal["stable", "preview"] = Field(
        default="stable", description="preview may change in any release"
    )
    process: Literal["driver", "worker", "both"] = Field(
        default="both", description="where it may be imported"
    )
    requires: Requires = Field(default=Requires(), description="what the environment must have")
    permissions: Permissions = Field(default=Permissions(), description="what it does to the machine")
    provides: list[Provides] = Field(default=[], description="what it offers")
    settings: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], SettingDef] = Field(
        default={}, description="what the user may set"
    )

    @field_validator("module")
    @classmethod
    def _importable(cls, value: str) -> str:
        if not _is_module(value):
            raise ValueError(f"{value!r} is not a dotted module name")
        return value

    @field_validator("api")
    @classmethod
    def _api_range(cls, value: str) -> str:
        return _specifier(value)

    @field_validator("hooks")
    @classmethod
    def _verbs(cls, value: list[str]) -> list[str]:
        for name in value:
            if name.startswith("llmasos_"):
                raise ValueError(f"write `{name.removeprefix('llmasos_')}` without the prefix llmasos_")
            if name in HOOKS and HOOKS[name].kind is not None:
                raise ValueError(
                    f'`{name}` is implied by [[provides]] kind = "{HOOKS[name].kind}"; leave it out of hooks'
                )
            if name not in VERBS:
                raise ValueError(
                    f"unknown hook `{name}`{did_you_mean(name, VERBS)} (hooks: {', '.join(sorted(VERBS))})"
                )
        if len(set(value)) != len(value):
            raise ValueError("a hook is listed twice")
        return value

    @model_validator(mode="after")
    def _unique(self) -> Manifest:
        seen: set[tuple[str, str]] = set()
        for item in self.provides:
            if (item.kind, item.name) in seen:
                raise ValueError(f"{item.kind} `{item.name}` is provided twice")
            seen.add((item.kind, item.name))
        return self


def parse_manifest(data: bytes, *, source: str, plugin_id: str | None = None) -> Manifest:
    """Check the bytes of a manifest. ``plugin_id`` is the entry point's name, which ``id`` must equal.

    Raises ManifestError, one line: the file, the key and what is wrong with it.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError(f"{source}: {len(data)} bytes are too many for a manifest (at most {MAX_BYTES})")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError(f"{source}: not valid TOML: {error}") from error
    version = table.get("manifest")
    if isinstance(version, int) and version > MANIFEST_VERSION:
        raise ManifestError(
            f"{source}: manifest version {version} is newer than this llmasos reads ({MANIFEST_VERSION})",
            hint="upgrade llmasos, or install an older version of the plugin",
        )
    try:
        manifest = Manifest.model_validate(table)
    except ValidationError as error:
        # A misspelt key is unknown and leaves another one missing; the first of the two is the one to correct.
        found = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
        problems = [_explain(item) for item in found]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ManifestError(
            f"{source}: {problems[0]}{more}", hint="docs/reference/manifest.md lists the keys"
        ) from error
    if plugin_id is not None and manifest.id != plugin_id:
        raise ManifestError(
            f"{source}: id is `{manifest.id}` but the entry point is named `{plugin_id}`",
            hint="make the two equal",
        )
    return manifest


def read_manifest(path: Path, *, plugin_id: str | None = None) -> Manifest:
    """``parse_manifest`` of a file. Raises ManifestError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from error
    return parse_manifest(data, source=str(path), plugin_id=plugin_id)


def _fields(location: tuple[str | int, ...]) -> list[str]:
    """Known keys of the table at a location such as ``("provides", 0)``."""
    model: type[BaseModel] = Manifest
    tables: dict[str, type[BaseModel]] = {
        "requires": Requires,
        "permissions": Permissions,
        "provides": Provides,
        "settings": SettingDef,
    }
    if location and isinstance(location[0], str):
        model = tables.get(location[0], Manifest)
    return list(model.model_fields)


def _explain(error: Any) -> str:
    location: tuple[str | int, ...] = error["loc"]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in location[:-1])
    table = f"[{where}]" if where else "the top level"
    key = location[-1] if location else ""
    if error["type"] == "extra_forbidden":
        return f"unknown key `{key}` in {table}{did_you_mean(str(key), _fields(location[:-1]))}"
    if error["type"] == "missing":
        return f"key `{key}` is missing in {table}"
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = ".".join(str(part + 1) if isinstance(part, int) else part for part in location)
    return f"`{shown}`: {message}" if shown else message


def json_schema() -> dict[str, Any]:
    """JSON Schema of the manifest, for editors and for docs/reference/manifest.md."""
    schema = Manifest.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "llmasos.toml"
    schema["$defs"]["Provides"]["properties"]["kind"]["enum"] = sorted(KINDS)
    schema["properties"]["hooks"]["items"]["enum"] = sorted(VERBS)
    return schema
