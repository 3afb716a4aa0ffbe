"""Which files belong to which split: as the ``datasets`` library has it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_cases import GOLDENS, LAYOUTS, Laid

from llmasos import Hub
from llmasos.api import InputError, NotFound
from llmasos_evals.datasets.layout import find_layout, match, read_card
from llmasos_evals.datasets.repository import CONVERTED, Listing, Repository, RepositoryPlace

_GOLDENS = json.loads(GOLDENS.read_text(encoding="utf-8"))["layouts"]


@pytest.mark.parametrize("laid", LAYOUTS, ids=lambda laid: laid.name)
def test_files_are_where_the_library_has_them(laid: Laid) -> None:
    names = sorted([*laid.files, *(["README.md"] if laid.card else [])])
    found = find_layout(names, read_card(laid.card), laid.config, what="it")
    assert {split: list(files) for split, files in found.splits.items()} == _GOLDENS[laid.name]["files"]
    assert (found.config or "default") == _GOLDENS[laid.name]["config"].partition("-data_dir")[0]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.csv", "b.json"]),
        ("**", ["a.csv", "b.json", "d/a.csv", "d/e/c.csv"]),
        ("**/*.csv", ["a.csv", "d/a.csv", "d/e/c.csv"]),
        ("d/**", ["d/a.csv", "d/e/c.csv"]),
        ("./d/*", ["d/a.csv"]),
        ("[!a].json", ["b.json"]),
        (".h/*", [".h/x.csv"]),
        ("(a|b).csv", []),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert match(["a.csv", "b.json", "d/a.csv", "d/e/c.csv", ".h/x.csv", "README.md"], pattern) == expected


@pytest.mark.parametrize(
    ("names", "card", "config", "message"),
    [
        (["x.bin"], "", None, "no data files that can be read"),
        ([], "", None, "no files"),
        (["x.csv"], "", "en", "has no configuration 'en'"),
        (["x.csv"], "configs: [{config_name: a}, {config_name: b}]", None, "several configurations"),
        (["x.csv"], "configs: [{config_name: a, data_files: y.csv}]", None, "has no file 'y.csv'"),
        (["x.csv"], "configs: 3", None, "is not a list of configurations"),
        (["x.csv"], "configs: [{config_name: a, data_files: {test: 3}}]", None, "not a path or a list"),
        (
            ["x.csv"],
            "configs: [{config_name: a, data_files: [{split: t, path: x.csv}, {split: t, path: x.csv}]}]",
            None,
            "listed twice",
        ),
    ],
)
def test_refused_layouts(names: list[str], card: str, config: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_layout(names, read_card(f"---\n{card}\n---\n"), config, what="it")


@pytest.mark.parametrize(
    "text",
    ["", "no head", "---\nopen", "---\n[\n---\n", "---\n- a\n---\n", "---\n" + "[" * 99999 + "\n---\n"],
)
def test_cards_that_say_nothing(text: str) -> None:
    assert read_card(text) == {}


# ---- loading scripts ------------------------------------------------------------------------------------------------


class Shelved(Repository):
    """A repository whose listing and files are here, without a server."""

    def __init__(self, files: dict[str, dict[str, str]], revision: str, root: Path) -> None:
        super().__init__("ann/old", revision, Hub(offline=True), "task t")
        self.files = files
        self.root = root

    @property
    def listing(self) -> Listing:  # type: ignore[override]
        if self.revision not in self.files:
            raise NotFound(f"no revision {self.revision}")
        return Listing(self.repo, self.revision, "c" * 40, tuple(sorted(self.files[self.revision])))

    offline = False

    def fetch(self, names: Any) -> list[Path]:
        found = []
        for name in names:
            path = self.root / self.revision / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.files[self.revision][name])
            found.append(path)
        return found


def test_a_script_gives_way_to_the_files_that_were_made_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "main": {"old.py": "raise SystemExit", "README.md": "---\nlicense: mit\n---\n"},
        CONVERTED: {"en/test/0000.parquet": "x", "en/test/0001.parquet": "y", "fr/train/0000.parquet": "z"},
    }
    monkeypatch.setattr(
        "llmasos_evals.datasets.repository.Repository",
        lambda repo, revision, hub, what: Shelved(files, revision, tmp_path),
    )
    place = RepositoryPlace(Shelved(files, "main", tmp_path), "en")
    assert (list(place.splits), place.format) == (["test"], "parquet")
    assert [path.name for path in place.paths("test")] == ["0000.parquet", "0001.parquet"]
    assert place.origin["config"] == "en"
    with pytest.raises(InputError, match="no configuration 'de'"):
        RepositoryPlace(Shelved(files, "main", tmp_path), "de")
    del files[CONVERTED]
    with pytest.raises(InputError, match=r"a loading script \(old\.py\), which is code and is not run"):
        RepositoryPlace(Shelved(files, "main", tmp_path), "en")


def test_a_server_that_names_files_outside_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    class Api:
        def dataset_info(self, *_: Any, **__: Any) -> Any:
            names = ["data.csv", "../../secret.csv"]
            siblings = [type("Sibling", (), {"rfilename": name})() for name in names]
            return type("Info", (), {"sha": "a" * 40, "siblings": siblings})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub = Hub(cache_dir=tmp_path, config_dir=tmp_path, offline=False)
    with pytest.raises(InputError, match="names files outside itself"):
        _ = Repository("ann/evil", None, hub, "task t").listing
