"""Which server runs the registry: granian and uvicorn with our application, nginx with the same file, in one run.

    python benchmarks/registry_server_choice.py [--megabytes 500] [--rounds 5]

Whole files, the last half of one as a range, and a small JSON answer. The rounds alternate between the servers and the
medians are printed. uvicorn is no dependency of this project: ``pip install uvicorn httptools``. nginx, curl and wrk
come from the system. What is missing is left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

APP = """
import os, sys, asyncio
from llmasos_registry.server.app import Application
from llmasos_registry.server.responses import blob_response
from llmasos_registry.server.routing import Route
from llmasos_registry.server.serve import health, open_registry
from llmasos_registry.server.settings import Settings
from pathlib import Path

settings = Settings(data=Path(os.environ["DATA"]), rate_api=0, rate_files=0)
registry = open_registry(settings)

def file(request):
    return blob_response(request, os.environ["DIGEST"], int(os.environ["SIZE"]), etag="x")

app = Application(registry, [Route("GET", "/file", file, "public"), Route("GET", "/small", health, "public")])

if __name__ == "__main__":
    from granian.constants import Interfaces
    from granian.server.embed import Server
    server = Server(app, port=int(sys.argv[1]), interface=Interfaces.ASGI, websockets=False, log_enabled=False)
    asyncio.run(server.serve())
"""
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; user root;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; types {{}} default_type application/octet-stream;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; location = /file {{ alias {blob}; }}
    location = /small {{ default_type application/json; return 200 '{{"status":"ok"}}'; }} }} }}
"""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_open(port: int) -> None:
    """Until somebody listens. Raises TimeoutError."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def download(url: str, *options: str) -> float:
    """Megabytes a second, as curl counts them."""
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{speed_download}", *options, url],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout) / 1e6


def requests(url: str, connections: int) -> float:
    """Requests a second, as wrk counts them."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", "-d2s", url], capture_output=True, text=True, check=True
    )
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        folder = Path(scratch)
        os.chmod(folder, 0o755)
        from llmasos_registry.server.store.filesystem import FileStore

        store = FileStore(folder / "data")
        block = os.urandom(1 << 20)
        with store.writer() as writer:
            for _ in range(wanted.megabytes * 1_000_000 // len(block)):
                writer.write(block)
            stored = writer.commit()
        (folder / "served.py").write_text(APP)
        environ = {
            **os.environ,
            "DATA": str(folder / "data"),
            "DIGEST": stored.sha256,
            "SIZE": str(stored.size),
        }
        environ["PYTHONPATH"] = os.pathsep.join([str(folder), environ.get("PYTHONPATH", "")])
        servers: dict[str, int] = {}

        def start(name: str, port: int, command: list[str]) -> None:
            process = subprocess.Popen(
                command, env=environ, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            running.callback(process.wait)
            running.callback(process.terminate)
            wait_open(port)
            servers[name] = port

        port = free_port()
        start("granian", port, [sys.executable, "served.py", str(port)])
        try:
            import uvicorn  # noqa: F401
        except ImportError:
            print("uvicorn is not installed", file=sys.stderr)
        else:
            port = free_port()
            quiet = ["--no-access-log", "--log-level", "error", "--port", str(port)]
            start("uvicorn", port, [sys.executable, "-m", "uvicorn", "served:app", *quiet])
        if shutil.which("nginx"):
            port = free_port()
            blob = store.path(stored.sha256)
            (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, blob=blob))
            start("nginx", port, ["nginx", "-c", str(folder / "nginx.conf")])
        else:
            print("nginx is not installed", file=sys.stderr)
        half = f"{stored.size // 2}-"
        kinds = {
            "whole file, MB/s": lambda url: download(url + "/file"),
            "range, MB/s": lambda url: download(url + "/file", "-r", half),
            "small answer, 1 connection, requests/s": lambda url: requests(url + "/small", 1),
            "small answer, 64 connections, requests/s": lambda url: requests(url + "/small", 64),
        }
        measured: dict[tuple[str, str], list[float]] = {}
        for _ in range(wanted.rounds):
            for kind, measure in kinds.items():
                for name, number in servers.items():
                    measured.setdefault((kind, name), []).append(measure(f"http://127.0.0.1:{number}"))
        print(f"{'':42}" + "".join(f"{name:>12}" for name in servers))
        for kind in kinds:
            row = [statistics.median(measured[kind, name]) for name in servers]
            print(f"{kind:42}" + "".join(f"{value:12,.0f}" for value in row))


if __name__ == "__main__":
    main()
