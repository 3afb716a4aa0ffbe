"""A Ray cluster of two machines on this one, in a process of its own. Prints its address, then obeys lines on stdin.

``kill`` ends the second machine as a power cut does, ``add`` gives the cluster another one. It ends with its stdin.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "a-token-of-the-tests-0123456789abcdef"


class RayCluster:
    """The cluster as a test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()

    def tell(self, word: str) -> None:
        """``kill`` or ``add``; returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._answer() == word

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("cluster: "):
                return line.removeprefix("cluster: ").strip()
        raise AssertionError("the cluster did not start")


@contextmanager
def ray_cluster(*paths: Path) -> Iterator[RayCluster]:
    """A cluster whose workers can import from ``paths``. Whoever uses it needs ``TOKEN`` in RAY_AUTH_TOKEN."""
    search = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    # Not pytest's folder: the path of a socket has at most 107 characters.
    folder = tempfile.mkdtemp(dir="/tmp")
    environ = {
        **os.environ,
        "PYTHONPATH": search,
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    process = subprocess.Popen(
        [sys.executable, __file__],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield RayCluster(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _kill(machine: Any) -> None:
    """SIGKILL for everything that runs on a machine of the cluster, its workers first."""
    for infos in machine.all_processes.values():
        for info in infos:
            for path in Path(f"/proc/{info.process.pid}/task").glob("*/children"):
                for child in path.read_text().split():
                    os.kill(int(child), signal.SIGKILL)
            info.process.kill()


def _main() -> None:
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    # A machine that says nothing for a second is dead: by default Ray waits half a minute.
    health = {f"health_check_{name}": 300 for name in ("initial_delay_ms", "period_ms", "timeout_ms")}
    head = {"include_dashboard": False, "_system_config": {**health, "health_check_failure_threshold": 3}}
    cluster = Cluster(initialize_head=True, head_node_args={**machine, **head})
    other = cluster.add_node(**machine)
    print(f"cluster: {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            _kill(other)
            cluster.remove_node(other, allow_graceful=False)
        else:
            other = cluster.add_node(**machine)
        print(f"cluster: {line.strip()}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _main()
