"""``pylock.toml`` (PEP 751) with models, signers and facts under ``[tool.llmasos]``; docs/reference/lock.md describes it.

``uv pip sync``, ``uv pip install -r`` and ``pip install -r`` read the package part; they know nothing of the rest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError
from packaging.utils import canonicalize_name
from packaging.version import Version

from llmasos.errors import ConfigError, InputError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.connection import registry_url
from llmasos_registry.client.locked import (
    Lock,
    LockedModel,
    LockedPackage,
    LockedPlugin,
    model_files,
    package_from,
)

#: Version of the table ``[tool.llmasos]``.
LOCK_FORMAT = 1
LOCK_FILE = "pylock.toml"
#: A lock of 100,000 model files has about 15 MB.
MAX_BYTES = 64 << 20


def lock_bytes(lock: Lock) -> bytes:
    """The file's content; the same lock gives the same bytes."""
    table: dict[str, Any] = {
        "lock-version": "1.0",
        "created-by": "llmasos",
        "packages": [_package(one, lock.registry) for one in sorted(lock.packages) if one.wheels],
        "tool": {"llmasos": _tool(lock)},
    }
    Pylock.from_dict(table).validate()
    return tomli_w.dumps(table).encode("utf-8")


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock; the file is the old one or the new one. Raises InputError when it cannot be written."""
    try:
        write_atomic(path, lock_bytes(lock))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def read_lock(path: Path) -> Lock:
    """A lock file. Raises InputError naming what is wrong with it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the lock {path}: {error.strerror or error}", hint="`llmasos lock` writes one"
        ) from error
    return parse_lock(data, str(path))


def parse_lock(data: bytes, source: str) -> Lock:
    """A lock from its bytes; ``source`` names it in messages. Raises InputError."""
    if len(data) > MAX_BYTES:
        raise InputError(f"{source} is larger than {MAX_BYTES >> 20} MB, which is no lock")
    try:
        table = tomllib.loads(data.decode("utf-8"))
        pylock = Pylock.from_dict(table)
    except PylockUnsupportedVersionError as error:
        raise InputError(f"{source}: {error}", hint="upgrade llmasos") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, PylockValidationError, RecursionError) as error:
        raise InputError(f"{source} is not a lock: {error}") from error
    tool = (pylock.tool or {}).get("llmasos")
    if not isinstance(tool, Mapping):
        raise InputError(
            f"{source} has no table [tool.llmasos]",
            hint="it was written by another tool: use `uv pip sync` or `pip install -r`",
        )
    if tool.get("format") != LOCK_FORMAT:
        raise InputError(
            f"{source}: [tool.llmasos] has the format {tool.get('format')!r}, this reads {LOCK_FORMAT}",
            hint="upgrade llmasos, or write the lock again",
        )
    _refuse_other_sources(pylock, source)
    try:
        return Lock(
            registry=registry_url(str(tool["registry"])),
            packages=tuple(package_from(one) for one in pylock.packages),
            plugins=tuple(_plugin_from(row) for row in tool.get("plugins", [])),
            models=tuple(_model_from(row) for row in tool.get("models", [])),
            requested=tuple(str(line) for line in tool.get("requested", [])),
            facts={str(name): str(version) for name, version in tool.get("facts", {}).items()},
        )
    except ConfigError as error:
        raise InputError(f"{source}: [tool.llmasos]: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: [tool.llmasos]: {type(error).__name__}: {error}") from error


def _refuse_other_sources(pylock: Pylock, source: str) -> None:
    """Only wheels with a digest are installed from a lock: building what else there could be would run its code."""
    for package in pylock.packages:
        if package.version is None or not package_from(package).wheels:
            raise InputError(
                f"{source}: {package.name} has no wheel with a version and a sha256",
                hint="a lock of llmasos holds wheels only",
            )


def _package(package: LockedPackage, registry: str) -> dict[str, Any]:
    wheels = []
    for wheel in package.wheels:
        row: dict[str, Any] = {"name": wheel.filename, "url": wheel.url}
        if wheel.size is not None:
            row["size"] = wheel.size
        wheels.append({**row, "hashes": {"sha256": wheel.sha256}})
    return {
        "name": package.name,
        "version": package.version,
        "index": f"{registry}/simple/",
        "wheels": wheels,
    }


def _tool(lock: Lock) -> dict[str, Any]:
    table: dict[str, Any] = {"format": LOCK_FORMAT, "registry": lock.registry}
    table["requested"] = sorted(lock.requested)
    table["facts"] = dict(sorted(lock.facts.items()))
    table["plugins"] = [_known(plugin._asdict()) for plugin in sorted(lock.plugins, key=lambda one: one.name)]
    table["models"] = [_model(one) for one in sorted(lock.models, key=lambda one: (one.kind, one.id))]
    return table


def _model(model: LockedModel) -> dict[str, Any]:
    return _known(
        {
            "kind": model.kind,
            "id": model.id,
            "version": model.version,
            "commit": model.commit,
            "publisher": model.publisher,
            "keyid": model.keyid,
            "signature": model.signature,
            "requires": list(model.requires),
            "files": [file._asdict() for file in model.files],
        }
    )


def _known(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: what is not known is left out."""
    return {key: value for key, value in table.items() if value is not None}


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value or len(value) > 1024 or not value.isprintable():
        raise ValueError(f"`{key}` is {value!r:.80}")
    return value


def _maybe(row: Mapping[str, Any], key: str) -> str | None:
    return _text(row, key) if key in row else None


def _plugin_from(row: Mapping[str, Any]) -> LockedPlugin:
    permissions = row.get("permissions", {})
    if not isinstance(permissions, Mapping):
        raise ValueError("`permissions` is no table")
    name = _text(row, "name")
    if canonicalize_name(name) != name:
        raise ValueError(f"{name!r} is not a normalised name")
    return LockedPlugin(
        name=name,
        version=str(Version(_text(row, "version"))),
        id=_text(row, "id"),
        summary=_text(row, "summary"),
        publisher=_text(row, "publisher"),
        keyid=_maybe(row, "keyid"),
        permissions=permissions,
    )


def _model_from(row: Mapping[str, Any]) -> LockedModel:
    kind, name, commit = _text(row, "kind"), _text(row, "id"), _text(row, "commit")
    if kind not in ("model", "dataset"):
        raise ValueError(f"`kind` is {kind!r}")
    check_repository(name)
    check_commit(commit)
    requires: Sequence[Any] = row.get("requires", [])
    return LockedModel(
        kind=kind,
        id=name,
        version=_maybe(row, "version"),
        commit=commit,
        publisher=_text(row, "publisher"),
        files=model_files(row["files"]),
        keyid=_maybe(row, "keyid"),
        signature=_maybe(row, "signature"),
        requires=tuple(str(line) for line in requires),
    )


def check_repository(name: str) -> None:
    """``org/name`` that is safe as two folders. Raises ValueError."""
    parts = name.split("/")
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    if len(parts) != 2 or any(not part or part[0] in ".-" or set(part) - letters for part in parts):
        raise ValueError(f"{name[:80]!r} is not the name of a repository")


def check_commit(commit: str) -> None:
    """40 hexadecimal digits. Raises ValueError."""
    if len(commit) != 40 or set(commit) - set("0123456789abcdef"):
        raise ValueError(f"{commit[:80]!r} is not a commit")
