"""Data sets in a registry: published by the stock client, read by `llmasos eval` through the Hub's protocol, then offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_clients import client_environ

from llmasos.testing.checkpoints import write_checkpoint

CARD = """---
configs:
- config_name: easy
  default: true
  data_files:
  - split: test
    path: easy/test-*.jsonl
  - split: train
    path: easy/train.csv
- config_name: hard
  data_files:
  - split: test
    path: hard.jsonl
---
# Sums
"""
ROWS = [{"question": f"{n} + {n} =", "options": [str(n), str(2 * n)], "right": 1} for n in range(1, 7)]
TASK = {
    "task": "sums",
    "dataset_path": "ann/sums",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "options",
    "doc_to_target": "right",
    "metric_list": [{"metric": "acc"}],
}
BENCHMARK = {
    "name": "Sums",
    "evaluation_framework": "inspect-ai",
    "tasks": [
        {
            "id": name,
            "config": name,
            "field_spec": {"input": "question", "target": "right", "choices": "options"},
            "solvers": [{"name": "multiple_choice"}],
            "scorers": [{"name": "choice"}],
        }
        for name in ("easy", "hard")
    ],
}
#: Opens data as tasks do, one request after the other, in a process of its own: huggingface_hub reads its environment once.
OPEN = """
import json, sys
from pathlib import Path
import llmasos
from llmasos.api import LlmasosError
from llmasos_evals.datasets.opening import open_data
root = Path(sys.argv[1])
answers = []
with llmasos.Hub(cache_dir=root / "cache", config_dir=root / "config", data_dir=root / "data") as hub:
    for path, name, options, split in json.loads(sys.argv[2]):
        try:
            data = open_data("t", path, options, Path("t.yaml"), dataset_name=name, hub=hub, splits=["test"])
            rows = data.split(split)
            answers.append({"rows": rows[:], "names": list(data.names), "origin": dict(data.origin)})
        except LlmasosError as error:
            answers.append({"error": error.message, "hint": error.hint})
print(json.dumps(answers))
"""
UPLOAD = """
import sys, huggingface_hub as h
h.create_repo(sys.argv[1], repo_type="dataset")
print(h.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2], repo_type="dataset").oid)
"""


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


class Person:
    """Somebody with a home of their own, where the Hub is the registry."""

    def __init__(self, url: str, home: Path, token: str | None = None) -> None:
        self.home = home
        self.environ = client_environ(url, home, token, xet=False)
        self.environ |= {
            "LLMASOS_CACHE": str(home / "cache"),
            "LLMASOS_CONFIG": str(home / "config"),
            "LLMASOS_DATA": str(home / "data"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: str, offline: bool = False, expect: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {**self.environ, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
        done = subprocess.run(
            [sys.executable, *words], env=environ, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == expect, done.stderr[-3000:]
        return done

    def open(
        self, *requests: tuple[str, str | None, dict[str, Any], str], offline: bool = False
    ) -> list[Any]:
        made = self.run("-c", OPEN, str(self.home), json.dumps(requests), offline=offline)
        found: list[Any] = json.loads(made.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def published_data(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The commit of a data set with two configurations, and of one that is a script."""
    ann = Person(registry.url, tmp_path_factory.mktemp("ann"), registry.user("ann"))
    folder = tmp_path_factory.mktemp("set")
    (folder / "easy").mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "easy" / "test-00000-of-00002.jsonl").write_text(lines(ROWS[:3]))
    (folder / "easy" / "test-00001-of-00002.jsonl").write_text(lines(ROWS[3:]))
    (folder / "easy" / "train.csv").write_text("question,right\na,0\nb,1\n")
    (folder / "hard.jsonl").write_text(lines(ROWS[:1]))
    (folder / "sums.py").write_text("raise SystemExit('a script ran')\n")
    (folder / "eval.yaml").write_text(json.dumps(BENCHMARK))
    commit = ann.run("-c", UPLOAD, "ann/sums", str(folder)).stdout.split()[-1]
    script = tmp_path_factory.mktemp("script")
    (script / "old.py").write_text("raise SystemExit('a script ran')\n")
    (script / "test.jsonl").write_text(lines(ROWS[:1]))
    ann.run("-c", UPLOAD, "ann/old", str(script))
    return commit


