"""docs/tutorials/publish-a-plugin.md, followed from top to bottom on a new machine with a new registry."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from journey_machines import CHECKOUT, EXAMPLE, Machine
from registries import Server

sys.path.append(str(Path(__file__).resolve().parents[1] / "docs"))
from page import Reader, blocks

pytest.importorskip("torch", reason="needs the extra `torch`")

PAGE = "tutorials/publish-a-plugin.md"


def test_the_page_works(
    start_server: Callable[..., Server], llmasos_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = start_server()
    reader = Machine(tmp_path / "reader", llmasos_wheel, registry.url, registry.admin_token)
    (reader.work / "examples").mkdir()
    # A copy: building leaves files beside the sources.

    shutil.copytree(EXAMPLE, reader.work / "examples" / EXAMPLE.name)
    (reader.work / "docs").symlink_to(CHECKOUT / "docs")
    for name in ("HF_HUB_OFFLINE", "LLMASOS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    # The page is tested without an index: the build uses the setuptools at hand.
    building = {"UV_NO_BUILD_ISOLATION": "1", "UV_OFFLINE": "1", "UV_PYTHON": sys.executable}
    commands = {"llmasos": [str(reader.python.with_name("llmasos"))], "python": [str(reader.python)]}
    assert Reader(reader.work, commands, reader.environ | building).follow(PAGE) >= 12


def test_every_block_is_run() -> None:
    """Blocks without a language are for the reader's own registry; the others are acted on."""
    for block in blocks(PAGE):
        assert block.language in ("console", "text", "python"), block
