"""Stages on a real Ray cluster of two machines, one of which dies."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from ray_cluster import TOKEN, RayCluster, ray_cluster
from stage_doubles import DiesOnce, Fault, Refuses, Squares, WaitsForFile

import llmasos
from llmasos.contracts.stage import StageResult
from llmasos.errors import InputError, RunError, UsageError
from llmasos.kernel.executor import Executor
from llmasos.kernel.ray_executor import check_address, environment_for, on_this_machine
from llmasos.kernel.stage_run import executor_for, run_stage
from llmasos.testing.doubles import RecordedProgress

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason='Ray is not installed: pip install "llmasos[ray]"'
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(Path(__file__).parent) as made:
        yield made


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llmasos.Hub]:
    folder = tmp_path_factory.mktemp("hub")
    with llmasos.Hub(cache_dir=folder, config_dir=folder, no_plugins=True) as made:
        yield made


@pytest.fixture(scope="module")
def executor(hub: llmasos.Hub, cluster: RayCluster) -> Iterator[Executor]:
    """Two workers, one a machine, for all tests of this module: starting them takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        made = executor_for(hub, cluster=cluster.address, workers=2)
        list(run_stage(made, Squares(hub.cache_dir), [1], folder=None))
    yield made
    made.close()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_results_are_committed_here(executor: Executor, marks: Path, tmp_path: Path) -> None:
    progress = RecordedProgress()
    done = list(
        run_stage(executor, Squares(marks), list(range(5)), folder=tmp_path / "work", progress=progress)
    )
    assert {result.index: result.facts["square"] for result in done} == {n: n * n for n in range(5)}
    for result in done:
        assert result.path is not None
        assert (result.path / "square").read_text() == str(result.facts["square"])
        assert result.facts["threads"] == "1"
    assert progress.done == 5
    again = list(run_stage(executor, Squares(marks), list(range(5)), folder=tmp_path / "work"))
    assert all(result.reused for result in again)


def test_a_worker_that_dies_costs_its_shard_one_more_try(
    executor: Executor, marks: Path, tmp_path: Path
) -> None:
    stage, progress = DiesOnce(marks), RecordedProgress()
    done = {
        result.index: result
        for result in run_stage(executor, stage, list(range(6)), folder=tmp_path / "work", progress=progress)
    }
    assert [done[n].facts["square"] for n in range(6)] == [n * n for n in range(6)]
    assert [stage.tries(n) for n in range(6)] == [1, 1, 1, 2, 1, 1]
    assert progress.done == 6


def test_a_machine_that_dies_costs_its_shard_one_more_try(
    executor: Executor, cluster: RayCluster, marks: Path, tmp_path: Path
) -> None:
    stage = WaitsForFile(marks)  # all shards but the first end when the file is there
    done: list[StageResult] = []
    results = run_stage(executor, stage, list(range(4)), folder=tmp_path / "work")
    taking = threading.Thread(target=lambda: done.extend(results))
    taking.start()
    deadline = time.monotonic() + 60
    while stage.tries(1) + stage.tries(2) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    cluster.tell("kill")  # each machine is at one of these
    (marks / "go").touch()
    taking.join()
    cluster.tell("add")
    assert stage.tries(1) + stage.tries(2) == 3
    assert sorted(result.facts["square"] for result in done) == [0, 1, 4, 9]
    assert sorted(path.name for path in (tmp_path / "work").glob("[0-9a-f][0-9a-f]/*")) == sorted(
        stage.key(n) for n in range(4)
    )


@pytest.mark.parametrize(
    ("stage", "kind"), [(Refuses, InputError), (Fault, ZeroDivisionError)], ids=["refuses", "fault"]
)
def test_errors_of_a_worker_are_those_of_the_run(
    executor: Executor,
    marks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: type[Squares],
    kind: type[Exception],
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)  # the error before this one ended the workers
    with pytest.raises(kind, match="three") as caught:
        list(run_stage(executor, stage(marks), list(range(6)), folder=tmp_path / "work"))
    if kind is InputError:
        assert caught.value.hint == "leave it out"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("token", "kind", "message"),
    [(None, UsageError, "wants a token"), ("another-token-0123456789abcdef", RunError, "cannot reach")],
    ids=["no token", "wrong token"],
)
def test_nobody_gets_in_without_the_token(
    hub: llmasos.Hub,
    cluster: RayCluster,
    marks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no token file
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(kind, match=message) as caught:
        list(hub.run_stage(Squares(marks), [1], folder=tmp_path / "work", cluster=cluster.address))
    assert "RAY_AUTH_TOKEN" in str(caught.value)
    assert Squares(marks).tries(1) == 0


def test_a_private_cluster_listens_here_only_and_leaves_nothing(
    hub: llmasos.Hub, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    before = listening()
    results = hub.run_stage(
        WaitsForFile(marks), [0, 1, 2], folder=tmp_path / "work", cluster="local", workers=2, threads=1
    )
    done = [next(results)]
    opened = listening() - before
    assert opened
    if sys.platform == "linux":
        assert {host for host, _ in opened} == {"127.0.0.1"}
    (marks / "go").touch()
    done += results
    assert sorted(result.facts["square"] for result in done) == [0, 1, 4]
    assert not (tmp_path / ".ray").exists()
    assert not listening() & opened


def listening() -> set[tuple[str, int]]:
    """(host, port) of every listening TCP socket of this machine (Linux)."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state != "0A":
                continue
            address, port = local.split(":")
            words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
            host = socket.inet_ntop(family, b"".join(words)).removeprefix("::ffff:")
            found.add((host, int(port, 16)))
    return found


def test_no_cluster_is_an_error_that_names_the_address(hub: llmasos.Hub, marks: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RunError, match=address):
            list(hub.run_stage(Squares(marks), [1], folder=tmp_path / "work", cluster=address))


@pytest.mark.parametrize(
    "address", ["", "auto", "localhost", "http://127.0.0.1:1", "host:0", "host:x", ":6379"]
)
def test_what_is_no_address_is_refused(hub: llmasos.Hub, address: str) -> None:
    with pytest.raises(UsageError, match="no address of a Ray cluster"):
        executor_for(hub, cluster=address)


def test_what_stays_on_this_machine() -> None:
    for address in ("local", "127.0.0.1:6379", "localhost:6379", "[::1]:6379", "127.1.2.3:1"):
        assert check_address(address) == address
        assert on_this_machine(address)
    assert not on_this_machine("10.0.0.1:6379")
    assert not on_this_machine("head.example:6379")
    assert environment_for("10.0.0.1:6379")["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in environment_for("10.0.0.1:6379")
    first, second = (environment_for("local")["RAY_AUTH_TOKEN"] for _ in range(2))
    assert first != second
    assert len(first) >= 32


def test_without_ray_the_hint_installs_it(hub: llmasos.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmasos.errors import MissingDependency

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        executor_for(hub, cluster="local")
    assert "llmasos[ray]" in str(caught.value.hint)