def test_configurations_splits_and_single_files(registry: Any, published_data: str, tmp_path: Path) -> None:
    ben = Person(registry.url, tmp_path)
    easy, default, hard, train, one, data_file, wrong, script, gone = ben.open(
        ("ann/sums", "easy", {}, "test"),
        ("ann/sums", None, {}, "test"),
        ("ann/sums", "hard", {"revision": published_data}, "test"),
        ("ann/sums", "easy", {}, "train"),
        ("json", None, {"data_files": {"x": "hf://datasets/ann/sums/hard.jsonl"}}, "x"),
        ("ann/sums", "any", {"data_files": {"y": "easy/test-00001*"}}, "y"),
        ("ann/sums", "none", {}, "test"),
        ("ann/old", None, {}, "test"),
        ("ann/absent", None, {}, "test"),
    )
    assert [len(found["rows"]["question"]) for found in (easy, default, hard, one, data_file)] == [
        6,
        6,
        1,
        1,
        3,
    ]
    assert easy["names"] == ["test", "train"]
    assert easy["origin"] == {"kind": "hub", "name": "ann/sums", "config": "easy", "revision": published_data}
    assert train["rows"] == {"question": ["a", "b"], "right": [0, 1]}
    assert wrong["hint"] == "its configurations: easy, hard"
    assert "a loading script (old.py), which is code and is not run" in script["error"]
    assert "llmasos data add ann/old --split SPLIT=FILE" in script["hint"]
    assert "there is no data set ann/absent" in gone["error"]
    assert "llmasos data add ann/absent --split test=FILE" in gone["hint"]
    fetched = {
        line.split("/resolve/")[1].split("/", 1)[1] for line in registry.requests() if "/resolve/" in line
    }
    assert not any(name.partition(" ")[0].endswith(".py") for name in fetched)


def test_what_was_fetched_is_there_without_network(
    registry: Any, published_data: str, tmp_path: Path
) -> None:
    ben = Person(registry.url, tmp_path)
    (easy,) = ben.open(("ann/sums", "easy", {}, "test"))
    seen = len(registry.requests())
    again, train, hard = ben.open(
        ("ann/sums", "easy", {}, "test"),
        ("ann/sums", "easy", {}, "train"),
        ("ann/sums", "hard", {}, "test"),
        offline=True,
    )
    assert again == easy
    assert (
        "ann/sums is not here, and this run is offline (easy/train.csv was never fetched)" in train["error"]
    )
    assert "hard.jsonl was never fetched" in hard["error"]
    assert registry.requests()[seen:] == []
    # Shards that another program left half fetched are not taken for the whole.
    listing = next((tmp_path / "cache" / "data-listings").iterdir())
    listing.unlink()
    for shard in tmp_path.rglob("test-00001-of-00002.jsonl"):
        shard.unlink()
    refs = next(tmp_path.rglob("datasets--ann--sums")) / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(published_data)
    (half,) = ben.open(("ann/sums", "easy", {}, "test"), offline=True)
    assert "test-00001-of-00002.jsonl was never fetched" in half["error"]


def test_an_evaluation_from_the_registry_and_again_offline(
    registry: Any, published_data: str, tmp_path: Path
) -> None:
    ben = Person(registry.url, tmp_path)
    model = write_checkpoint(tmp_path / "model")
    (tmp_path / "sums.yaml").write_text(json.dumps(TASK))
    words = ["eval", str(model), str(tmp_path / "sums.yaml"), "--json", "--bootstrap", "0"]
    record = json.loads(ben.run("-m", "llmasos", *words, "--output", str(tmp_path / "a")).stdout)
    (task,) = record["tasks"]
    data = {key: task["data"][key] for key in ("kind", "name", "config", "revision", "split")}
    assert data == {
        "kind": "hub",
        "name": "ann/sums",
        "config": "easy",
        "revision": published_data,
        "split": "test",
    }
    assert task["scores"][0]["n"] == 6
    seen = len(registry.requests())
    offline = ben.run("-m", "llmasos", "--offline", *words, "--output", str(tmp_path / "b"))
    again = json.loads(offline.stdout)
    assert again["digest"] == record["digest"]
    assert registry.requests()[seen:] == []


def test_a_data_set_that_says_how_it_is_evaluated(registry: Any, published_data: str, tmp_path: Path) -> None:
    ben = Person(registry.url, tmp_path)
    words = ["-m", "llmasos", "eval", "show", "--json"]
    hard = json.loads(ben.run(*words, "hf://datasets/ann/sums/hard").stdout)
    assert (hard["fields"]["dataset_path"], hard["fields"]["dataset_name"]) == ("ann/sums", "hard")
    assert hard["fields"]["dataset_kwargs"] == {"revision": published_data}
    both = json.loads(ben.run(*words, "hf://datasets/ann/sums").stdout)
    assert [member["name"] for member in both["members"]] == ["easy", "hard"]
    model = write_checkpoint(tmp_path / "model", max_position_embeddings=512)
    words = ["eval", str(model), "hf://datasets/ann/sums/hard", "--json", "--bootstrap", "0"]
    record = json.loads(ben.run("-m", "llmasos", *words, "--output", str(tmp_path / "run")).stdout)
    (task,) = record["tasks"]
    assert (task["name"], task["scores"][0]["n"]) == ("hard", 1)
    assert (task["data"]["kind"], task["data"]["revision"]) == ("hub", published_data)
