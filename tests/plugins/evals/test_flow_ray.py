"""An evaluation on a Ray cluster of two machines, one of which dies, gives the record of one process."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from flow_suite import run_suite, write_suite
from ray_cluster import TOKEN, ray_cluster

# Slow: two machines that start, load a model and lose one of the two take 20 seconds. In the default run the kernel's tests
# lose a machine with a smaller stage, and test_flow_invariance.py has the record of one worker, of two and after a kill.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: pip install "llmasos[ray]"'),
]


def test_the_record_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(tmp_path)
    ways: dict[str, Any] = {"shard_tokens": 200, "batch_size": 2}
    whole = run_suite(tmp_path, tmp_path / "whole", **ways).record
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with ray_cluster() as cluster:
        found: list[Any] = []
        ways |= {"ray": cluster.address, "workers": 2}
        running = threading.Thread(
            target=lambda: found.append(run_suite(tmp_path, tmp_path / "spread", **ways).record)
        )
        running.start()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "spread").glob("samples_*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.tell("kill")
        assert running.is_alive()  # that was in the middle
        running.join()
    (record,) = found
    assert record["execution"]["cluster"]
    assert record["digest"] == whole["digest"]
