"""Manifests of plugins, out of a wheel that is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheelsmith import make_plugin_wheel, make_wheel

from llmasos.errors import ManifestError
from llmasos.testing.tmp import manifest, toml_text
from llmasos_registry.wheel.archive import read_wheel
from llmasos_registry.wheel.plugin import read_plugin, read_plugins
from llmasos_registry.wheel.refusal import WheelRefused


def plugin(folder: Path, points: str, files: dict[str, str]) -> Path:
    return make_wheel(folder, "acme", files=files, entry_points=f"[llmasos.plugins]\n{points}\n")


def test_a_plugin_is_read_and_other_wheels_have_none(tmp_path: Path) -> None:
    found = read_plugin(read_wheel(make_plugin_wheel(tmp_path, "acme-ngram", license="MIT")))
    assert found is not None
    assert (found.id, found.license) == ("acme-ngram", "MIT")
    assert read_plugin(read_wheel(make_wheel(tmp_path, "plain"))) is None


def test_a_manifest_below_purelib_is_found(tmp_path: Path) -> None:
    root = "acme-1.0.data/purelib/acme/"
    files = {
        root + "__init__.py": "",
        root + "plugin.py": "",
        root + "llmasos.toml": toml_text(manifest("acme")),
    }
    found = read_plugin(read_wheel(plugin(tmp_path, "acme = acme:llmasos.toml", files)))
    assert found is not None
    assert found.id == "acme"


def test_of_several_plugins_the_one_named_as_the_distribution_leads(tmp_path: Path) -> None:
    files = {}
    for name in ("aaa", "acme"):
        files |= {f"{name}/plugin.py": "", f"{name}/llmasos.toml": toml_text(manifest(name))}
    facts = read_wheel(plugin(tmp_path, "aaa = aaa:llmasos.toml\nacme = acme:llmasos.toml", files))
    assert [item.id for item in read_plugins(facts)] == ["aaa", "acme"]
    found = read_plugin(facts)
    assert found is not None
    assert found.id == "acme"


@pytest.mark.parametrize(
    "points", ["acme = acme:other.toml", "acme = acme", "acme = acme.inner:llmasos.toml"]
)
def test_an_entry_point_of_another_form_is_refused(points: str, tmp_path: Path) -> None:
    with pytest.raises(WheelRefused, match="top_level_package"):
        read_plugin(read_wheel(plugin(tmp_path, points, {"acme/__init__.py": ""})))


def test_what_the_entry_point_promises_is_in_the_wheel(tmp_path: Path) -> None:
    with pytest.raises(WheelRefused, match="is not in the wheel"):
        read_plugin(read_wheel(plugin(tmp_path, "acme = acme:llmasos.toml", {"acme/__init__.py": ""})))
    files = {"acme/__init__.py": "", "acme/llmasos.toml": toml_text(manifest("acme"))}
    with pytest.raises(ManifestError, match=r"acme\.plugin is not in the wheel"):
        read_plugin(read_wheel(plugin(tmp_path, "acme = acme:llmasos.toml", files)))
    with pytest.raises(ManifestError, match="entry point is named"):
        read_plugin(read_wheel(plugin(tmp_path, "other = acme:llmasos.toml", files)))


def test_the_manifest_rules_hold(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="unknown key `sumary`"):
        read_plugin(read_wheel(make_plugin_wheel(tmp_path, "acme", sumary="x")))
