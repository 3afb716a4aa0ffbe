"""A server that dies in the middle of a download: the stock client goes on where it was, with Range, and the file is whole."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_clients import client_environ

SIZE = 32 << 20
#: Bytes of answers that pass before the line is held. Clients keep what they got in pieces of 10 MiB.
FIRST = 16 << 20


class SlowLine:
    """A TCP relay in front of the server that stops after FIRST bytes, until it is told to go on."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.passed = 0
        self.held, self.go_on = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        # After the kill the client comes back before the server does.
        self.go_on.wait() if self.held.is_set() else None
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=60)
        except OSError:
            client.close()
            return
        threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
        self._pump(server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
                if counted and not self.held.is_set():
                    self.passed += len(data)
                    if self.passed > FIRST:
                        self.held.set()
                        self.go_on.wait()
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()


@pytest.fixture
def line(start_server: Callable[..., Any]) -> Iterator[tuple[Any, SlowLine]]:
    server = start_server()
    line = SlowLine(server.port)
    yield server, line
    line.go_on.set()
    line.listener.close()
    server.stop()


def test_a_download_survives_kill_9_of_the_server(line: tuple[Any, SlowLine], tmp_path: Path) -> None:
    server, slow = line
    data = os.urandom(SIZE)
    (tmp_path / "weights.bin").write_bytes(data)
    upload = (
        "import sys, huggingface_hub as h; h.create_repo('res/big');"
        "h.upload_file(path_or_fileobj=sys.argv[1], path_in_repo='weights.bin', repo_id='res/big')"
    )
    uploader = client_environ(server.url, tmp_path / "uploader", server.user("res"), xet=False)
    subprocess.run(
        [sys.executable, "-c", upload, str(tmp_path / "weights.bin")],
        env=uploader,
        check=True,
        timeout=100,
        capture_output=True,
    )
    download = "import huggingface_hub as h; print(h.hf_hub_download('res/big', 'weights.bin'))"
    process = subprocess.Popen(
        [sys.executable, "-c", download],
        env=client_environ(slow.url, tmp_path / "home"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert slow.held.wait(60), "the download did not begin"
    server.kill()
    server.restart()
    slow.go_on.set()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    got = Path(out.strip().splitlines()[-1]).read_bytes()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    answers = [request.split()[2] for request in server.requests() if "GET /res/big/resolve/" in request]
    assert "206" in answers, answers
