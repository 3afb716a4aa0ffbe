"""The index of a folder of task files: what it knows, and that it is never older than the files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from llmasos.api import InputError
from llmasos_evals.tasks import index as module
from llmasos_evals.tasks import sources
from llmasos_evals.tasks.index import FolderIndex, open_index

COUNT = module.WORTH_KEEPING + 6
LONG_AGO = time.time_ns() - 3600 * 10**9


def settle(folder: Path) -> None:
    """Make everything look as if it had last changed an hour ago."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tasks"
    for number in range(COUNT):
        place = root / f"family{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"t{number:02}.yaml").write_text(
            f"include: _template\ntask: t{number:02}\ntag: [all, f{number % 3}]\ndoc_to_text: !function utils.text\n"
        )
        (place / "_template").write_text(
            "output_type: multiple_choice\ndataset_path: org/set\ndataset_name: one\nnum_fewshot: 3\n"
        )
    (root / "every.yaml").write_text("group: every\ngroup_alias: All of them\ntask: [all]\n")
    settle(root)
    return root


class Readings:
    """How many files were read since the last look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read = sources.summaries_of

        def counted(path: str, reader: Any) -> Any:
            self.count += 1
            return read(path, reader)

        monkeypatch.setattr(sources, "summaries_of", counted)

    def since(self) -> int:
        seen, self.count = self.count, 0
        return seen


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(index: FolderIndex) -> list[str]:
    return [entry.name for found in index.by_name.values() for entry in found]


def test_what_an_index_knows(folder: Path, cache: Path) -> None:
    for index in (open_index(folder, cache), open_index(folder, cache)):
        (entry,) = index.find("t07")
        assert entry.path == folder / "family1" / "t07.yaml"
        summary = entry.summary
        assert summary is not None
        assert (summary.output_type, summary.dataset_path, summary.dataset_name, summary.num_fewshot) == (
            "multiple_choice",
            "org/set",
            "one",
            3,
        )
        (group,) = index.find("every")
        assert group.kind == "group"
        assert group.summary is not None
        assert group.summary.description == "All of them"
        (tag,) = index.find("f1")
        assert (tag.kind, tag.members[:2]) == ("tag", ("t01", "t04"))
        assert index.find("t") == []
        assert len(names(index)) == COUNT + 1 + 4


def test_few_look_ups_and_many_find_the_same(folder: Path, cache: Path) -> None:
    wanted = ["every", "all", "f2", *(f"t{number:02}" for number in range(20)), "nothing", "t0"]
    asked = open_index(folder, cache)
    first = {name: open_index(folder, cache).find(name) for name in wanted}
    assert {name: asked.find(name) for name in wanted} == first


def test_a_part_of_a_name_finds_whole_tags(folder: Path, cache: Path) -> None:
    index = open_index(folder, cache)
    found = {entry.name: entry for entry in index.containing("f1")}
    assert found["f1"].members == index.find("f1")[0].members
    assert {"t01", "t04", "all"} <= set(found)
    assert "t00" not in found
    assert list(index.containing('"')) == []


def test_nothing_is_read_twice(folder: Path, cache: Path, readings: Readings) -> None:
    open_index(folder, cache)
    assert readings.since() == COUNT + 1
    assert len(names(open_index(folder, cache))) == COUNT + 5
    assert readings.since() == 0


def test_a_changed_file_is_read_again_and_no_other(folder: Path, cache: Path, readings: Readings) -> None:
    open_index(folder, cache)
    readings.since()
    path = folder / "family0" / "t00.yaml"
    path.write_text("task: other\noutput_type: generate_until\n")
    os.utime(path, ns=(LONG_AGO + 5, LONG_AGO + 5))
    index = open_index(folder, cache)
    assert readings.since() == 1
    assert index.find("t00") == []
    assert [entry.kind for entry in index.find("other")] == ["task"]
    assert "t00" not in index.find("all")[0].members


def test_same_size_and_another_time_is_a_change(folder: Path, cache: Path) -> None:
    open_index(folder, cache)
    path = folder / "family0" / "t00.yaml"
    path.write_text(path.read_text().replace("t00", "u00"))
    assert open_index(folder, cache).find("u00")


def test_new_removed_and_renamed_files(folder: Path, cache: Path) -> None:
    open_index(folder, cache)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "new.yaml").write_text("task: new")
    (folder / "family1" / "t01.yaml").unlink()
    (folder / "family2" / "t02.yaml").rename(folder / "family2" / "t02.yaml.off")
    index = open_index(folder, cache)
    assert [bool(index.find(name)) for name in ("new", "t01", "t02", "t03")] == [True, False, False, True]


def test_a_changed_template_changes_who_includes_it(folder: Path, cache: Path, readings: Readings) -> None:
    open_index(folder, cache)
    readings.since()
    (folder / "family1" / "_template").write_text("output_type: loglikelihood\ndataset_path: else/where")
    index = open_index(folder, cache)
    assert readings.since() == len(range(1, COUNT, 3))
    for name, expected in (("t01", "else/where"), ("t00", "org/set")):
        summary = index.find(name)[0].summary
        assert summary is not None
        assert summary.dataset_path == expected
    (folder / "family1" / "_template").unlink()
    assert "_template" in next(iter(open_index(folder, cache).broken.values()))
    (folder / "family1" / "_template").write_text("dataset_path: here/again")
    assert open_index(folder, cache).broken == {}


def test_a_file_that_may_still_change_unseen_is_not_trusted(folder: Path, cache: Path) -> None:
    path = folder / "family0" / "t00.yaml"
    now = time.time_ns()
    path.write_text(path.read_text().replace("t00", "v00"))
    os.utime(path, ns=(now, now))
    assert open_index(folder, cache).find("v00")
    path.write_text(path.read_text().replace("v00", "w00"))
    os.utime(path, ns=(now, now))  # a file system with coarse times
    assert open_index(folder, cache).find("w00")


def kept(cache: Path) -> Path:
    (path,) = (cache / "task-index").iterdir()
    return path


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other version", "noise", "other place"])
def test_a_damaged_index_is_made_again(folder: Path, cache: Path, damage: str, readings: Readings) -> None:
    whole = sorted(names(open_index(folder, cache)))
    path = kept(cache)
    raw = path.read_bytes()
    head, _, body = raw.partition(b"\n")
    path.write_bytes(
        {
            "cut": raw[:-40],
            "flip": raw.replace(b'"t07"', b'"t70"'),
            "empty": b"",
            "other version": head.replace(b"index/", b"index/0") + b"\n" + body,
            "noise": b"\xff\x00" * 50,
            "other place": raw.replace(str(folder).encode(), str(folder.parent / "elsewhere").encode()),
        }[damage]
    )
    readings.since()
    assert sorted(names(open_index(folder, cache))) == whole
    assert readings.since() == COUNT + 1
    open_index(folder, cache)
    assert readings.since() == 0


def test_what_is_small_is_not_kept(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "one.yaml").write_text("task: one")
    assert open_index(tmp_path, cache).find("one")
    assert not (cache / "task-index").exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert open_index(folder, blocked).find("t01")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_index(tmp_path / "gone", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: a\ngroup: g\nclass: !function m.C", [("a", "task")]),
        ("group: g\ntask: [a]", [("g", "group")]),
        ("group: [g]\ntask: a", [("a", "task")]),
        ("task: a\ntag: x", [("a", "task"), ("x", "tag")]),
        ("task: a\ntag: [x, 3, y]", [("a", "task"), ("x", "tag"), ("y", "tag")]),
        ("just: settings", []),
        ("task: [a, b]", []),
        ("<<: {task: a}\nnum_fewshot: 2", [("a", "task")]),
        ("task: a\ntask: b", [("b", "task")]),
        ('"task": "a\\u0020b"', [("a b", "task")]),
    ],
)
def test_names_and_kinds(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    (tmp_path / "file.yaml").write_text(text)
    index = open_index(tmp_path, None)
    assert [(entry.name, entry.kind) for found in index.by_name.values() for entry in found] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "not valid YAML"),
        ("!!python/object:os.X {task: t}", "is a mapping of fields"),
        ("task: !!python/object/apply:os.system ['true']", "asks for a Python object"),
        ("task: !!python/name:os.system ''", "asks for a Python object"),
        ("- task", "a mapping"),
        ("include: file.yaml\ntask: a", "in a circle"),
        ("include: gone", "cannot read"),
        ("include: [3]\ntask: a", "a path or a list of paths"),
        ("a: " + "[" * 200_000, "nested more than"),
        ("- " * 200_000, "nested more than"),
        ("\n".join(" " * depth + "a:" for depth in range(900)), "nested more than"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file.yaml").write_text(text)
    (error,) = open_index(tmp_path, None).broken.values()
    assert message in error


def test_odd_file_names_and_links(tmp_path: Path) -> None:
    root = tmp_path / "tasks"
    (root / "__pycache__").mkdir(parents=True)
    (root / "__pycache__" / "hidden.yaml").write_text("task: hidden")
    (root / "ünï \u2028 x.yaml").write_text("task: odd")
    (root / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    (root / "loop").symlink_to(root)
    index = open_index(root, None)
    assert names(index) == ["odd"]
    assert json.loads(index.lines[0])[2] is None
