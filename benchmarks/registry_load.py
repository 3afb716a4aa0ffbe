"""Load: wrk for latencies, and multipart uploads by a client that keeps its connection."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from registry_wheels import filename

#: What pip and uv send when they ask for a project's page.
PAGE_HEADERS = {
    "Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01",
    "Accept-Encoding": "gzip, deflate",
}

# Latencies in microseconds and counts, as one line of JSON.
_LUA = """
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format('RESULT {"p50": %f, "p99": %f, "mean": %f, "requests": %d, "us": %d, "errors": %d}\\n',
    latency:percentile(50), latency:percentile(99), latency.mean, summary.requests, summary.duration, bad))
end
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds and requests a second."""

    p50: float
    p99: float
    rate: float


def wrk(url: str, *, connections: int, seconds: float, folder: Path, headers: Mapping[str, str]) -> Latency:
    """One run of wrk. Raises RuntimeError when an answer was no 200, or wrk is not installed."""
    program = shutil.which("wrk")
    if program is None:
        raise RuntimeError("wrk is not installed")
    script = folder / "latency.lua"
    script.write_text(_LUA, encoding="utf-8")
    command = [program, "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        raise RuntimeError(f"wrk on {url} failed: {done.stdout}{done.stderr}")
    result = json.loads(found[0].removeprefix("RESULT "))
    if result["errors"] or not result["requests"]:
        raise RuntimeError(f"{url}: {result['errors']} of {result['requests']} requests went wrong")
    return Latency(result["p50"] / 1000, result["p99"] / 1000, result["requests"] / result["us"] * 1e6)


class Uploader:
    """Publishes wheels through the legacy upload, on one connection. For twine's work without twine's start."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._headers = dict(headers)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def publish(self, name: str, version: str, content: bytes) -> float:
        """Upload one wheel; seconds. Raises RuntimeError when it is refused."""
        fields = {
            ":action": "file_upload",
            "protocol_version": "1",
            "metadata_version": "2.4",
            "name": name,
            "version": version,
            "filetype": "bdist_wheel",
            "pyversion": "py3",
            "requires_python": ">=3.11",
            "sha256_digest": hashlib.sha256(content).hexdigest(),
        }
        border = "-" * 8 + hashlib.sha256(content).hexdigest()[:32]
        parts = [
            f'--{border}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        ]
        file = f'--{border}\r\nContent-Disposition: form-data; name="content"; filename="{filename(name, version)}"\r\n'
        body = "".join([*parts, file, "Content-Type: application/octet-stream\r\n\r\n"]).encode() + content
        body += f"\r\n--{border}--\r\n".encode()
        begin = time.perf_counter()
        headers = {**self._headers, "Content-Type": f"multipart/form-data; boundary={border}"}
        self._connection.request("POST", self._path, body, headers)
        answer = self._connection.getresponse()
        said = answer.read()
        seconds = time.perf_counter() - begin
        if answer.status != 200:
            raise RuntimeError(f"{filename(name, version)} was refused: {answer.status} {said[:300]!r}")
        return seconds

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
