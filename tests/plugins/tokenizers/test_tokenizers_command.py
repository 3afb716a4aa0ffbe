"""``llmasos tokenize`` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BYTES = {
    "special_tokens": ["<bos>", "<eos>"],
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "add_bos_token": True,
}


def llmasos(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "llmasos", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "byte_tokenizer.json").write_text(json.dumps(BYTES), encoding="utf-8")
    return tmp_path


def test_ids_and_pieces(model: Path) -> None:
    done = llmasos("tokenize", model, "hi<eos>")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line.split() for line in lines[2:5]] == [["104", "<0x68>"], ["105", "<0x69>"], ["257", "<eos>"]]
    assert lines[-1] == "3 tokens"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], [104, 257]),
        (["--special"], [256, 104, 257]),
        (["--plain"], [104, *b"<eos>"]),
    ],
)
def test_json(options: list[str], ids: list[int], model: Path) -> None:
    for arguments, stdin in ((["h<eos>"], b""), (["-"], b"h<eos>"), ([], b"h<eos>")):
        done = llmasos("tokenize", model, *arguments, *options, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        assert value["ids"] == ids
        assert value["count"] == len(ids) == len(value["pieces"])
        assert value["vocab_size"] == 258
        assert len(value["digest"]) == 64


def test_quiet_keeps_the_data_and_excludes_json(model: Path) -> None:
    loud, quiet = llmasos("tokenize", model, "hi"), llmasos("tokenize", model, "hi", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, loud.stdout, b"")
    done = llmasos("tokenize", model, "hi", "--quiet", "--json")
    assert done.returncode == 2
    assert b"exclude each other" in done.stderr


def test_errors(model: Path, tmp_path: Path) -> None:
    done = llmasos("tokenize", tmp_path / "nowhere", "x")
    assert done.returncode == 5
    assert b"hint:" in done.stderr
    done = llmasos("tokenize", model, stdin=b"\xff")
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    (model / "byte_tokenizer.json").write_text('{"speical_tokens": []}', encoding="utf-8")
    done = llmasos("tokenize", model, "x")
    assert done.returncode == 1
    assert b"unknown key 'speical_tokens'" in done.stderr
    assert b"Traceback" not in done.stderr
