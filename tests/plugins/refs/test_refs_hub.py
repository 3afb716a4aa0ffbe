"""hf:// references: the stock huggingface_hub client against a real server, then against its cache alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Repository, hub_server

from llmasos.api import ModelNotFound, UsageError
from llmasos_refs.hub_repository import RepositoryReference, choose_files

OLD, NEW = "a" * 40, "b" * 40
FILES = {
    "README.md": b"# card",
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b'{"eos_token_id": 2}',
    "model-00001-of-00002.safetensors": b"one" * 99,
    "model-00002-of-00002.safetensors": b"two" * 99,
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "consolidated.safetensors": b"again",
    "pytorch_model.bin": b"pickle",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "modeling_llama.py": b"raise SystemExit(99)",
    "onnx/model.onnx": b"onnx",
    "onnx/model.safetensors": b"other",
}
WANTED = {
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "chat_template.jinja",
}
REPOSITORIES = {
    "acme/tiny": Repository({OLD: {**FILES, "config.json": b"{}"}, NEW: FILES}, {"main": NEW, "v1": OLD}),
    "acme/quantised": Repository(
        {NEW: {"README.md": b"", "a.Q4_0.gguf": b"GGUF a", "sub/b.Q8_0.gguf": b"GGUF b"}}, {"main": NEW}
    ),
    "acme/one-gguf": Repository({NEW: {"only.gguf": b"GGUF"}}, {"main": NEW}),
    "acme/data": Repository({NEW: {"train.jsonl": b"{}"}}, {"main": NEW}),
    "acme/gated": Repository({NEW: FILES}, {"main": NEW}, gated=True),
}
PROGRAM = """
import dataclasses, json, sys
from llmasos.api import LlmasosError
from llmasos_refs.hub_repository import resolve_repository
try:
    found = resolve_repository(sys.argv[1], offline=sys.argv[2] == "offline")
    value = {name: getattr(found, name) for name in ("source", "revision", "license")}
    value |= {"path": str(found.path), "files": dict(found.files), "provenance": dict(found.provenance)}
    value["present"] = sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file())
    print(json.dumps(value))
except LlmasosError as error:
    print(json.dumps({"error": type(error).__name__, "exit": int(error.exit_code), "message": error.message, "hint": error.hint}))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server(REPOSITORIES) as server:
        yield server


