"""A small model, made once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos_ngram.train import Recipe, train

PACKAGE = Path(__file__).resolve().parents[1] / "llmasos_ngram"

TEXT = """The cat sat on the mat and the dog sat on the log. The cat saw the dog, and the dog saw the cat.
The rain fell on the mat, on the log, on the cat and on the dog; the cat and the dog went in.
A naïve cat is not a café. "Is it?" said the dog. The cat said that the rain was on the mat.
"""


class Silence:
    def phase(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, amount: int = 1) -> None:
        pass

    def warn(self, message: str) -> None:
        raise AssertionError(message)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file."""
    file = tmp_path_factory.mktemp("corpus") / "cats.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def folder(corpus: Path) -> Path:
    """A model repository of order 4."""
    made = corpus.parent / "cats"
    train([corpus], made, Recipe(order=4, least_count=1, by_line=True), Silence())
    return made


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with far more words than bytes, as real ones have."""
    made = tmp_path_factory.mktemp("wide")
    text = " ".join(f"word{(i * i) % 2003} word{i % 1999}" for i in range(4000))
    (made / "text.txt").write_text(text, encoding="utf-8")
    train([made / "text.txt"], made / "model", Recipe(order=4, least_count=1), Silence())
    return made / "model"


@pytest.fixture
def cats(hub):
    """A hub that sees the plugin."""
    return hub(plugins=[PACKAGE])
