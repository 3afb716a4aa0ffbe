"""Source of plugins that keep their promises, made from the promises: for tests that need many, or one of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmasos.testing.tmp import install_plugin, manifest, write_plugin


def provides_tables(provides: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """``[[provides]]`` tables of (kind, name) pairs."""
    return [{"kind": kind, "name": name, "summary": f"The {kind} {name}"} for kind, name in provides]


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


def write_generated(
    folder: Path,
    plugin_id: str,
    *,
    provides: Iterable[tuple[str, str]] = (),
    hooks: Mapping[str, str] | None = None,
    source: str | None = None,
    **keys: Any,
) -> Path:
    """Write a plugin that delivers ``provides`` (kind, name) and implements ``hooks`` (name -> body) into ``folder``.

    ``source`` replaces the generated module; other keys go into the manifest. Returns the package's folder.
    """
    pairs = list(provides)
    table = manifest(plugin_id, **{"hooks": sorted(hooks or {}), "provides": provides_tables(pairs), **keys})
    text = plugin_source(pairs, hooks) if source is None else source
    return write_plugin(folder / plugin_id.replace("-", "_"), table, {"plugin.py": text})


def install_generated(
    root: Path, plugin_id: str, *, version: str = "1.0.0", distribution: str | None = None, **plugin: Any
) -> Path:
    """``write_generated`` below ``root``, made an installed distribution; returns the folder to put on ``sys.path``."""
    package = write_generated(root / "packages", plugin_id, **plugin)
    site = root / "site"
    install_plugin(package, site, plugin_id=plugin_id, version=version, distribution=distribution)
    return site