def _resolve(ref: str, home: Path, *, endpoint: str, offline: bool = False, **env: str) -> dict[str, Any]:
    """In a process of its own, because huggingface_hub reads its environment once."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ref, "offline" if offline else "online"],
        env={**clean, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["stderr"] = done.stderr
    return answer


def test_a_model_is_fetched_then_found_offline(hub: HubServer, tmp_path: Path) -> None:
    found = _resolve("hf://acme/tiny", tmp_path, endpoint=hub.url)
    assert found["revision"] == NEW
    assert found["license"] == "apache-2.0"
    assert set(found["present"]) == hub.fetched() == WANTED
    large = "model-00001-of-00002.safetensors"
    assert found["files"][large] == hashlib.sha256(FILES[large]).hexdigest()
    assert (Path(found["path"]) / large).read_bytes() == FILES[large]
    assert found["provenance"] == {"repository": "acme/tiny", "requested_revision": "main", "commit": NEW}

    asked = len(hub.requests)
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = _resolve("hf://acme/tiny", tmp_path, endpoint=hub.url, offline=not variables, **variables)
        assert again["path"] == found["path"]
        assert again["files"] == found["files"]
        assert again["revision"] == NEW
    assert len(hub.requests) == asked


def test_a_revision_is_a_branch_or_a_commit(hub: HubServer, tmp_path: Path) -> None:
    by_name = _resolve("hf://acme/tiny@v1", tmp_path, endpoint=hub.url)
    assert by_name["revision"] == OLD
    assert (Path(by_name["path"]) / "config.json").read_bytes() == b"{}"
    assert (
        _resolve(f"hf://acme/tiny@{OLD}", tmp_path, endpoint=hub.url, offline=True)["path"] == by_name["path"]
    )


def test_one_file_of_several(hub: HubServer, tmp_path: Path) -> None:
    found = _resolve("hf://acme/quantised/sub/b.Q8_0.gguf", tmp_path, endpoint=hub.url)
    assert Path(found["path"]).read_bytes() == b"GGUF b"
    assert found["files"] == {"b.Q8_0.gguf": hashlib.sha256(b"GGUF b").hexdigest()}
    assert hub.fetched() == {"sub/b.Q8_0.gguf"}
    assert Path(_resolve("hf://acme/one-gguf", tmp_path, endpoint=hub.url)["path"]).read_bytes() == b"GGUF"


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        ("hf://acme/nothing", "no repository acme/nothing", "spelling"),
        ("hf://acme/tiny@v2", "no revision v2", "main, v1"),
        ("hf://acme/tiny/model.gguf", "no file model.gguf", ""),
        ("hf://acme/tiny/modeling_llama.py", "code, which is never fetched", ""),
        ("hf://acme/quantised", "2 GGUF files", "hf://acme/quantised/a.Q4_0.gguf"),
        ("hf://acme/data", "no weights", "train.jsonl"),
        ("hf://acme/gated", "accept conditions", "hf auth login"),
    ],
)
def test_what_is_not_there_is_explained(
    ref: str, message: str, hint: str, hub: HubServer, tmp_path: Path
) -> None:
    answer = _resolve(ref, tmp_path, endpoint=hub.url)
    assert (answer["error"], answer["exit"]) == ("ModelNotFound", 5)
    assert message in answer["message"]
    assert hint in answer["hint"]
    assert not hub.fetched()


def test_offline_and_not_cached(hub: HubServer, tmp_path: Path) -> None:
    answer = _resolve("hf://acme/tiny", tmp_path, endpoint=hub.url, offline=True)
    assert (answer["error"], answer["exit"]) == ("ModelNotFound", 5)
    assert "offline" in answer["message"]
    assert "--offline" in answer["hint"]
    assert not hub.requests


@pytest.mark.parametrize("dangling", [True, False])
def test_a_cache_that_lost_a_file_is_not_complete(dangling: bool, hub: HubServer, tmp_path: Path) -> None:
    found = _resolve("hf://acme/tiny", tmp_path, endpoint=hub.url)
    shard = Path(found["path"]) / "model-00002-of-00002.safetensors"
    os.unlink(os.path.realpath(shard) if dangling else shard)
    answer = _resolve("hf://acme/tiny", tmp_path, endpoint=hub.url, offline=True)
    assert "model-00002-of-00002.safetensors is incomplete" in answer["message"]


def test_an_unreachable_endpoint_is_explained(tmp_path: Path) -> None:
    answer = _resolve("hf://acme/tiny", tmp_path, endpoint="http://127.0.0.1:9")
    assert (answer["error"], answer["exit"]) == ("ModelNotFound", 5)
    assert "HF_ENDPOINT" in answer["hint"]


def test_a_token_is_used_and_never_shown(hub: HubServer, tmp_path: Path) -> None:
    found = _resolve("hf://acme/gated", tmp_path, endpoint=hub.url, HF_TOKEN="hf_secret")
    assert found["revision"] == NEW
    assert ("GET", f"/acme/gated/resolve/{NEW}/config.json", "Bearer hf_secret") in hub.requests
    assert "hf_secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("ref", "repo", "revision", "file"),
    [
        ("hf://acme/tiny", "acme/tiny", "main", ""),
        ("hf://gpt2", "gpt2", "main", ""),
        ("hf://acme/tiny@v1.0", "acme/tiny", "v1.0", ""),
        ("hf://acme/tiny@refs/pr/3", "acme/tiny", "refs/pr/3", ""),
        ("hf://acme/tiny@feature%2Fx/a/b.gguf", "acme/tiny", "feature/x", "a/b.gguf"),
        ("hf://acme/tiny/b.gguf", "acme/tiny", "main", "b.gguf"),
    ],
)
def test_references_are_taken_apart(ref: str, repo: str, revision: str, file: str) -> None:
    parsed = RepositoryReference.parse(ref)
    assert (parsed.repo, parsed.revision, parsed.file) == (repo, revision, file)


@pytest.mark.parametrize(
    "ref",
    [
        "hf://",
        "hf:///x",
        "hf://a b/c",
        "hf://acme/tiny@",
        "hf://acme/tiny/../x",
        "hf://acme/tiny//x",
        "hf://a/b@..",
        "hf://a/b@..%2Fx",
    ],
)
def test_malformed_references(ref: str) -> None:
    with pytest.raises(UsageError) as caught:
        RepositoryReference.parse(ref)
    assert "hf://org/name" in str(caught.value.hint)


def test_pickles_only_when_there_is_nothing_else() -> None:
    wanted = RepositoryReference.parse("hf://acme/old")
    assert choose_files(["config.json", "pytorch_model.bin", "flax_model.msgpack"], wanted) == [
        "config.json",
        "pytorch_model.bin",
    ]
    with pytest.raises(ModelNotFound):
        choose_files(["config.json", "tf_model.h5"], wanted)
