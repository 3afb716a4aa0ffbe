"""The server process: first start, ports, folders, stopping, its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest


def serve(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmasos", "registry", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
        check=False,
    )


def test_the_first_start_makes_an_admin_and_says_so_once(start_server: Any) -> None:
    server = start_server()
    assert server.admin_token.startswith("llma_")
    assert json.load(urllib.request.urlopen(f"{server.url}/healthz")) == {"status": "ok"}
    token = server.admin_token
    server.admin_token = ""
    server.restart()
    assert server.admin_token == ""
    assert server.stop() == 0
    for file in server.data.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes(), file
    assert not any(token in line for line in server.log)


def test_each_request_is_one_line_without_its_query(registry: Any) -> None:
    urllib.request.urlopen(f"{registry.url}/healthz?X-Signature=secret").close()
    registry.stop()
    assert registry.requests()[-1] == "GET /healthz 200"
    assert not any("secret" in line for line in registry.log)
    registry.restart()


def test_a_port_in_use_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = serve("--data", str(tmp_path / "data"), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 4
    assert "is in use" in done.stderr
    assert "hint: give --port" in done.stderr


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = serve("--data", str(tmp_path / "file" / "data"), "--port", "0")
    assert done.returncode == 4
    assert "cannot write to the data folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_another_version_serves_is_refused(registry: Any) -> None:
    lock = registry.data / "server.lock"
    held = json.loads(lock.read_text())
    assert held["pid"] == registry.process.pid
    lock.write_text(json.dumps({**held, "version": "0.0.1"}))
    try:
        done = serve("--data", str(registry.data), "--port", "0")
    finally:
        lock.write_text(json.dumps(held))
    assert done.returncode == 4
    assert "is served by llmasos 0.0.1" in done.stderr


def test_without_the_extra_the_hint_is_the_pip_line(tmp_path: Path) -> None:
    # A package folder that is in the way of the real one and cannot be imported.
    (tmp_path / "granian").mkdir()
    (tmp_path / "granian" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'granian'\", name='granian')\n"
    )
    done = serve("--data", str(tmp_path / "data"), "--port", "0", PYTHONPATH=str(tmp_path))
    assert done.returncode == 4
    assert "hint: pip install 'llmasos[registry]'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told(start_server: Any, number: int) -> None:
    server = start_server()
    assert server.stop(number) == 0


def test_a_killed_server_starts_again_without_its_temporary_files(start_server: Any) -> None:
    server = start_server()
    server.kill()
    (server.data / "tmp" / "1.half").write_bytes(b"half")
    part = server.data / "staging" / "upload" / "1"
    part.parent.mkdir()
    part.write_bytes(b"a part")
    server.restart()
    assert list((server.data / "tmp").iterdir()) == []
    assert part.read_bytes() == b"a part"
