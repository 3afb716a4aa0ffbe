"""Bad models through the command line: one clear error, a hint, the right exit code, never a traceback."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos.errors import ExitCode
from llmasos.testing.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("good") / "model", "llama")


def missing(folder: Path) -> Path:
    return folder / "nowhere"


def truncated_safetensors(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def lying_offsets(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(n for n in header if n != "__metadata__")
    header[name]["data_offsets"][1] += 1 << 40
    text = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return folder


def absurd_header_length(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 1 << 62) + weights.read_bytes()[8:])
    return folder


def absurd_gguf_counts(folder: Path) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 1 << 60) + b"\0" * 64)
    return file


def unknown_architecture(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "rwkv7", "architectures": ["Rwkv7ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def missing_tensor(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    return folder


def pickle_only(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    return folder


def broken_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"')
    return folder


def broken_config(folder: Path) -> Path:
    (folder / "config.json").write_text("{")
    return folder


CASES: list[tuple[Callable[[Path], Path], ExitCode, str]] = [
    (missing, ExitCode.NOT_FOUND, "nowhere"),
    (truncated_safetensors, ExitCode.RUN_FAILED, "model.safetensors"),
    (lying_offsets, ExitCode.RUN_FAILED, "model.safetensors"),
    (absurd_header_length, ExitCode.RUN_FAILED, "model.safetensors"),
    (absurd_gguf_counts, ExitCode.RUN_FAILED, "model.gguf"),
    (unknown_architecture, ExitCode.NOT_FOUND, "rwkv7"),
    (missing_tensor, ExitCode.RUN_FAILED, "model.layers.2"),
    (pickle_only, ExitCode.RUN_FAILED, "--allow-pickle"),
    (broken_tokenizer, ExitCode.RUN_FAILED, "tokenizer.json"),
    (broken_config, ExitCode.RUN_FAILED, "config.json"),
]


@pytest.mark.parametrize(("damage", "code", "names"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_generate_reports_a_bad_model(
    good: Path, tmp_path: Path, damage: Callable[[Path], Path], code: ExitCode, names: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    arguments = ["generate", str(damage(folder)), "hello", "--max-new-tokens", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "llmasos", *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
    assert "hint: " in result.stderr
    assert names in result.stderr
