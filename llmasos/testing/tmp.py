"""Throw-away plugins: a folder for ``--plugin``, or an installed distribution that exists only in a temporary folder.

A distribution is what pip would leave behind (package, ``METADATA``, ``entry_points.txt``, ``RECORD``), written in
milliseconds and without pip; a process that has the folder on ``PYTHONPATH`` finds it as if it were installed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST_FILE = "llmasos.toml"


def toml_text(table: Mapping[str, Any]) -> str:
    """TOML of a manifest: strings, numbers, booleans, lists, tables and lists of tables."""
    return "".join(f"{line}\n" for line in _table(table, ()))


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    later: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping) or _is_table_list(value):
            later.append((key, value))  # tables come after the plain keys, or they would swallow them
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in later:
        here = (*path, key)
        name = ".".join(map(_key, here))
        for item in [value] if isinstance(value, Mapping) else value:
            lines += ["", f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]", *_table(item, here)]
    return lines


def _is_table_list(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"a manifest cannot hold {value!r}")


def manifest(plugin_id: str, **changes: Any) -> dict[str, Any]:
    """The smallest valid manifest of a plugin, with keys changed or added. The package is the id with underscores."""
    return {
        "manifest": 1,
        "id": plugin_id,
        "summary": f"Throw-away plugin {plugin_id}",
        "module": f"{plugin_id.replace('-', '_')}.plugin",
        "api": ">=1.0,<2",
        "license": "Apache-2.0",
        **changes,
    }


def write_plugin(folder: Path, table: Mapping[str, Any] | str, files: Mapping[str, str]) -> Path:
    """Write a plugin package: ``llmasos.toml`` from a table (or its text) and the files, by name inside the folder.

    Returns the folder, which is the argument of ``--plugin``.
    """
    sources = {
        "__init__.py": "",
        MANIFEST_FILE: table if isinstance(table, str) else toml_text(table),
        **files,
    }
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def install_plugin(
    package: Path,
    site: Path,
    *,
    plugin_id: str | None = None,
    distribution: str | None = None,
    version: str = "1.0.0",
) -> Path:
    """Make an installed distribution of a plugin package in the folder ``site``; returns its ``dist-info`` folder.

    ``plugin_id`` (the entry point's name) is by default the ``id`` in the package's manifest, and ``distribution`` is by
    default the plugin id.
    """
    if plugin_id is None:
        plugin_id = str(tomllib.loads((package / MANIFEST_FILE).read_text(encoding="utf-8"))["id"])
    name = distribution or plugin_id
    target = site / package.name
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    info = site / f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: throw-away plugin\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: llmasos.testing\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": "llmasos.testing\n",
        "entry_points.txt": f"[llmasos.plugins]\n{plugin_id} = {package.name}:{MANIFEST_FILE}\n",
    }
    for file, text in texts.items():
        (info / file).write_text(text, encoding="utf-8")
    rows = [
        _record_row(path, site) for path in sorted([*target.rglob("*"), *info.iterdir()]) if path.is_file()
    ]
    (info / "RECORD").write_text("".join([*rows, f"{info.name}/RECORD,,\n"]), encoding="utf-8")
    return info


def _record_row(path: Path, site: Path) -> str:
    data = path.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path.relative_to(site).as_posix()},sha256={digest},{len(data)}\n"


def environment(
    root: Path, sites: Sequence[Path] = (), base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment variables for a subprocess: own cache, configuration and data under ``root``, ``sites`` found as installed.

    Starts from ``base`` (by default this process's variables) without any ``LLMASOS_*`` setting of the user's.
    """
    variables = {
        k: v for k, v in (os.environ if base is None else base).items() if not k.startswith("LLMASOS_")
    }
    paths = [*map(str, sites), *filter(None, [variables.get("PYTHONPATH", "")])]
    return {
        **variables,
        **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        "LLMASOS_CACHE": str(root / "cache"),
        "LLMASOS_CONFIG": str(root / "config"),
        "LLMASOS_DATA": str(root / "data"),
        "HF_HUB_OFFLINE": "1",
        # Files appear and change within the time stamp of a .pyc file here.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class PluginBuilder:
    """What the ``tmp_plugin`` fixture gives: call it for a plugin folder, or ``install`` one for subprocesses.

    ::

        folder = tmp_plugin("acme-hello", source, hooks=["eval_started"])
        hub = Hub(plugins=[folder])

        tmp_plugin.install(folder)
        subprocess.run(["llmasos", "plugin", "list"], env=tmp_plugin.environment())
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        #: The folder that installed throw-away distributions lie in.
        self.site = root / "site"

    def __call__(
        self,
        plugin_id: str = "acme-demo",
        source: str = "",
        *,
        files: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Path:
        """Write a plugin: ``source`` is its ``plugin.py``, ``changes`` are keys of its manifest."""
        table = manifest(plugin_id, **changes)
        folder = self.root / "plugins" / plugin_id.replace("-", "_")
        return write_plugin(folder, table, {"plugin.py": source, **(files or {})})

    def install(self, package: Path, *, version: str = "1.0.0", distribution: str | None = None) -> Path:
        """Make an installed distribution of a plugin folder; returns the folder to put on a process's path."""
        install_plugin(package, self.site, version=version, distribution=distribution)
        return self.site

    def forget(self) -> None:
        """Take modules that were imported from here out of ``sys.modules``: another test may use the same names."""
        inside = str(self.root.resolve()) + os.sep
        for name, module in list(sys.modules.items()):
            # Some modules make up any attribute they are asked for, so the type is checked too.
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and os.path.realpath(file).startswith(inside):
                del sys.modules[name]

    def environment(self) -> dict[str, str]:
        """Variables for a subprocess that finds what was installed, with a cache and configuration of its own."""
        return environment(self.root, [self.site])
