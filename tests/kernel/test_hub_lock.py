"""The lock of plugins that are named, whether or not they were used."""

from __future__ import annotations

import llmasos


def test_named_plugins_are_described_without_being_imported(tmp_path):
    with llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "config") as hub:
        found = hub.provenance(plugins=["llmasos-evals", "llmasos-refs", "nobody"])["plugins"]
        assert [plugin["id"] for plugin in found] == ["llmasos-evals", "llmasos-refs"]
        assert all(len(plugin["digest"]) == 64 and plugin["version"] for plugin in found)
        assert hub.provenance()["plugins"] == []
