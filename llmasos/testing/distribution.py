"""Throw-away plugins on disk: a package with its manifest, bare or as an installed distribution.

::

    site = write_distribution(tmp_path / "site", "acme", provides=[("metric", "wer")], source=SOURCE)
    monkeypatch.syspath_prepend(site)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def toml_value(value: Any) -> str:
    """A value as TOML: strings, numbers, booleans, lists and tables (inline)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # The escapes of a JSON string are those of a basic TOML string.
        return json.dumps(value)
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
        )
    if isinstance(value, Iterable):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"{value!r} has no TOML form")


def manifest_text(plugin_id: str, module: str, **keys: Any) -> str:
    """A manifest with the required keys filled in. ``provides`` may be (kind, name) pairs or whole tables."""
    provides = [
        item
        if isinstance(item, Mapping)
        else {"kind": item[0], "name": item[1], "summary": f"The {item[0]} {item[1]}"}
        for item in keys.pop("provides", [])
    ]
    table: dict[str, Any] = {
        "manifest": 1,
        "id": plugin_id,
        "summary": f"The plugin {plugin_id}",
        "module": module,
        "api": ">=1.0,<2",
        "license": "Apache-2.0",
        "provides": provides,
        **keys,
    }
    return "".join(
        f"{json.dumps(key)} = {toml_value(value)}\n" for key, value in table.items() if value is not None
    )


def plugin_source(provides: Iterable[tuple[str, str]] = (), hooks: Mapping[str, str] | None = None) -> str:
    """Source of a plugin module that delivers ``provides`` (kind, name) and implements ``hooks`` (name -> body).

    Factories point at ``json:dumps``, which exists everywhere. A hook's body may use its arguments by name.
    """
    from llmasos.hooks import specs

    lines = ["from llmasos import api", "from llmasos.api import hookimpl", ""]
    kinds: dict[str, list[str]] = {}
    for kind, name in provides:
        kinds.setdefault(kind, []).append(name)
    for kind, names in kinds.items():
        hook = next(name for name, info in specs.HOOKS.items() if info.kind == kind)
        lines += ["@hookimpl", f"def llmasos_{hook}():"]
        lines += [f"    yield {_descriptor(kind, name)}" for name in names]
        lines.append("")
    for name, body in (hooks or {}).items():
        code = getattr(specs, f"llmasos_{name}").__code__
        arguments = ", ".join(code.co_varnames[: code.co_argcount])
        lines += [
            "@hookimpl",
            f"def llmasos_{name}({arguments}):",
            *(f"    {line}" for line in body.splitlines()),
            "",
        ]
    return "\n".join(lines)


def _descriptor(kind: str, name: str) -> str:
    from llmasos import api
    from llmasos.contracts.base import Contribution

    forms = {
        value.kind: key
        for key, value in vars(api).items()
        if isinstance(value, type) and issubclass(value, Contribution) and value.kind
    }
    extra = {"metric": ", higher_is_better=True", "kernel_op": ', op="linear", backend="reference"'}.get(
        kind, ""
    )
    return f'api.{forms[kind]}(name="{name}", factory="json:dumps"{extra})'


def write_package(
    folder: Path,
    plugin_id: str,
    *,
    provides: Iterable[tuple[str, str]] = (),
    hooks: Mapping[str, str] | None = None,
    source: str | None = None,
    manifest: str | None = None,
    **keys: Any,
) -> Path:
    """Write an import package named after the plugin id (dashes become underscores) into ``folder``; returns the package.

    ``source`` replaces the generated module and ``manifest`` the generated text; other keys go into the manifest.
    """
    pairs = list(provides)
    name = plugin_id.replace("-", "_")
    package = folder / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(plugin_source(pairs, hooks) if source is None else source)
    keys.setdefault("hooks", sorted(hooks or {}))
    text = (
        manifest_text(plugin_id, f"{name}.plugin", provides=pairs, **keys) if manifest is None else manifest
    )
    (package / "llmasos.toml").write_text(text)
    return package


def write_distribution(
    site: Path,
    plugin_id: str,
    *,
    version: str = "1.0",
    distribution: str | None = None,
    entry_point: str | None = None,
    **package: Any,
) -> Path:
    """Write what installing a plugin leaves in ``site``: its package (see ``write_package``) and ``*.dist-info``.

    Returns ``site``, to be put on ``sys.path``. ``entry_point`` replaces the entry point's value.
    """
    written = write_package(site, plugin_id, **package)
    name = distribution or plugin_id
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    value = entry_point if entry_point is not None else f"{written.name}:llmasos.toml"
    (info / "entry_points.txt").write_text(f"[llmasos.plugins]\n{plugin_id} = {value}\n")
    (info / "INSTALLER").write_text("llmasos.testing\n")
    return site
