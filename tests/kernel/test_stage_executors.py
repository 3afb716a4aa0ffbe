"""Stages on one process and on several: the same results, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage_doubles import (
    DiesAlways,
    DiesOnce,
    Fault,
    OddFault,
    Refuses,
    Squares,
    Unopenable,
)

import llmasos
from llmasos.errors import InputError, RunError, UsageError
from llmasos.kernel.executor import RETRIES, Executor
from llmasos.kernel.stage_run import executor_for, run_stage
from llmasos.kernel.workshop import Workshop
from llmasos.testing.doubles import RecordedProgress


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[llmasos.Hub]:
    with llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "cache", no_plugins=True) as made:
        yield made


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture(params=[1, 2])
def executor(hub: llmasos.Hub, request: pytest.FixtureRequest) -> Iterator[Executor]:
    made = executor_for(hub, workers=request.param)
    yield made
    made.close()


def do(executor: Executor, stage: Any, shards: Any, folder: Path | None, **more: Any) -> dict[int, Any]:
    return {
        result.index: result for result in run_stage(executor, stage, list(shards), folder=folder, **more)
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_every_shard_is_done_once_and_found_again(executor: Executor, marks: Path, tmp_path: Path) -> None:
    stage, progress = Squares(marks), RecordedProgress()
    done = do(executor, stage, range(6), tmp_path / "work", progress=progress)
    assert {index: result.facts["square"] for index, result in done.items()} == {n: n * n for n in range(6)}
    for result in done.values():
        assert result.path is not None
        assert (result.path / "square").read_text() == str(result.facts["square"])
        assert Workshop(tmp_path / "work").result(result.key) == result.facts
    assert progress.done == 6
    assert [stage.tries(n) for n in range(6)] == [1] * 6

    again = do(executor, Squares(marks), range(8), tmp_path / "work")
    assert sorted(index for index, result in again.items() if result.reused) == list(range(6))
    assert [stage.tries(n) for n in range(8)] == [1] * 8


def test_shards_with_one_key_are_done_once(executor: Executor, marks: Path, tmp_path: Path) -> None:
    stage = Squares(marks)
    done = do(executor, stage, [2, 3, 2, 2], tmp_path / "work")
    assert sorted(done) == [0, 1, 2, 3]
    assert done[0].key == done[2].key == done[3].key
    assert stage.tries(2) == 1


def test_a_stage_without_a_folder_keeps_nothing(executor: Executor, marks: Path) -> None:
    done = do(executor, Squares(marks), range(3), None)
    assert [done[n].facts["square"] for n in range(3)] == [0, 1, 4]
    assert {result.path for result in done.values()} == {None}


def test_two_stages_one_after_the_other(executor: Executor, marks: Path, tmp_path: Path) -> None:
    first, second = Squares(marks), DiesOnce(marks)
    assert len(do(executor, first, range(2), tmp_path / "work")) == 2
    done = do(executor, second, [0, 1], tmp_path / "work")
    assert len(done) == 2
    assert not any(result.reused for result in done.values())


@pytest.mark.parametrize("workers", [1, 3])
def test_the_store_is_the_same_whatever_the_number_of_workers(
    hub: llmasos.Hub, marks: Path, tmp_path: Path, workers: int
) -> None:
    written = []
    for count in (1, workers):
        executor = executor_for(hub, workers=count, threads=1)
        do(executor, Keyed(marks), range(5), tmp_path / str(count))
        executor.close()
        written.append(contents(tmp_path / str(count)))
    assert written[0] == written[-1]


class Keyed(Squares):
    """Facts that no environment decides."""

    def run(self, shard: Any, folder: Path) -> dict[str, Any]:
        return {"square": super().run(shard, folder)["square"]}


def test_a_worker_that_dies_costs_its_shard_one_more_try(
    hub: llmasos.Hub, marks: Path, tmp_path: Path
) -> None:
    executor, stage, progress = executor_for(hub, workers=2), DiesOnce(marks), RecordedProgress()
    done = do(executor, stage, range(6), tmp_path / "work", progress=progress)
    executor.close()
    assert [done[n].facts["square"] for n in range(6)] == [n * n for n in range(6)]
    assert [stage.tries(n) for n in range(6)] == [1, 1, 1, 2, 1, 1]
    assert stage.opened() == 3
    assert progress.done == 6  # what the lost try had reported is taken back


def test_a_shard_that_no_worker_survives_is_named(hub: llmasos.Hub, marks: Path, tmp_path: Path) -> None:
    executor, stage = executor_for(hub, workers=2), DiesAlways(marks)
    with pytest.raises(RunError, match=r"squares: shard 3 \([0-9a-f]{12}\) was tried 3 times") as caught:
        do(executor, stage, range(6), tmp_path / "work")
    executor.close()
    assert "finished shards are kept" in str(caught.value.hint)
    assert stage.tries(3) == RETRIES + 1
    # A run without that shard goes on from what the others did.
    again = executor_for(hub, workers=1)
    done = do(again, DiesAlways(marks), [0, 1, 2], tmp_path / "work")
    assert all(result.reused for result in done.values())


@pytest.mark.parametrize(
    ("stage", "kind", "message"),
    [
        (Refuses, InputError, "shard three"),
        (Fault, ZeroDivisionError, "three"),
        (Unopenable, InputError, "there is no model"),
    ],
)
def test_errors_of_a_worker_are_those_of_the_run(
    executor: Executor, marks: Path, tmp_path: Path, stage: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        do(executor, stage(marks), range(6), tmp_path / "work")
    if isinstance(caught.value, InputError):
        assert caught.value.hint in ("leave it out", "give one")


def test_an_error_that_no_pickle_holds_arrives_all_the_same(
    hub: llmasos.Hub, marks: Path, tmp_path: Path
) -> None:
    executor = executor_for(hub, workers=2)
    with pytest.raises(RunError, match="Odd: left"):
        do(executor, OddFault(marks), range(6), tmp_path / "work")
    executor.close()


def test_a_fault_in_a_process_brings_its_traceback(hub: llmasos.Hub, marks: Path, tmp_path: Path) -> None:
    executor = executor_for(hub, workers=2)
    with pytest.raises(ZeroDivisionError) as caught:
        do(executor, Fault(marks), range(6), tmp_path / "work")
    executor.close()
    assert "stage_doubles.py" in caught.value.__notes__[0]


def test_threads_of_a_worker(hub: llmasos.Hub, marks: Path, tmp_path: Path) -> None:
    executor = executor_for(hub, workers=2, threads=3)
    done = do(executor, Squares(marks), range(2), tmp_path / "work")
    executor.close()
    assert {result.facts["threads"] for result in done.values()} == {"3"}


def test_less_than_one_worker_is_refused(hub: llmasos.Hub) -> None:
    with pytest.raises(UsageError, match="workers is 0"):
        executor_for(hub, workers=0)


def test_a_hub_runs_stages(hub: llmasos.Hub, marks: Path, tmp_path: Path) -> None:
    results = list(hub.run_stage(Squares(marks), [1, 2], folder=tmp_path / "work", workers=2))
    assert sorted(result.facts["square"] for result in results) == [1, 4]
    taken = hub.run_stage(Squares(marks), [3, 4, 5], folder=tmp_path / "work")
    next(taken)
    with pytest.raises(UsageError, match="another run is writing"):
        list(hub.run_stage(Squares(marks), [3], folder=tmp_path / "work"))
    taken.close()
    assert len(list(hub.run_stage(Squares(marks), [3], folder=tmp_path / "work"))) == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the process table of Linux")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_workers_end_with_their_run_and_finished_shards_are_kept(
    hub: llmasos.Hub, marks: Path, tmp_path: Path, how: signal.Signals
) -> None:
    script = Path(__file__).with_name("stage_doubles.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(marks)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"  # the others wait for a file that never comes
    children = children_of(process.pid)
    assert len(children) >= 2
    process.send_signal(how)
    process.wait(timeout=60)
    deadline = time.monotonic() + 30
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [child for child in children if alive(child)]
    if how == signal.SIGINT:
        assert process.returncode == 130
    (marks / "go").touch()
    from stage_doubles import WaitsForFile

    done = do(executor_for(hub), WaitsForFile(marks), range(4), tmp_path / "work")
    assert done[0].reused
    assert [done[n].facts["square"] for n in range(4)] == [0, 1, 4, 9]


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_cannot_start_is_an_error_at_once(
    hub: llmasos.Hub, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmasos.kernel.executor._serve", os._exit)
    executor = executor_for(hub, workers=2)
    with pytest.raises(RunError, match="could not be started"):
        do(executor, Squares(marks), range(3), tmp_path / "work")
    executor.close()
