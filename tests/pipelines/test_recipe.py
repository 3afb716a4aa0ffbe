"""Pipeline files: the schema, and where a message points."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos.errors import InputError
from llmasos.pipelines.recipe import read_recipe

GOOD = """\
version: 1
source:
  kind: text
  paths: [a.txt]
steps:
  - unicode
  - kind: gopher
    min_words: 30
output:
  compression: gzip
"""


def write(folder: Path, text: str) -> Path:
    """A pipeline file."""
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    assert recipe.name == "p"
    assert recipe.root == tmp_path
    assert [(part.kind, dict(part.options)) for part in recipe.sources] == [("text", {"paths": ["a.txt"]})]
    assert [(part.kind, dict(part.options)) for part in recipe.steps] == [
        ("unicode", {}),
        ("gopher", {"min_words": 30}),
    ]
    assert recipe.steps[1].place.endswith("p.yaml:7")
    assert recipe.output.compression == "gzip"


def test_several_sources_and_no_steps(tmp_path: Path) -> None:
    text = "version: 1\nsource:\n  - {kind: text, paths: a}\n  - {kind: jsonl, paths: b}\n"
    recipe = read_recipe(write(tmp_path, text))
    assert [part.kind for part in recipe.sources] == ["text", "jsonl"]
    assert recipe.sources[1].place.endswith("p.yaml:4")
    assert recipe.steps == ()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (GOOD.replace("steps:", "stpes:"), 5, "unknown key `stpes`, did you mean `steps`?"),
        (GOOD.replace("version: 1", "version: 2"), 1, "`version` is 2"),
        (GOOD.replace("version: 1", ""), None, "`version` is missing"),
        (GOOD.replace("kind: gopher", "knd: gopher"), 7, "`kind` is missing, did you mean `kind`?"),
        (GOOD.replace("- unicode", "- 7"), 6, "expected a table with `kind`"),
        (
            GOOD.replace("compression: gzip", "compresion: gzip"),
            9,
            "unknown option `compresion`, did you mean",
        ),
        (GOOD.replace("gzip", "gzipp"), 9, "did you mean `gzip`?"),
        ("version: 1\nsource: []\n", 2, "`source` is empty"),
        ("version: 1\n", None, "`source` is missing"),
        ("version: 1\nsource: {kind: [}\n", 2, "not valid YAML"),
        ("- a\n", None, "a pipeline file holds a table"),
        ("", None, "a pipeline file holds a table"),
        ("version: 1\nsource: {kind: text}\nsteps: {kind: unicode}\n", 3, "`steps` is not a list"),
        ("version: 1\nsource: !!python/object:os.system {}\n", 2, "not valid YAML"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert caught.value.hint


@pytest.mark.parametrize("data", [None, b"\xff\xfe\x00"])
def test_a_missing_or_unreadable_file(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "p.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=r"p\.yaml"):
        read_recipe(path)
