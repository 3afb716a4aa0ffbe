"""The page of differences lists exactly the tests there are, and each of those names a thread or a version."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "lm-eval-differences.md").read_text(encoding="utf-8")
FILES = ("test_peer_defects.py", "test_peer_defects_runs.py")


def functions_of(name: str) -> dict[str, str]:
    tree = ast.parse((ROOT / "tests" / "plugins" / "evals" / name).read_text(encoding="utf-8"))
    return {
        node.name: ast.get_docstring(node) or ""
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_defect_has_a_line_and_every_line_a_test() -> None:
    tests = {name for file in FILES for name in functions_of(file)} - {"test_questions_are_there"}
    assert set(re.findall(r"`(test_\w+)`", PAGE)) == tests


def test_every_test_says_whose_defect_it_is() -> None:
    peers = re.compile(r"#\d+|lm-eval|lighteval|inspect|vLLM")
    for file in FILES:
        for name, text in functions_of(file).items():
            assert peers.search(text) or name == "test_questions_are_there", name


def test_the_oracle_shows_what_the_page_says_it_shows() -> None:
    marked = len(re.findall(r"^\| • \|", PAGE, re.M))
    text = (ROOT / "tests" / "parity" / "test_peer_oracle.py").read_text(encoding="utf-8")
    # One more: its classes fail with examples, which has no counterpart here.
    assert len(re.findall(r"^def test_", text, re.M)) == marked + 1
