"""The server process: first start, ports, folders, stopping, its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
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


def big_file(server: Any, megabytes: int) -> str:
    """The address of a public file of a model repository."""
    import base64

    token = server.user("deb")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"name": "big", "type": "model"}).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{server.url}/api/repos/create", body, headers, method="POST")
    ).close()
    content = base64.b64encode(b"x" * megabytes * 1_000_000).decode()
    lines = [
        {"key": "header", "value": {"summary": "big", "description": ""}},
        {"key": "file", "value": {"path": "big.txt", "content": content, "encoding": "base64"}},
    ]
    request = urllib.request.Request(
        f"{server.url}/api/models/deb/big/commit/main",
        "\n".join(json.dumps(line) for line in lines).encode(),
        {**headers, "Content-Type": "application/x-ndjson"},
    )
    urllib.request.urlopen(request).close()
    return f"{server.url}/deb/big/resolve/main/big.txt"


def test_a_download_under_way_ends_before_the_server_does(start_server: Any) -> None:
    server = start_server()
    size = 9_000_000
    address = big_file(server, 9)
    with urllib.request.urlopen(address) as answer:
        first = answer.read(1000)
        server.process.send_signal(signal.SIGTERM)
        rest = answer.read()
    assert len(first) + len(rest) == size
    assert server.stop() == 0


def test_a_request_that_does_not_end_does_not_keep_the_server(start_server: Any) -> None:
    server = start_server(stop_timeout=1, idle_timeout=600)
    token = server.user("ann")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            f"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        assert server.stop() in (0, 1)


def test_several_processes_serve_one_folder_and_end_together(start_server: Any) -> None:
    server = start_server(workers=2)
    for _ in range(20):
        assert json.load(urllib.request.urlopen(f"{server.url}/healthz")) == {"status": "ok"}
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("no /proc with the children of a process")
    workers = [int(text) for text in children.read_text().split()]
    named = [pid for pid in workers if b"registry" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(named) >= 2
    server.kill()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in named):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in named)
    server.restart()
    assert server.stop() == 0
