"""The servers that are compared, each a process of its own on a port of its own, with its data below one folder."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PEERS = ("devpi-server", "devpi-client", "pypiserver")


class Absent(Exception):
    """A peer is not here; the message says what is missing."""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def basic(user: str, password: str) -> dict[str, str]:
    """An Authorization header."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@contextmanager
def process(
    command: Sequence[str], url: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Run a server until the block ends; it is ready when ``url`` answers. Raises Absent when it does not start."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(env or {})})
    try:
        wait(url, child, log)
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and end it when it does not."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait(url: str, child: subprocess.Popen[Any], log: Path, seconds: float = 90) -> None:
    """Until ``url`` is answered by something. Raises Absent with the end of the log."""
    parts = urlsplit(url)
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.poll() is None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
        try:
            connection.request("GET", parts.path or "/")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    tail = log.read_text(encoding="utf-8", errors="replace")[-800:]
    raise Absent(f"{url} did not answer; its log ends with\n{tail}")


def call(method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    """One JSON request. Raises RuntimeError for an answer above 299."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
    data = None if body is None else json.dumps(body)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status > 299:
        raise RuntimeError(f"{method} {url}: {answer.status} {content[:300]!r}")
    return json.loads(content) if content else None


class Ours:
    """``llmasos registry serve`` in its default configuration: one process, SQLite and files.

    The limits on requests a minute are raised, not switched off, so that counting them is part of what is measured.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.pid = 0

    @contextmanager
    def running(self) -> Iterator[Ours]:
        """Serve, with a token of the administrator."""
        command = [sys.executable, "-m", "llmasos", "registry", "serve", "--json", "--no-access-log"]
        command += ["--data", str(self.data), "--port", str(self.port)]
        limit = str(10**9)
        env = {"LLMASOS_REGISTRY_RATE_API": limit, "LLMASOS_REGISTRY_RATE_FILES": limit}
        self.data.parent.mkdir(parents=True, exist_ok=True)
        log = self.data.with_name(self.data.name + ".log")
        with process(command, f"{self.url}/healthz", log, env) as child:
            self.pid = child.pid
            if not self.token:
                self.token = self._new_token()
            yield self

    def _new_token(self) -> str:
        command = [
            sys.executable,
            "-m",
            "llmasos",
            "registry",
            "token",
            "new",
            "admin",
            "--scope",
            "admin",
            "--json",
        ]
        done = subprocess.run(
            [*command, "--data", str(self.data)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Absent(f"no token for the registry: {done.stderr}")
        return str(json.loads(done.stdout)["token"])

    @property
    def bearer(self) -> dict[str, str]:
        """The administrator's header."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def upload(self) -> tuple[str, dict[str, str]]:
        """Where wheels go."""
        return f"{self.url}/legacy/", basic("__token__", self.token)

    def page(self, name: str) -> str:
        """A project's page."""
        return f"{self.url}/simple/{name}/"

    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def install_peers(folder: Path) -> Path:
    """The ``bin`` folder of a virtual environment with devpi and pypiserver, made once. Raises Absent."""
    binaries = folder / "peers" / "bin"
    if (binaries / "devpi-server").exists() and (binaries / "pypi-server").exists():
        return binaries
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    try:
        subprocess.run([uv, "venv", "-q", "--clear", "-p", sys.executable, str(binaries.parent)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "-p", str(binaries / "python"), *PEERS], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Absent(f"{' and '.join(PEERS)} could not be installed: {error}") from None
    return binaries


class Pypiserver:
    """pypiserver in its default configuration, uploads open."""

    name = "pypiserver"

    def __init__(self, binaries: Path, data: Path) -> None:
        self.binaries, self.data = binaries, data
        self.url = f"http://127.0.0.1:{free_port()}"
        self.upload = (f"{self.url}/", {})

    @contextmanager
    def running(self) -> Iterator[Pypiserver]:
        """Serve."""
        self.data.mkdir(parents=True, exist_ok=True)
        port = self.url.rpartition(":")[2]
        command = [str(self.binaries / "pypi-server"), "run", "-i", "127.0.0.1", "-p", port]
        command += ["-P", ".", "-a", ".", "--disable-fallback", str(self.data)]
        with process(command, f"{self.url}/simple/", self.data.with_suffix(".log")):
            yield self

    def page(self, name: str) -> str:
        """A project's page."""
        return f"{self.url}/simple/{name}/"


class Devpi:
    """devpi-server in its default configuration: an index of the root user without bases."""

    name = "devpi"

    def __init__(self, binaries: Path, data: Path) -> None:
        self.binaries, self.data = binaries, data
        self.url = f"http://127.0.0.1:{free_port()}"
        self.upload = (f"{self.url}/root/bench/", basic("root", ""))

    @contextmanager
    def running(self) -> Iterator[Devpi]:
        """Serve, with an index ``root/bench``."""
        new = not self.data.exists()
        log = self.data.with_suffix(".log")
        if new:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            command = [str(self.binaries / "devpi-init"), "--serverdir", str(self.data), "--no-root-pypi"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Absent(f"devpi-init failed: {done.stdout}{done.stderr}")
        command = [str(self.binaries / "devpi-server"), "--serverdir", str(self.data)]
        command += ["--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        with process(command, f"{self.url}/+api", log):
            if new:
                login = call("POST", f"{self.url}/+login", {"user": "root", "password": ""})["result"]
                token = base64.b64encode(f"root:{login['password']}".encode()).decode()
                index = {"type": "stage", "bases": [], "volatile": True}
                call("PUT", f"{self.url}/root/bench", index, {"X-Devpi-Auth": token})
                self.upload = (f"{self.url}/root/bench/", {"X-Devpi-Auth": token})
            yield self

    def page(self, name: str) -> str:
        """A project's page."""
        return f"{self.url}/root/bench/+simple/{name}/"


class Nginx:
    """nginx on a folder: sendfile for downloads, WebDAV PUT for uploads. What no application server can beat."""

    name = "nginx"

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Nginx]:
        """Serve ``root``."""
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            raise Absent("nginx is not installed")
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        config.write_text(
            f"""{user} worker_processes 1; daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log;
events {{ worker_connections 512; }}
http {{
  types {{ text/html html; }} default_type application/octet-stream;
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; client_max_body_size 0;
  client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/p; fastcgi_temp_path {self.folder}/f;
  uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
  server {{
    listen 127.0.0.1:{self.port}; root {self.root};
    location / {{ index index.html; dav_methods PUT; create_full_put_path on; }}
  }}
}}
""",
            encoding="utf-8",
        )
        with process([program, "-c", str(config)], self.url + "/", self.folder / "log"):
            yield self
