"""``--offline`` is a promise: no connection is tried, and what is missing is one error that says how to give it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, QUESTIONS, write_rows

from llmasos.api import ExitCode
from llmasos.cli.main import run
from llmasos.testing.checkpoints import write_checkpoint

STOCK = {**CHOICE, "dataset_path": "org/sums", "dataset_name": "Easy", "training_split": "train"}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Connections that were tried; each fails."""
    found: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        found.append(arguments[-1])
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The flag alone has to do: nothing else says that this machine is offline.
    for name in ("HF_HUB_OFFLINE", "LLMASOS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    for name in ("cache", "config", "data"):
        monkeypatch.setenv(f"LLMASOS_{name.upper()}", str(tmp_path / name))
    write_checkpoint(tmp_path / "model")
    write_rows(tmp_path / "mine.jsonl", QUESTIONS[:4])
    (tmp_path / "stock.yaml").write_text(json.dumps({"task": "stock", **STOCK}))
    return tmp_path


def evaluate(place: Path) -> int:
    words = [
        "--offline",
        "eval",
        str(place / "model"),
        str(place / "stock.yaml"),
        "--bootstrap",
        "0",
        "--json",
    ]
    return run(words)


def test_an_evaluation_on_data_from_the_shelf(
    place: Path, tried: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["data", "add", "-q", "org/sums", "--config", "Easy", "--split", f"test={place / 'mine.jsonl'}"]
    assert run(["--offline", *add]) == ExitCode.OK
    capsys.readouterr()
    assert evaluate(place) == ExitCode.OK
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["data"]["kind"], task["scores"][0]["n"]) == ("shelf", 4)
    assert tried == []


def test_missing_data_is_one_error_with_the_way_to_give_it(
    place: Path, tried: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place) == ExitCode.NOT_FOUND
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "hint:"))]
    assert error == [
        "error: task stock: the data set org/sums is not here, and this run is offline (it was never fetched)",
        "hint: add files you have: llmasos data add org/sums --config Easy --split test=FILE --split train=FILE",
    ]
    assert tried == []


def test_without_the_flag_it_would_have_asked(
    place: Path, tried: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The test above is worth something only if this is so."""
    words = ["eval", str(place / "model"), str(place / "stock.yaml")]
    assert run(words) == ExitCode.NOT_FOUND
    assert tried != []
    assert "cannot be fetched" in capsys.readouterr().err
