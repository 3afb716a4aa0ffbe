"""Local plugins: a folder, no packaging, sys.path left alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmasos.errors import ManifestError, PluginLoadError, UsageError
from llmasos.kernel.local import read_folder
from llmasos.testing.sources import plugin_source, provides_tables
from llmasos.testing.tmp import manifest, write_plugin

if TYPE_CHECKING:
    from world import World

METRIC = [("metric", "wer")]


def write(folder: Path, module: str, files: dict[str, str]) -> Path:
    table = manifest("acme-local", module=module, provides=provides_tables(METRIC), hooks=[])
    write_plugin(folder, table, files)
    if "__init__.py" not in files:
        (folder / "__init__.py").unlink()
    return folder


LAYOUTS = {
    "package": ("acme_pkg.plugin", {"__init__.py": "", "plugin.py": plugin_source(METRIC)}),
    "namespace": ("acme_pkg.plugin", {"plugin.py": plugin_source(METRIC)}),
    "module": ("acme_loose", {"acme_loose.py": plugin_source(METRIC)}),
    "inner package": (
        "acme_inner.plugin",
        {"acme_inner/__init__.py": "", "acme_inner/plugin.py": plugin_source(METRIC)},
    ),
    "inner namespace": ("acme_inner.plugin", {"acme_inner/plugin.py": plugin_source(METRIC)}),
    "the package itself": ("acme_pkg", {"__init__.py": plugin_source(METRIC)}),
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_layouts(world: World, layout: str) -> None:
    module, files = LAYOUTS[layout]
    folder = write(world.root / "acme_pkg", module, files)
    path = list(sys.path)
    with world.hub(plugins=[folder]) as hub:
        assert [provided.full_name for provided in hub.names("metric")] == ["acme-local/wer"]
        assert hub.contribution("metric", "wer").name == "wer"
        assert sys.path == path
        info = hub.plugins_used()[0]
        assert (info.id, info.version, info.path) == ("acme-local", "local", folder)
    assert module not in sys.modules
    assert module.partition(".")[0] not in sys.modules


def test_two_hubs_may_use_the_same_folder(world: World) -> None:
    folder = write(world.root / "acme_pkg", *LAYOUTS["package"])
    with world.hub(plugins=[folder]) as first, world.hub(plugins=[folder]) as second:
        assert first.contribution("metric", "wer").name == "wer"
        first.close()
        assert second.contribution("metric", "wer").name == "wer"


def test_one_after_the_other_see_their_own_files(world: World) -> None:
    for number in range(2):
        source = plugin_source(METRIC).replace("json:dumps", f"json:dumps{number}")
        folder = write(
            world.root / str(number) / "acme_pkg", "acme_pkg.plugin", {"__init__.py": "", "plugin.py": source}
        )
        with world.hub(plugins=[folder]) as hub:
            assert hub.contribution("metric", "wer").factory == f"json:dumps{number}"


def test_a_name_that_something_else_has_is_refused(world: World) -> None:
    folder = write(world.root / "work", "json", {"json.py": plugin_source(METRIC)})
    with pytest.raises(
        ManifestError, match="the module name `json` of the local plugin acme-local already belongs to"
    ) as caught:
        world.hub(plugins=[folder])
    assert "rename" in (caught.value.hint or "")
    world.add("acme-pkg")
    other = write(world.root / "elsewhere" / "acme_pkg", *LAYOUTS["package"])
    with pytest.raises(ManifestError, match="acme_pkg"):
        world.hub(plugins=[other])


def test_the_folder_of_a_project_leads_to_its_package(tmp_path: Path) -> None:
    write_plugin(tmp_path / "project" / "acme_local", manifest("acme-local"), {})
    with pytest.raises(ManifestError) as refused:
        read_folder(tmp_path / "project")
    assert refused.value.hint == f"try {tmp_path / 'project' / 'acme_local'}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.write_text("x"), "is not a folder"),
        (lambda folder: folder.mkdir(), "has no llmasos.toml"),
        (lambda folder: write_plugin(folder, "id = ", {}), "not valid TOML"),
        (
            lambda folder: write_plugin(folder, manifest("acme-local", sumary="x"), {}),
            "did you mean `summary`",
        ),
        (
            lambda folder: write_plugin(folder, manifest("acme-local", module="elsewhere.plugin"), {}),
            "does not hold the module elsewhere.plugin",
        ),
    ],
)
def test_what_is_named_fails_hard(world: World, make: object, message: str) -> None:
    folder = world.root / "named"
    assert callable(make)
    make(folder)
    with pytest.raises(ManifestError, match=message):
        world.hub(plugins=[folder])


def test_an_installed_plugin_of_the_same_id_is_a_conflict(world: World) -> None:
    world.add("acme-local")
    folder = write(world.root / "acme_pkg", *LAYOUTS["package"])
    with pytest.raises(UsageError, match=r"which acme-local 1\.0\.0 has too"):
        world.hub(plugins=[folder])


def test_naming_an_installed_plugins_own_folder_is_fine(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    assert world.hub(plugins=[world.site / "acme_one"]).contribution("metric", "wer").name == "wer"


def test_no_plugins_and_only_do_not_apply_to_it(world: World) -> None:
    world.add("acme-one")
    folder = write(world.root / "acme_pkg", *LAYOUTS["package"])
    with world.hub(plugins=[folder], no_plugins=True, only=None) as hub:
        assert [record.id for record in hub.inventory] == ["acme-local"]
    with world.hub(plugins=[folder]) as hub:
        assert [record.id for record in hub.inventory] == ["acme-local", "acme-one"]


def test_it_is_not_disabled_by_the_list_but_its_failure_is_hard(world: World) -> None:
    files = {"__init__.py": "", "plugin.py": "raise RuntimeError('local')"}
    folder = write(world.root / "acme_pkg", "acme_pkg.plugin", files)
    world.config.mkdir()
    (world.config / "plugins.json").write_text('{"disabled": ["acme-local"]}')
    with world.hub(plugins=[folder]) as hub, pytest.raises(PluginLoadError, match="RuntimeError: local"):
        hub.collect("metric")


def test_the_hint_for_a_failed_local_plugin_is_one_that_works(world: World) -> None:
    files = {"__init__.py": "", "plugin.py": "raise RuntimeError('local')"}
    folder = write(world.root / "acme_pkg", "acme_pkg.plugin", files)
    with world.hub(plugins=[folder]) as hub, pytest.raises(PluginLoadError) as caught:
        hub.contribution("metric", "wer")
    # `plugin info` and `plugin disable` know installed plugins only.
    assert f"llmasos plugin check {folder}" in (caught.value.hint or "")
    assert hub.inventory.quarantine.ids() == []


def test_an_edited_local_plugin_leaves_quarantine(world: World) -> None:
    files = {"__init__.py": "", "plugin.py": "raise RuntimeError('local')"}
    folder = write(world.root / "acme_pkg", "acme_pkg.plugin", files)
    with world.hub(plugins=[folder]) as hub, pytest.raises(PluginLoadError):
        hub.contribution("metric", "wer")
    (folder / "plugin.py").write_text(plugin_source(METRIC))
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    with world.hub(plugins=[folder]) as hub:
        assert hub.contribution("metric", "wer").name == "wer"


def test_relative_folders(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world.root / "acme_pkg", *LAYOUTS["package"])
    monkeypatch.chdir(world.root / "acme_pkg")
    with world.hub(plugins=["."]) as hub:
        assert hub.contribution("metric", "wer").name == "wer"
