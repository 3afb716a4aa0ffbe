"""``llmasos data process`` as a user runs it: real processes, real plugins."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmasos.api import Document
from llmasos.testing.tmp import environment

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"

SENTENCE = (
    "The {n} people of the village have seen that the {n} mills on the hill stood still and went to ask why. "
)


def llmasos(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, with a cache of its own and without the network."""
    environ = {**environment(folder / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "llmasos", "--only", "llmasos-data", "data", "process", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environ, timeout=300, check=False
    )


def write_inputs(folder: Path, **pipeline: Any) -> None:
    """Forty short texts, two of them the same, one record broken, and a pipeline."""
    rows = [
        {"id": f"d{n:02d}", "text": SENTENCE.format(n=n % 39 * 101) * 3 + f"word{n % 39} " * 2}
        for n in range(40)
    ]
    lines = [json.dumps(row) for row in rows]
    lines.insert(5, "{broken")
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    table = {
        "version": 1,
        "source": {"kind": "jsonl", "paths": "a.jsonl", "id": "id", "shard_bytes": 3000},
        "steps": [
            "unicode",
            {"kind": "gopher", "max_duplicate_ngram_characters": None, "max_top_ngram_characters": None},
            "exact_dedup",
        ],
    }
    (folder / "clean.yaml").write_text(json.dumps(table | pipeline))


def published(folder: Path) -> dict[str, bytes]:
    """Every file of the output but run.json."""
    found = [p for p in folder.rglob("*") if p.is_file() and ".work" not in p.parts and p.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_the_table_says_what_each_step_did(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    done = llmasos(tmp_path, "clean.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["step", "in", "kept", "dropped", "changed", "reasons"]
    assert [line.split() for line in lines[2:6]] == [
        ["00-source", "41", "40", "1", "0", "bad_json", "1"],
        ["01-unicode", "40", "40", "0", "0"],
        ["02-gopher", "40", "40", "0", "0"],
        ["03-exact_dedup", "40", "39", "1", "0", "exact_duplicate", "1"],
    ]
    assert lines[7].startswith("39 documents, ")
    assert "stage 1/2: jsonl, unicode, gopher, exact_dedup signatures" in done.stderr
    assert (tmp_path / "runs/clean/kept/00000.jsonl").is_file()
    dropped = (tmp_path / "runs/clean/dropped/03-exact_dedup.jsonl").read_text()
    assert json.loads(dropped) | {"text": ""} == {
        "id": "d39",
        "step": 3,
        "reason": "exact_duplicate",
        "detail": "same as d00",
        "text": "",
        "meta": {},
    }


def test_json_mode_has_the_counters_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    first = json.loads(llmasos(tmp_path, "clean.yaml", "--json").stdout)
    assert (first["documents"], first["reused"]) == (39, 0)
    assert first["steps"][3]["reasons"] == {"exact_duplicate": 1}
    again = json.loads(llmasos(tmp_path, "clean.yaml", "--json").stdout)
    assert again["reused"] == again["tasks"] == first["tasks"]


def test_one_and_three_workers_write_the_same_bytes(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    for workers in ("1", "3"):
        done = llmasos(tmp_path, "clean.yaml", "--output", workers, "--workers", workers, "--quiet")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert published(tmp_path / "1") == published(tmp_path / "3")
    assert len(list((tmp_path / "1" / "kept").iterdir())) > 3


@pytest.mark.parametrize(
    ("pipeline", "arguments", "code", "message", "hint"),
    [
        ({"steps": ["unicod"]}, (), 5, "clean.yaml:1: ", "unicode"),
        ({"steps": [{"kind": "gopher", "min_word": 3}]}, (), 2, "did you mean `min_words`?", "options: "),
        (
            {"source": {"kind": "jsonl", "paths": "none.jsonl"}},
            (),
            2,
            "there is no file 'none.jsonl'",
            "relative",
        ),
        ({"stepz": []}, (), 2, "unknown key `stepz`, did you mean `steps`?", "keys: "),
        ({}, ("--output", "a.jsonl"), 2, "a.jsonl is a file", "--output"),
    ],
)
def test_bad_input_is_two_lines_and_an_exit_code(
    tmp_path: Path, pipeline: dict[str, Any], arguments: tuple[str, ...], code: int, message: str, hint: str
) -> None:
    write_inputs(tmp_path, **pipeline)
    done = llmasos(tmp_path, "clean.yaml", "--quiet", *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    error, advice = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice


def test_workers_of_a_killed_run_leave(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join(lines * 40) + "\n")
    environ = {**environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmasos", "--only", "llmasos-data", "data", "process", "clean.yaml"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "-q"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    work = tmp_path / "runs/clean/.work"
    deadline = time.monotonic() + 120
    while not list(work.glob("[0-9a-f][0-9a-f]/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = _children(process.pid)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [child for child in children if _alive(child)]
    done = llmasos(tmp_path, "clean.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reused"] > 0


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "b.jsonl").write_text("\n".join(lines * 40) + "\n")
    table = json.loads((tmp_path / "clean.yaml").read_text())
    table["source"]["paths"] = "b.jsonl"
    (tmp_path / "clean.yaml").write_text(json.dumps(table))
    whole = llmasos(tmp_path, "clean.yaml", "--output", "whole", "--quiet")
    assert whole.returncode == 0
    environ = {**environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmasos", "--only", "llmasos-data", "data", "process", "clean.yaml"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "-q"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True
    )
    work = tmp_path / "runs/clean/.work"
    deadline = time.monotonic() + 120
    while not list(work.glob("[0-9a-f][0-9a-f]/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(max(_children(process.pid)), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert published(tmp_path / "runs/clean") == published(tmp_path / "whole")


def _children(pid: int) -> list[int]:
    """Processes whose parent is ``pid`` (Linux)."""
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


def _alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_planted_duplicates_are_found_and_five_kills_change_nothing(tmp_path: Path) -> None:
    if not (SHARED / "warc").is_dir():
        pytest.skip("needs ../shared/data/warc and ../shared/data/text")
    environ = {**environment(tmp_path / "home"), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(REPOSITORY / "benchmarks" / "data_dedup.py"),
        "--data",
        str(SHARED),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["killed_after"]) == 5
    assert result["digest_after_kills"] == result["digest"]
    kinds = result["kinds"]
    assert {row["lost"] for row in kinds.values()} == {0}
    assert kinds["exact"]["removed"] == kinds["exact"]["planted"] > 400
    assert kinds["decoy"]["removed"] == 0 < kinds["decoy"]["planted"]
    assert result["planted"] > 1200
    assert result["recall"] > 0.99
    assert result["precision"] == 1.0


# ---- documentation ----------------------------------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of one language in a page of docs/."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_how_to_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text(blocks("how-to/process-data.md", "json")[0])
    (tmp_path / "clean.yaml").write_text(blocks("how-to/process-data.md", "yaml")[0])
    (command,) = blocks("how-to/process-data.md", "console")
    done = llmasos(tmp_path, *command.split()[3:])
    assert done.returncode == 0, done.stderr
    shown = blocks("how-to/process-data.md", "text")[0].splitlines()
    assert [line.rstrip() for line in done.stdout.splitlines()[: len(shown)]] == [
        line.rstrip() for line in shown
    ]
    dropped = [
        json.loads(line)["detail"]
        for path in sorted((tmp_path / "clean/dropped").iterdir())
        for line in path.open()
    ]
    text = (REPOSITORY / "docs/how-to/process-data.md").read_text(encoding="utf-8")
    assert f'"detail": "{dropped[0]}"' in text
    assert f'"detail": "{dropped[-1]}"' in text
    python = blocks("how-to/process-data.md", "python")[-1]
    environ = environment(tmp_path / "home")
    (tmp_path / "script.py").write_text(python)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "1 documents, 5 of 5 results were there\n", ran.stderr


@pytest.mark.parametrize(
    ("heading", "module", "options"),
    [
        ("text", "llmasos_data.text", "TextOptions"),
        ("jsonl", "llmasos_data.jsonl", "JsonlOptions"),
        ("warc", "llmasos_data.warc", "WarcOptions"),
        ("unicode", "llmasos_data.unicode", "UnicodeOptions"),
        ("gopher", "llmasos_data.gopher", "GopherOptions"),
        ("exact_dedup", "llmasos_data.exact", "ExactOptions"),
        ("near_dedup", "llmasos_data.near", "NearOptions"),
        ("tokenize_pack", "llmasos_data.packing", "PackOptions"),
        ("Output", "llmasos.pipelines.recipe", "OutputOptions"),
    ],
)
def test_the_reference_lists_every_option_with_its_default(heading: str, module: str, options: str) -> None:
    text = (REPOSITORY / "docs/reference/pipelines.md").read_text(encoding="utf-8")
    section = re.split(rf"^##+ {heading}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^##+ ", section, flags=re.MULTILINE)[0]
    table = section.split("| option ", 1)[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", table, re.MULTILINE))
    fields = dataclasses.fields(getattr(importlib.import_module(module), options))
    assert list(rows) == [field.name for field in fields]
    for field in fields:
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if isinstance(default, dict):
            assert rows[field.name] == ", ".join(f"{key}: {value}" for key, value in default.items())
        elif isinstance(default, tuple):
            assert rows[field.name] == ", ".join(default)
        elif field.default is dataclasses.MISSING:
            assert rows[field.name] == ""
        else:
            assert rows[field.name].strip("`") == (
                default if isinstance(default, str) else json.dumps(default)
            )


def test_the_step_of_the_explanation_runs(tmp_path: Path) -> None:
    (code,) = blocks("explanation/data.md", "python")
    # As a module, so that the dataclass finds its own annotations.
    (tmp_path / "without_step.py").write_text("from __future__ import annotations\n" + code)
    spec = importlib.util.spec_from_file_location("without_step", tmp_path / "without_step.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["without_step"] = module
    try:
        spec.loader.exec_module(module)
        step = module.Without({"words": "bad"}, None)
        decisions = list(step.process([Document("1", "good"), Document("2", "a bad one")]))
    finally:
        del sys.modules["without_step"]
    assert [(d.kept, d.detail) for d in decisions] == [(True, ""), (False, "bad")]
