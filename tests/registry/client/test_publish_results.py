"""Results and a running registry, through the command line: publish, compare on a leaderboard, fetch, verify, attest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from person import Person
from registries import Server

pytest.importorskip("torch", reason="needs the extra `torch`")

TASK = """
task: sums
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: [" one", " two", " three"]
doc_to_target: answer
metric_list: [{metric: acc}]
metadata: {version: 1}
"""
DOCUMENTS = 12


@pytest.fixture
def people(registry: Server, tmp_path: Path) -> Callable[[str], Person]:
    """Somebody with a key that the registry knows, and the task."""

    def make(name: str) -> Person:
        person = Person(tmp_path / name, registry.url, registry.user(name))
        person.run("registry", "key", "new", "--register")
        tasks = person.folder / "tasks"
        tasks.mkdir()
        (tasks / "sums.yaml").write_text(TASK)
        rows = [{"question": f"What is {n} times {n}?", "answer": n % 3} for n in range(DOCUMENTS)]
        (tasks / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return person

    return make


def evaluate(person: Person, model: Path, name: str) -> Path:
    """A signed run."""
    folder = person.folder / name
    person.run(
        "eval",
        str(model),
        "sums",
        "--include",
        "tasks",
        "--output",
        str(folder),
        "--bootstrap",
        "0",
        "--quiet",
    )
    person.run("eval", "sign", str(folder))
    return folder


def test_from_a_run_to_a_verified_place_on_the_leaderboard(
    people: Callable[[str], Person], tmp_path: Path
) -> None:
    from llmasos.testing.checkpoints import write_checkpoint

    models = []
    for seed, family in enumerate(("llama", "gpt2")):
        models.append(tmp_path / f"model-{seed}")
        write_checkpoint(models[-1], family)
    ann, bob = people("ann"), people("bob")
    runs = [evaluate(ann, model, model.name) for model in models]
    answers = [ann.json("eval", "publish", str(run)) for run in runs]
    assert [(a["owner"], a["state"], a["samples"], a["sent"]) for a in answers] == [
        ("ann", "self-reported", {"sums": DOCUMENTS}, ["sums"])
    ] * 2
    # The same again sends nothing.
    assert ann.json("eval", "publish", str(runs[0]))["sent"] == []

    assert bob.json("eval", "leaderboard") == {"tasks": [{"task": "sums", "models": 2}]}
    (column,) = bob.json("eval", "leaderboard", "sums")["columns"]
    values = [json.loads((run / "record.json").read_text())["tasks"][0]["scores"][0] for run in runs]
    assert [row["value"] for row in column["rows"]] == sorted((v["value"] for v in values), reverse=True)
    assert column["rows"][1]["above"]["documents"] == DOCUMENTS
    shown = bob.run("eval", "leaderboard", "sums").stdout
    assert "self-reported" in shown
    assert f"{DOCUMENTS} documents" in shown

    digest = answers[0]["digest"]
    fetched = bob.folder / "fetched"
    bob.run("eval", "fetch", digest, "--output", str(fetched))
    for file in sorted(path.name for path in runs[0].glob("samples_*.jsonl")):
        assert (fetched / file).read_bytes() == (runs[0] / file).read_bytes()
    assert json.loads((fetched / "record.json").read_text()) == json.loads(
        (runs[0] / "record.json").read_text()
    )
    attestation = bob.json("eval", "verify", str(fetched), "--sample", "5", "--include", "tasks")
    assert attestation["verdict"] == "confirmed"
    sent = bob.json("eval", "attest", attestation["file"])
    assert (sent["by"], sent["sample"], sent["independent"]) == ("bob", 5, True)
    states = {
        row["record"]: row["state"] for row in bob.json("eval", "leaderboard", "sums")["columns"][0]["rows"]
    }
    assert states == {digest: "spot-checked", answers[1]["digest"]: "self-reported"}


def test_what_is_missing_is_said(people: Callable[[str], Person], tmp_path: Path) -> None:
    from llmasos.testing.checkpoints import write_checkpoint

    write_checkpoint(tmp_path / "model", "llama")
    ann = people("ann")
    run = evaluate(ann, tmp_path / "model", "run")
    (run / "record.sig").rename(run / "kept.sig")
    assert "sign it first" in ann.refused("eval", "publish", str(run), code=2)
    (run / "kept.sig").rename(run / "record.sig")
    record = json.loads((run / "record.json").read_text())
    record["tasks"][0]["scores"][0]["value"] = 1.0
    (run / "record.json").write_text(json.dumps(record))
    assert "digest" in ann.refused("eval", "publish", str(run), code=2)
    assert "There is no record" in ann.refused("eval", "fetch", "0" * 64, "--output", "x", code=5)
    assert not (ann.folder / "x").exists()
    assert "No score of" in ann.refused("eval", "leaderboard", "products", code=5)
