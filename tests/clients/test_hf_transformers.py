"""transformers against our registry: AutoConfig and AutoTokenizer from a model here, and what the second time costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_clients import client_environ

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

LOAD = """
import json, sys
from transformers import AutoConfig, AutoTokenizer
config = AutoConfig.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(json.dumps({"type": config.model_type, "size": config.hidden_size, "ids": tokenizer("a b c")["input_ids"]}))
"""
SNAPSHOT = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1]))"


@pytest.fixture(scope="module")
def model(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a configuration and a tokenizer, uploaded by a stock client."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"})
    )
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64})
    )
    (folder / "README.md").write_text("---\nlicense: mit\n---\nTiny.\n")
    upload = (
        "import sys, huggingface_hub as h; h.create_repo(sys.argv[1]);"
        "h.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])"
    )
    environ = client_environ(
        registry.url, tmp_path_factory.mktemp("uploader"), registry.user("trans"), xet=False
    )
    run(environ, upload, "trans/tiny", str(folder))
    return "trans/tiny"


def run(environ: dict[str, str], program: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_config_and_tokenizer_load_by_name(registry: Any, model: str, tmp_path: Path) -> None:
    environ = client_environ(registry.url, tmp_path / "home")
    loaded = json.loads(run(environ, LOAD, model).splitlines()[-1])
    assert loaded == {"type": "llama", "size": 64, "ids": [0, 1, 2]}
    seen = len(registry.requests())
    assert json.loads(run(environ, LOAD, model).splitlines()[-1]) == loaded
    again = registry.requests()[seen:]
    # Files come from the cache: what is asked for is the revision, and files known to be missing are not asked for.
    assert [line for line in again if line.startswith("GET") and "/resolve/" in line] == []
    assert all(line.split()[2] in ("200", "304", "404") for line in again), again


def test_the_second_snapshot_makes_one_request(registry: Any, model: str, tmp_path: Path) -> None:
    environ = client_environ(registry.url, tmp_path / "home")
    start = len(registry.requests())
    first = run(environ, SNAPSHOT, model)
    cold = registry.requests()[start:]
    middle = len(registry.requests())
    assert run(environ, SNAPSHOT, model) == first
    assert len(registry.requests()[middle:]) == 1
    # Cold: the revision, the tree, and HEAD and GET of each of the four files.
    assert len([line for line in cold if "/resolve/" in line]) == 8
    assert {path.name for path in Path(first.strip()).iterdir()} == {
        "README.md",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
