"""Runs a program of this folder in a process of its own, in which Triton interprets its kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(program: str, *arguments: str, interpret: bool = True, cache: Path | None = None) -> Any:
    """What the program prints, read as JSON. ``cache``: where Triton keeps what it compiles."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1" if interpret else "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
    }
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name(program)), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
