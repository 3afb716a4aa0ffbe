"""``llmasos generate`` and ``llmasos model info`` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmasos.testing.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("generate") / "model", "llama")


def llmasos(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmasos", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


def test_the_continuation_alone_goes_to_stdout_and_is_repeatable(model: Path) -> None:
    first = llmasos("generate", model, "Once", "--max-new-tokens", 8, "--temperature", 1, "--seed", 3)
    again = llmasos("generate", model, "Once", "--max-new-tokens", 8, "--temperature", 1, "--seed", 3)
    other = llmasos("generate", model, "Once", "--max-new-tokens", 8, "--temperature", 1, "--seed", 4)
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != other.stdout
    assert "Once" not in first.stdout
    assert "loading" in first.stderr


def test_json_has_tokens_and_log_probabilities_for_each_prompt(model: Path) -> None:
    result = llmasos("generate", model, "one", "twenty-two", "--max-new-tokens", 5, "--logprobs", "--json")
    assert result.returncode == 0, result.stderr
    completions = json.loads(result.stdout)["completions"]
    assert [c["prompt"] for c in completions] == ["one", "twenty-two"]
    for completion in completions:
        assert len(completion["logprobs"]) == len(completion["tokens"]) <= 5
        assert all(value <= 0 for value in completion["logprobs"])
    assert "generating: 2/2" in result.stderr
    # A prompt's text does not depend on its neighbours.
    alone = llmasos("generate", model, "twenty-two", "--max-new-tokens", 5, "--json")
    assert json.loads(alone.stdout)["completions"][0]["tokens"] == completions[1]["tokens"]


def test_beams_have_scores_and_alternatives(model: Path) -> None:
    command = ("generate", model, "one", "--max-new-tokens", 5, "--num-beams", 3)
    result = llmasos(*command, "--num-return-sequences", 2, "--length-penalty", 0.5, "--json")
    assert result.returncode == 0, result.stderr
    (best,) = json.loads(result.stdout)["completions"]
    (second,) = best["alternatives"]
    assert 0 > best["score"] >= second["score"]
    assert best["tokens"] != second["tokens"]
    many = llmasos(*command, "--num-return-sequences", 4, "--json")
    assert many.returncode == 2
    assert "num_return_sequences must be from 1 to num_beams = 3" in many.stderr


def test_speculation_shows_how_many_guesses_were_right(model: Path) -> None:
    command = ("generate", model, "one", "--max-new-tokens", 20, "--json")
    plain, guessed = llmasos(*command), llmasos(*command, "--speculate", model)
    assert guessed.returncode == 0, guessed.stderr
    plain_said, said = json.loads(plain.stdout), json.loads(guessed.stdout)
    assert said["completions"][0]["tokens"] == plain_said["completions"][0]["tokens"]
    # The model itself is always right.
    counts = said["speculation"]
    assert counts["drafted"] == counts["accepted"] == said["completions"][0]["accepted"] > 0
    assert counts["acceptance"] == 1
    assert plain_said["speculation"] is None
    missing = llmasos(*command, "--speculate", "no/such/folder")
    assert missing.returncode != 0
    assert "Traceback" not in missing.stderr


def test_the_prompt_may_come_from_standard_input(model: Path) -> None:
    piped = llmasos("generate", model, "-", "--max-new-tokens", 6, stdin="Once")
    given = llmasos("generate", model, "Once", "--max-new-tokens", 6)
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == given.stdout
    for words in (["-"], []):
        empty = llmasos("generate", model, *words, stdin=" \n")
        assert (empty.returncode, empty.stdout) == (2, "")
        assert "there is no prompt: standard input is empty" in empty.stderr


def test_system_without_chat_and_chat_without_template_are_errors(model: Path) -> None:
    result = llmasos("generate", model, "hi", "--system", "be kind")
    assert result.returncode == 2
    assert "hint: add --chat" in result.stderr
    result = llmasos("generate", model, "hi", "--logprobs")
    assert result.returncode == 2
    assert "hint: add --json" in result.stderr
    result = llmasos("generate", model, "hi", "--chat")
    assert result.returncode == 1
    assert "chat template" in result.stderr
    assert "Traceback" not in result.stderr


def test_model_info_for_people_and_for_programs(model: Path) -> None:
    shown = llmasos("model", "info", model, "--tensors")
    assert shown.returncode == 0, shown.stderr
    for text in ("llmasos-transformer/llama", "safetensors", "model.embed_tokens.weight", "257"):
        assert text in shown.stdout
    parsed = json.loads(llmasos("model", "info", model, "--json").stdout)
    assert parsed["architecture"]["kind"] == "decoder"
    assert parsed["architecture"]["parameters"] > 1000
    assert parsed["tokenizer"]["vocab_size"] == 257


def test_model_info_imports_no_weights_into_memory(model: Path, tmp_path: Path) -> None:
    """The weights are 16 GB of hole in a sparse file; a process that read them would grow by as much."""
    config = json.loads((model / "config.json").read_text())
    folder = tmp_path / "huge"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (model / name).exists():
            (folder / name).write_bytes((model / name).read_bytes())
    huge = config | {
        "hidden_size": 16384,
        "intermediate_size": 65536,
        "num_hidden_layers": 1,
        "head_dim": 4096,
    }
    (folder / "config.json").write_text(json.dumps(huge))
    width, inner, keys, vocabulary = 16384, 65536, 8192, config["vocab_size"]
    shapes = {
        "lm_head.weight": (vocabulary, width),
        "model.embed_tokens.weight": (vocabulary, width),
        "model.layers.0.input_layernorm.weight": (width,),
        "model.layers.0.mlp.down_proj.weight": (width, inner),
        "model.layers.0.mlp.gate_proj.weight": (inner, width),
        "model.layers.0.mlp.up_proj.weight": (inner, width),
        "model.layers.0.post_attention_layernorm.weight": (width,),
        "model.layers.0.self_attn.k_proj.weight": (keys, width),
        "model.layers.0.self_attn.o_proj.weight": (width, width),
        "model.layers.0.self_attn.q_proj.weight": (width, width),
        "model.layers.0.self_attn.v_proj.weight": (keys, width),
        "model.norm.weight": (width,),
    }
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    code = (
        "import atexit, resource, runpy, sys\n"
        "peak = lambda: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        f"atexit.register(peak)\nsys.argv = ['llmasos', 'model', 'info', {str(folder)!r}, '--json']\n"
        "runpy.run_module('llmasos', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tensors"]["bytes"] == offset > 16_000_000_000
    peak_kib = int(result.stderr.rpartition("peak ")[2])
    assert peak_kib < 2 << 20
