"""An S3-speaking HTTP server for tests (moto's server), with a bucket for whoever asks."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request


class S3Server:
    """One process on a free port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self._made = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        self.stop()
        raise RuntimeError("the S3 server did not start")

    @property
    def options(self) -> dict[str, str]:
        """`storage_options` of a registry that uses it."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": "test",
            "secret_access_key": "test",
            "region": "us-east-1",
        }

    def bucket(self) -> str:
        """A new bucket's name."""
        self._made += 1
        name = f"bucket-{self._made}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        return name

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
