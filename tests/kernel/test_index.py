"""Discovery imports nothing, reports instead of raising, and is remembered as long as it is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmasos.kernel import discovery
from llmasos.kernel.index import environment_key, index_file, load_index, read_index
from llmasos.testing.tmp import environment

if TYPE_CHECKING:
    from world import World

BOOBY_TRAP = "raise SystemExit('this was imported')"


def test_discovery_reads_manifests_and_imports_nothing(world: World) -> None:
    world.add("acme-one", provides=[("metric", "wer")], source=BOOBY_TRAP)
    world.file("acme-one", "__init__.py").write_text(BOOBY_TRAP)
    record = world.records()["acme-one"]
    assert record.state == "enabled"
    assert record.version == "1.0.0"
    assert record.provides()[0]["name"] == "wer"
    assert record.path == world.site / "acme_one"
    assert "acme_one" not in sys.modules


def test_the_second_read_comes_from_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("acme-one")
    first = world.records()["acme-one"]

    def scan_again() -> None:
        raise AssertionError("scanned although nothing changed")

    monkeypatch.setattr(discovery, "discover", scan_again)
    again = world.records()["acme-one"]
    assert again.to_json() == first.to_json()


def test_hits_import_neither_metadata_nor_pydantic(world: World) -> None:
    world.add("acme-one")
    code = (
        "import sys; from pathlib import Path; from llmasos.kernel.index import load_index;"
        f"ids = [r.id for r in load_index(Path({str(world.cache)!r}))];"
        "print('acme-one' in ids, sorted({'pydantic', 'importlib.metadata', 'pluggy', 'torch'} & set(sys.modules)))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment(world.root, [world.site]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert outputs[0].startswith("True")
    assert outputs[1] == "True []"


def test_installing_and_removing_is_noticed(world: World) -> None:
    world.add("acme-one")
    assert set(world.records()) == {"acme-one"}
    world.add("acme-two")
    assert set(world.records()) == {"acme-one", "acme-two"}
    for path in (world.site / "acme_two-1.0.0.dist-info").iterdir():
        path.unlink()
    (world.site / "acme_two-1.0.0.dist-info").rmdir()
    world.ids.remove("acme-two")
    assert set(world.records()) == {"acme-one"}


def test_editing_a_manifest_is_noticed(world: World) -> None:
    world.add("acme-one")
    assert world.records()["acme-one"].manifest["summary"] == "Throw-away plugin acme-one"
    path = world.file("acme-one", "llmasos.toml")
    path.write_text(path.read_text().replace("Throw-away", "Much better"))
    assert world.records()["acme-one"].manifest["summary"] == "Much better plugin acme-one"


def test_an_editable_install_is_found_where_its_finder_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("acme-one")
    elsewhere = world.root / "checkout"
    elsewhere.mkdir()
    os.rename(world.site / "acme_one", elsewhere / "acme_one")
    # What a .pth file of an editable install does: its folder is on sys.path, the metadata is elsewhere.
    monkeypatch.syspath_prepend(str(elsewhere))
    assert world.records()["acme-one"].path == elsewhere / "acme_one"
    path = elsewhere / "acme_one" / "llmasos.toml"
    path.write_text(path.read_text().replace("Throw-away", "Edited"))
    assert world.records()["acme-one"].manifest["summary"].startswith("Edited")


def test_a_package_that_appears_later_is_noticed(world: World) -> None:
    world.add("acme-one")
    hidden = world.root / "hidden"
    os.rename(world.site / "acme_one", hidden)
    assert "has no file acme_one/llmasos.toml" in (world.records()["acme-one"].error or "")
    os.rename(hidden, world.site / "acme_one")
    assert world.records()["acme-one"].error is None


@pytest.mark.parametrize(
    "value",
    [
        "acme_one.sub:llmasos.toml",
        "acme_one:other.toml",
        "acme_one",
        "acme_one:",
        ":llmasos.toml",
        "../x:llmasos.toml",
    ],
)
def test_other_entry_points_are_errors(world: World, value: str) -> None:
    world.add("acme-one")
    (world.site / "acme_one-1.0.0.dist-info" / "entry_points.txt").write_text(
        f"[llmasos.plugins]\nacme-one = {value}\n"
    )
    record = world.records()["acme-one"]
    assert record.state == "invalid"
    assert "must be `top_level_package:llmasos.toml`" in record.why


def test_two_distributions_with_one_id_are_both_refused(world: World) -> None:
    world.add("acme-one", distribution="first")
    world.add("acme-one", distribution="second", version="2.0")
    record = world.records()["acme-one"]
    assert record.state == "invalid"
    assert "first 1.0.0 and second 2.0" in record.why


def test_the_first_of_two_copies_of_a_distribution_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("acme-one")
    other = world.root / "other"
    other.mkdir()
    os.rename(world.site, other / "site")
    world.site.mkdir()
    world.add("acme-one", version="9.0")
    monkeypatch.syspath_prepend(str(other / "site"))
    assert world.records()["acme-one"].version == "1.0.0"


@pytest.mark.parametrize("metadata", ["", "\x00", "Name: \n"])
def test_damaged_metadata_does_not_stop_discovery(world: World, metadata: str) -> None:
    world.add("acme-good")
    world.add("acme-bad")
    (world.site / "acme_bad-1.0.0.dist-info" / "METADATA").write_text(metadata)
    assert world.records()["acme-good"].state == "enabled"


def test_an_invalid_manifest_is_one_line(world: World) -> None:
    world.add("acme-one", sumary="x")
    record = world.records()["acme-one"]
    assert record.state == "invalid"
    assert "unknown key `sumary` in the top level, did you mean `summary`?" in record.why
    assert record.provides() == []


def test_without_a_cache_folder_everything_works(world: World) -> None:
    world.add("acme-one")
    blocked = world.root / "file"
    blocked.write_text("")
    cache = blocked / "cache"
    assert "acme-one" in {record.id for record in load_index(cache)}
    assert not cache.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"key": 1}', '{"key": {}, "stamps": [], "plugins": {}}', "\ud800"]
)
def test_a_damaged_index_is_rebuilt(world: World, content: str) -> None:
    world.add("acme-one")
    world.records()
    path = index_file(world.cache)
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert world.records()["acme-one"].state == "enabled"
    assert read_index(path, environment_key()) is not None


def test_an_index_with_the_right_key_and_wrong_rows_is_a_miss(world: World) -> None:
    world.add("acme-one")
    world.records()
    path = index_file(world.cache)
    stored = json.loads(path.read_bytes().partition(b"\n")[2])
    stored["plugins"] = [{"plugin_id": "acme-one", "surprise": 1}]
    text = json.dumps(stored).encode()
    path.write_bytes(b"%08x\n" % zlib.crc32(text) + text)
    assert world.records()["acme-one"].version == "1.0.0"


def test_an_index_whose_values_were_damaged_is_a_miss(world: World) -> None:
    world.add("acme-one", provides=[("metric", "wer")])
    world.records()
    path = index_file(world.cache)
    damaged = path.read_bytes().replace(b'"provides":[{', b'"provides":{"x":[{', 1).replace(b"}]", b"}]}", 1)
    path.write_bytes(damaged)
    assert world.records()["acme-one"].provides()[0]["name"] == "wer"


def test_environments_that_share_a_cache_have_their_own_index(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_file(world.cache)
    monkeypatch.syspath_prepend(str(world.root / "another"))
    assert index_file(world.cache) != first


def test_no_temporary_file_is_left(world: World) -> None:
    world.records()
    assert [path.suffix for path in index_file(world.cache).parent.iterdir()] == [".json"]


def test_a_failing_write_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmasos.kernel.atomic import write_atomic

    path = tmp_path / "file"
    write_atomic(path, b"old")

    def broken(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
