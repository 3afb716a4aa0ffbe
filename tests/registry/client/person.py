"""Somebody with a configuration folder of their own who runs `llmasos` against a registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Done = subprocess.CompletedProcess[str]


class Person:
    """``run`` returns what a command did, ``json`` what it answered; both for the registry at ``url`` with ``token``."""

    def __init__(self, folder: Path, url: str, token: str | None) -> None:
        self.folder = folder
        self.config = folder / "config"
        folder.mkdir(parents=True, exist_ok=True)
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LLMASOS_"))
        }
        self.env = clean | {
            "LLMASOS_CACHE": str(folder / "cache"),
            "LLMASOS_CONFIG": str(self.config),
            "LLMASOS_REGISTRY": url,
            "HF_HOME": str(folder / "hf"),
        }
        if token is not None:
            self.env["LLMASOS_TOKEN"] = token

    def command(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "llmasos", *words]

    def run(self, *words: str, code: int = 0, **env: str) -> Done:
        """Run a command that must end with ``code``."""
        done = subprocess.run(
            self.command(*words),
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        assert self.env.get("LLMASOS_TOKEN", "llma_") not in done.stdout + done.stderr
        return done

    def json(self, *words: str) -> Any:
        """The JSON that a command answers."""
        return json.loads(self.run(*words, "--json").stdout)

    def refused(self, *words: str, code: int = 2) -> str:
        """What a command that must fail says on stderr, notes of progress included."""
        return self.run(*words, code=code).stderr
