"""Fifty installed plugins, and processes that see them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmasos.testing.sources import install_generated
from llmasos.testing.tmp import environment

PLUGINS = 50
KINDS = (
    "metric",
    "task",
    "tokenizer",
    "weight_loader",
    "model_architecture",
    "data_source",
    "processor",
    "command",
)


class Crowd:
    """An environment with fifty plugins of eight contributions each; importing any of them ends the process."""

    def __init__(self, root: Path) -> None:
        self.ids = [f"acme-crowd-{number:02}" for number in range(PLUGINS)]
        for number, plugin_id in enumerate(self.ids):
            provides = [(kind, f"{kind.replace('_', '-')}-{number:02}") for kind in KINDS]
            site = install_generated(
                root, plugin_id, provides=provides, source="raise SystemExit('a plugin was imported')"
            )
        self.environ = environment(root, [site])
        # Bytecode of everything measured lies in one fresh place, so that the first run warms what the others measure,
        # whether or not this environment may write next to the sources.
        self.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environ["PYTHONPYCACHEPREFIX"] = str(root / "bytecode")

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -c code arguments``."""
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            check=True,
        )

    def cpu_seconds(self, code: str, arguments: Sequence[str]) -> float:
        """User and system time of one run of ``python -c code arguments``, its output thrown away."""
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        command = [sys.executable, "-c", code, *arguments]
        child = os.posix_spawn(sys.executable, command, self.environ, file_actions=quiet)
        _, status, usage = os.wait4(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, arguments
        return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    return Crowd(tmp_path_factory.mktemp("crowd"))
