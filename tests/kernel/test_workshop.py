"""The store of finished work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmasos.errors import UsageError
from llmasos.kernel.workshop import Workshop, digest_of, digest_range, publish

KEY = "ab" + "0" * 62


def make(folder: Path) -> dict[str, Any]:
    """A result with one file."""
    (folder / "data").write_text("result")
    return {"count": 3}


def test_a_result_is_found_again(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    assert workshop.result(KEY) is None
    result = workshop.commit(KEY, make)
    assert result == workshop.result(KEY)
    assert result["count"] == 3
    assert result["files"]["data"] == {
        "sha256": digest_range(workshop.path(KEY) / "data", 0, None),
        "bytes": 6,
    }


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)

    def fail(folder: Path) -> dict[str, Any]:
        make(folder)
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        workshop.commit(KEY, fail)
    assert workshop.result(KEY) is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_whoever_comes_second_keeps_what_is_there(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.commit(KEY, make)
    inode = (workshop.path(KEY) / "data").stat().st_ino
    workshop.commit(KEY, make)
    assert (workshop.path(KEY) / "data").stat().st_ino == inode


@pytest.mark.parametrize("damage", ["shorter", "gone", "no result", "bad result"])
def test_damaged_results_are_made_again(tmp_path: Path, damage: str) -> None:
    workshop = Workshop(tmp_path)
    expected = workshop.commit(KEY, make)
    folder = workshop.path(KEY)
    if damage == "shorter":
        (folder / "data").chmod(0o644)
        (folder / "data").write_text("res")
    elif damage == "gone":
        (folder / "data").unlink()
    elif damage == "no result":
        (folder / "result.json").unlink()
    else:
        (folder / "result.json").write_text("[1]")
    assert workshop.result(KEY) is None
    assert workshop.commit(KEY, make) == expected
    assert workshop.result(KEY) == expected


def test_finished_files_cannot_be_edited_by_mistake(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.commit(KEY, make)
    assert (workshop.path(KEY) / "data").stat().st_mode & 0o222 == 0


def test_one_run_at_a_time(tmp_path: Path) -> None:
    first, second = Workshop(tmp_path / ".work"), Workshop(tmp_path / ".work")
    with first.locked(), pytest.raises(UsageError, match="another run"), second.locked():
        pass
    with second.locked():
        pass


def test_publishing_replaces_and_falls_back_to_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    source.write_text("new")
    target.parent.mkdir()
    target.write_text("old")
    publish(source, target)
    assert target.samefile(source)
    target.unlink()

    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    publish(source, target)
    assert target.read_text() == "new"
    assert not target.samefile(source)


def test_digests() -> None:
    assert digest_of({"b": 1, "a": [2]}) == digest_of({"a": [2], "b": 1})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})


def test_digest_of_a_range(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").write_bytes(b"345")
    assert digest_range(tmp_path / "a", 3, 6) == digest_range(tmp_path / "b", 0, None)
