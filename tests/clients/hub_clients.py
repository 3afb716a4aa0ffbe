"""Environments with versions of huggingface_hub, and the conformance list run in them.

Each version lives in a virtual environment of its own in the tests' cache, made once by uv from the package registry.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("hub_conformance.py")
#: Rows of the list, in their order.
_FOUND = re.findall(r'^    def row_(\w+).*\n +"""(.*)"""$', PROGRAM.read_text(encoding="utf-8"), re.MULTILINE)
ROWS = tuple(row for row, _ in _FOUND)
DESCRIPTIONS = tuple(what for _, what in _FOUND)
#: What the server of the list is started with: LFS from a megabyte on, and in parts of a megabyte.
SETTINGS = {"max_inline": 1_000_000, "multipart_chunk": 1_000_000}


@dataclass(frozen=True)
class HubClient:
    """A version of huggingface_hub, with or without Xet."""

    version: str
    xet: bool

    @property
    def label(self) -> str:
        """For tables and test names."""
        return f"{self.version} {'Xet' if self.xet else 'LFS'}"


#: From 1.20 on a client sends through Xet whatever the server says, unless its user forbids it.
CLIENTS = (
    HubClient("0.36.2", False),
    HubClient("1.19.0", False),
    HubClient("1.20.1", True),
    HubClient("1.20.1", False),
    HubClient("2.4.0", True),
    HubClient("2.4.0", False),
)


def client_python(version: str, cache: Path) -> Path:
    """The interpreter of an environment with that version; made when it is not there. Skips without the registry."""
    folder = cache / "huggingface-hub" / f"{version}-py{sys.version_info[0]}{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if (folder / "ready").is_file():
        return python
    uv = pytest.importorskip("uv", reason="needs the extra `install`").find_uv_bin()
    for words in (
        ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--python", str(python), f"huggingface_hub=={version}"],
    ):
        done = subprocess.run([uv, *words], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            pytest.skip(f"the package registry did not give huggingface_hub {version}: {done.stderr[-300:]}")
    (folder / "ready").touch()
    return python


def client_environ(url: str, home: Path, token: str | None = None, *, xet: bool = True) -> dict[str, str]:
    """Variables for a client process: this server, a cache of its own, no talk to anybody else."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLMASOS_", "TRANSFORMERS_"))}
    environ |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return environ | ({"HF_TOKEN": token} if token else {})


def run_conformance(server: Any, client: HubClient, work: Path, python: Path) -> dict[str, Mapping[str, Any]]:
    """Run the list with the client in the environment of ``python``; {row: {"outcome", "detail", "seconds", "what"}}."""
    user = "user-" + re.sub(r"\W", "-", client.label.lower())
    token, other = server.user(user), server.user(f"{user}-other", ["read"])
    done = subprocess.run(
        [
            str(python),
            str(PROGRAM),
            *("--user", user, "--other-token", other, "--work", str(work)),
        ],
        env=client_environ(server.url, work / "home", token, xet=client.xet),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    found: dict[str, Mapping[str, Any]] = {}
    for line in done.stdout.splitlines():
        if line.startswith('{"row"'):
            row = json.loads(line)
            found[row["row"]] = row
    if done.returncode != 0 or tuple(found) != ROWS:
        raise AssertionError(f"the list did not run to its end: {done.stdout[-500:]} {done.stderr[-2000:]}")
    counted = requests_between(server, "again-begin", "again-end")
    if found["download_again"]["outcome"] == "pass" and len(counted) != 1:
        found["download_again"] = {**found["download_again"], "outcome": "fail", "detail": f"{counted}"}
    sent = [
        line
        for line in requests_between(server, "known-begin", "known-end")
        if line.startswith("PUT ") or "/xorbs/" in line
    ]
    if found["known_content"]["outcome"] == "pass" and sent:
        found["known_content"] = {
            **found["known_content"],
            "outcome": "fail",
            "detail": f"sent again: {sent}",
        }
    return found


def requests_between(server: Any, begin: str, end: str) -> list[str]:
    """Requests in the server's log between the last two marks of these names."""
    lines = server.requests()
    first = max(i for i, line in enumerate(lines) if f"mark/{begin}" in line)
    last = max(i for i, line in enumerate(lines) if f"mark/{end}" in line)
    return [line for line in lines[first + 1 : last] if " /healthz " not in line]
