"""``llmasos model quantise`` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from llmasos.testing.checkpoints import write_checkpoint


def llmasos(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmasos", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_it_writes_a_model_and_says_what_it_costs(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tiny", "llama", hidden_size=64, intermediate_size=96)
    text = tmp_path / "text.txt"
    text.write_text("A pane of glass in that very building was cracked. " * 10)
    small = tmp_path / "small"
    done = llmasos(
        "model", "quantise", source, "--dtype", "int8", "--output", small, "--text", text, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "quantising" in done.stderr
    report = json.loads(done.stdout)
    assert report["file"] == "tiny-int8.gguf"
    assert report["bytes_after"] < report["bytes_before"]
    assert report["perplexity"]["before"] > 1
    assert sorted(path.name for path in small.iterdir()) == [
        "tiny-int8.gguf",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    again = llmasos("model", "quantise", source, "--dtype", "int8", "--output", small)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "hint:" in again.stderr
    said = llmasos("generate", small, "Once", "--dtype", "auto", "--max-new-tokens", 3, "--json")
    assert said.returncode == 0, said.stderr
