"""docs/how-to/publish.md, followed from top to bottom against a real server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from person import Person
from registries import Server

sys.path.append(str(Path(__file__).resolve().parents[2] / "docs"))
from page import Reader, blocks

PAGE = "how-to/publish.md"


def test_the_page_works(registry: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    # Not imported here: setuptools minds what else was imported before it.
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools")
    ada = Person(tmp_path / "ada", registry.url, registry.user("ada"))
    for name in ("HF_HUB_OFFLINE", "LLMASOS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    # The page is tested without an index: the build uses the setuptools at hand.
    env = ada.env | {"UV_NO_BUILD_ISOLATION": "1", "UV_OFFLINE": "1", "UV_PYTHON": sys.executable}
    commands = {"llmasos": [sys.executable, "-m", "llmasos"], "python": [sys.executable]}
    assert Reader(ada.folder, commands, env).follow(PAGE) >= 8


def test_every_block_is_run() -> None:
    """Blocks without a language are for the reader's own registry; the others are acted on."""
    for block in blocks(PAGE):
        assert block.file or block.language in ("console", "text", "python", "toml"), block
