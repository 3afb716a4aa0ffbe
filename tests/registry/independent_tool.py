"""The independent tool for signatures of models, in an environment of its own that is kept between runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_signing(kept_folder: Path) -> list[str]:
    """The independent tool, in an environment of its own that is kept between runs."""
    folder = kept_folder / "model-signing-1.1.1"
    program = folder / "bin" / "model_signing"
    if not program.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        # It imports OpenSSL without requiring it.
        done = subprocess.run(
            [*pip, "model-signing==1.1.1", "pyopenssl"],
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        if done.returncode != 0:
            shutil.rmtree(folder)
            pytest.skip(f"model-signing cannot be installed: {done.stderr.strip()[-300:]}")
    return [str(program)]
