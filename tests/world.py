"""The fixture ``world``: throw-away plugins installed below ``tmp_path``, found through ``sys.path``, forgotten afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos.kernel.hub import KernelHub
from llmasos.kernel.index import load_index
from llmasos.kernel.record import PluginRecord
from llmasos.testing.sources import install_generated, write_generated


class World:
    """Installs plugins and makes Hubs that see only those."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.site = root / "site"
        self.site.mkdir()
        self.cache = root / "cache"
        self.config = root / "config"
        self.ids: list[str] = []
        self.warnings: list[str] = []
        self.traces: list[str] = []
        monkeypatch.syspath_prepend(str(self.site))

    def add(self, plugin_id: str, **options: Any) -> str:
        """Install a generated plugin (see llmasos.testing.sources); returns its id."""
        install_generated(self.root, plugin_id, **options)
        self.ids.append(plugin_id)
        return plugin_id

    def local(self, plugin_id: str, **options: Any) -> Path:
        """Write a plugin folder that is not installed."""
        return write_generated(self.root / "local", plugin_id, **options)

    def promise(self, plugin_id: str, text: str) -> None:
        """Add tables to a plugin's manifest, in place of the promises it has."""
        path = self.file(plugin_id, "llmasos.toml")
        lines = [line for line in path.read_text().splitlines() if not line.startswith("provides")]
        path.write_text("\n".join(lines) + "\n" + text)

    def hub(self, **options: Any) -> KernelHub:
        """A Hub of exactly the installed throw-away plugins."""
        settings: dict[str, Any] = {
            "cache_dir": self.cache,
            "config_dir": self.config,
            "only": self.ids,
            "warn": self.warnings.append,
            "trace": self.traces.append,
        }
        return KernelHub(**{**settings, **options})

    def records(self) -> dict[str, PluginRecord]:
        """What the index says of the throw-away plugins."""
        return {
            record.id: record
            for record in load_index(self.cache)
            if record.package.startswith(str(self.root)) or record.id in self.ids
        }

    def file(self, plugin_id: str, name: str = "plugin.py") -> Path:
        """A file of an installed plugin."""
        return self.site / plugin_id.replace("-", "_") / name


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in [name for name in os.environ if name.startswith("LLMASOS_")]:
        monkeypatch.delenv(name)
    # Source files are rewritten within the resolution of a .pyc time stamp.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield World(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]
