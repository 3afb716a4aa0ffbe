"""The pages for plugin authors, run from top to bottom in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from page import Reader, assert_printed, blocks


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A reader with a virtual environment of their own, in which what is installed here is installed too.

    pip may reach no index, and builds with the setuptools at hand: the page is tested offline.
    """
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    # addsitedir, and not a plain line: editable installs are themselves .pth files.
    shared = sysconfig.get_path("purelib")
    (own / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
    folder = tmp_path / "work"
    folder.mkdir()
    settings = {
        "LLMASOS_CACHE": str(tmp_path / "cache"),
        "LLMASOS_CONFIG": str(tmp_path / "config"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this variable as the value of --build-isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    commands = {"llmasos": [str(python), "-m", "llmasos"], "python": [str(python)]}
    return Reader(folder, commands, settings)


def test_first_plugin(reader: Reader) -> None:
    assert reader.follow("tutorials/first-plugin.md") >= 10


def test_test_a_plugin(reader: Reader) -> None:
    assert reader.follow("how-to/test-a-plugin.md") >= 3


@pytest.mark.parametrize("page", ["tutorials/first-plugin.md", "how-to/test-a-plugin.md"])
def test_every_block_is_run(page: str) -> None:
    """A block in a language that the reader does not act on would be a promise nobody checks."""
    for block in blocks(page):
        assert block.file or block.language in ("console", "text", "python"), block


def test_the_reader_notices_what_is_not_printed() -> None:
    assert_printed("a  b\n...\nc ... e\n", "a b\nx\nc d e\n")
    with pytest.raises(AssertionError, match="promises the line"):
        assert_printed("b\na\n", "a\nb\n")
    with pytest.raises(AssertionError, match="promises the line"):
        assert_printed("c ... e\n", "c d f\n")


def test_the_reader_runs_only_what_it_knows(tmp_path: Path) -> None:
    lone = Reader(tmp_path, {"python": [sys.executable]}, {})
    lone.run("python -c 'raise SystemExit(3)'  # exit code 3")
    with pytest.raises(AssertionError, match="ended with 3"):
        lone.run("python -c 'raise SystemExit(3)'")
    with pytest.raises(AssertionError, match="the page runs `rm`"):
        lone.run("rm -r x")
