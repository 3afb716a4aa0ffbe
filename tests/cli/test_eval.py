"""``llmasos eval`` from the outside: data on stdout, talk on stderr, exit codes, and no traceback for bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmasos.cli.eval_run import result_rows
from llmasos.cli.main import run
from llmasos.errors import ExitCode

TASK = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [red, green, blue]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
metadata: {version: 2}
"""
STORY = """
task: story
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["!"], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny random Llama with a byte-level tokenizer, as a Hugging Face folder."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    width, layers, heads, kv_heads, inner = 32, 2, 4, 2, 48
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    vocabulary = tokenizer.get_vocab_size()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "intermediate_size": inner,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": vocabulary,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for n in range(layers):
        shapes |= {
            f"model.layers.{n}.input_layernorm.weight": (width,),
            f"model.layers.{n}.post_attention_layernorm.weight": (width,),
            f"model.layers.{n}.self_attn.q_proj.weight": (width, width),
            f"model.layers.{n}.self_attn.k_proj.weight": (kv_heads * width // heads, width),
            f"model.layers.{n}.self_attn.v_proj.weight": (kv_heads * width // heads, width),
            f"model.layers.{n}.self_attn.o_proj.weight": (width, width),
            f"model.layers.{n}.mlp.gate_proj.weight": (inner, width),
            f"model.layers.{n}.mlp.up_proj.weight": (inner, width),
            f"model.layers.{n}.mlp.down_proj.weight": (width, inner),
        }
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(*shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "colours.yaml").write_text(TASK)
    (folder / "story.yaml").write_text(STORY)
    write_rows(folder, [{"question": f"Question {n}:", "answer": n % 3} for n in range(6)])
    return folder


def write_rows(folder: Path, documents: list[dict]) -> None:
    (folder / "colours.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))


def test_the_table_goes_to_stdout_and_the_talk_to_stderr(model, tasks, tmp_path, capsys):
    code = run(
        ["eval", str(model), "colours", "story", "--include", str(tasks), "--output", str(tmp_path / "out")]
    )
    out, err = capsys.readouterr()
    assert code == ExitCode.OK, err
    header, _, *lines = out.splitlines()
    names = ["task", "version", "shots", "metric", "filter", "value", "95 % interval", "stderr", "n"]
    assert re.split(r"  +", header.strip()) == names
    assert [line.split()[0] for line in lines] == ["colours", "story"]
    assert re.search(r"acc +none +0\.\d+ +0\.\d{4} to [01]\.\d{4} +0\.\d{4} +6$", lines[0])
    assert "scoring: 24/24" in err  # three choices and a prompt a document
    assert f"record and samples: {tmp_path / 'out'}" in err
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["model"]["architecture"] == "llmasos-transformer/llama"
    assert {plugin["id"] for plugin in record["plugins"]} >= {"llmasos-evals", "llmasos-transformer"}
    assert len((tmp_path / "out" / "samples_colours.jsonl").read_text().splitlines()) == 6


def test_json_is_the_record_and_running_again_gives_the_same_digest(model, tasks, capsys):
    command = ["eval", str(model), str(tasks / "colours.yaml"), "--limit", "4", "--bootstrap", "10", "--json"]
    records = []
    for extra in ([], [], ["--no-resume"]):
        assert run([*command, *extra]) == ExitCode.OK
        records.append(json.loads(capsys.readouterr().out))
    assert records[0]["tasks"][0]["scores"][0]["n"] == 4
    assert len({record["digest"] for record in records}) == 1
    assert [record["timings"]["documents_resumed"] for record in records] == [0, 4, 0]


def test_a_limit_beyond_the_documents_is_no_other_run(model, tasks, capsys):
    digests = set()
    for extra in (["--limit", "100"], []):
        assert run(["eval", str(model), str(tasks / "colours.yaml"), "--json", *extra]) == ExitCode.OK
        out, err = capsys.readouterr()
        digests.add(json.loads(out)["digest"])
        assert ("warning: --limit has no effect: no task has more documents" in err) == bool(extra)
    assert len(digests) == 1
    assert "every document was finished before" in err


def test_batch_size_does_not_change_a_likelihood(model, tasks, capsys):
    digests = set()
    for size in ("1", "5"):
        command = ["eval", str(model), "colours", "--include", str(tasks), "--batch-size", size, "--json"]
        assert run(command) == ExitCode.OK
        digests.add(json.loads(capsys.readouterr().out)["samples_digest"])
    assert len(digests) == 1


def test_progress_is_there_at_once(model, tasks, tmp_path):
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmasos", "eval", str(model), "colours", "--include", str(tasks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        first = process.stderr.readline()
        waited = time.monotonic() - started
    finally:
        process.communicate()
    assert first.startswith("reading tasks")
    # A second on an idle machine, most of it the interpreter; the limit leaves room for a busy one.
    assert waited < 10


#: The command line in a process that sends itself a signal once so many documents are written.
STOPPED = """
import os, signal, sys
from llmasos.cli.main import run
from llmasos_evals.records.store import SampleStore

# A shell that starts the tests in the background has them ignore SIGINT (POSIX); a terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)
append, left = SampleStore.append, [7]

def counted(store, task, sample):
    place = append(store, task, sample)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return place

SampleStore.append = counted
sys.exit(run(sys.argv[2:]))
"""


def stopped_by(name: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STOPPED, name, *arguments],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )


def test_killed_and_resumed_is_the_same_record(model, tasks, tmp_path):
    # Processes of their own throughout: another test may have changed this one's number of threads.
    def finished(folder: Path) -> dict:
        done = stopped_by("SIGCONT", [*command, str(folder)])  # a signal that stops nothing
        assert done.returncode == ExitCode.OK, done.stderr
        return json.loads(done.stdout)

    write_rows(tasks, [{"question": f"Question {n}:", "answer": n % 3} for n in range(20)])
    command = ["eval", str(model), "colours", "--include", str(tasks), "--json", "--output"]
    done = stopped_by("SIGKILL", [*command, str(tmp_path / "part")])
    assert done.returncode == -signal.SIGKILL, done.stderr
    samples = tmp_path / "part" / "samples_colours.jsonl"
    assert len(samples.read_bytes().splitlines()) == 7
    samples.write_bytes(samples.read_bytes()[:-9])  # as if the power had gone too
    record = finished(tmp_path / "part")
    assert record["timings"]["documents_resumed"] == 6
    assert record["digest"] == finished(tmp_path / "whole")["digest"]


def test_an_interruption_says_what_is_kept_and_exits_130(model, tasks, tmp_path):
    write_rows(tasks, [{"question": f"Question {n}:", "answer": n % 3} for n in range(20)])
    out = tmp_path / "out"
    done = stopped_by(
        "SIGINT", ["eval", str(model), "colours", "--include", str(tasks), "--output", str(out)]
    )
    assert done.returncode == ExitCode.INTERRUPTED, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "of 20 documents are kept in" in done.stderr
    assert "the same command goes on from there" in done.stderr
    assert json.loads((out / "status.json").read_text())["state"] == "interrupted"


# ---- bad input ---------------------------------------------------------------------------------------------------------


def fails(arguments: list[str], capsys) -> tuple[int, str]:
    code = run(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "internal error" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    return code, err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-model", "colours"], ExitCode.NOT_FOUND, "no-such-model"),
        (["MODEL", "colors"], ExitCode.NOT_FOUND, "did you mean colours"),
        (["MODEL"], ExitCode.USAGE, "TASK"),
        (["MODEL", "colours", "--limit", "0"], ExitCode.USAGE, "--limit"),
        (["MODEL", "colours", "--compat", "helm"], ExitCode.USAGE, "--compat"),
        (["MODEL", "colours", "--dtype", "int3"], ExitCode.USAGE, "int3"),
        (["MODEL", "colours", "--device", "warp:9"], ExitCode.ENVIRONMENT, "warp:9"),
        (["MODEL", "colours", "--include", "no/such/folder"], ExitCode.USAGE, "no such folder"),
        (["MODEL", "no/such/task.yaml"], ExitCode.USAGE, "task.yaml"),
    ],
)
def test_what_makes_no_sense_is_said(model, tasks, capsys, arguments, code, message):
    filled = [str(model) if argument == "MODEL" else argument for argument in arguments]
    found, err = fails(["eval", *filled, "--include", str(tasks)], capsys)
    assert found == code, err
    assert message in err
    assert "hint: " in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("doc_to_choice", "doc_to_choise"), "unknown field `doc_to_choise`, did you mean `doc_to_choice`?"),
        (("{{question}}", "{{question"), "doc_to_text"),
        (("{{question}}", "{{quest}}"), "quest"),
        (("metric: acc", "metric: akk"), "akk"),
        (("colours.jsonl", "none.jsonl"), "none.jsonl"),
        (("test_split: test", "test_split: validation"), "validation"),
        (("task: colours", "task: [colours"), "colours.yaml"),
        (("output_type: multiple_choice", "output_type: multiple"), "output_type"),
        (("[red, green, blue]", "!function colours.choices"), "--allow-task-code"),
    ],
)
def test_a_malformed_task_file_is_said(model, tasks, capsys, change, message):
    path = tasks / "colours.yaml"
    path.write_text(TASK.replace(*change))
    (tasks / "colours.py").write_text("def choices(doc):\n    return ['a', 'b']\n")
    code, err = fails(["eval", str(model), str(path)], capsys)
    assert code in (ExitCode.USAGE, ExitCode.NOT_FOUND), err
    assert message in err


def test_task_code_runs_only_when_allowed(model, tasks, capsys):
    path = tasks / "colours.yaml"
    path.write_text(TASK.replace("[red, green, blue]", "!function colours.choices"))
    (tasks / "colours.py").write_text("def choices(doc):\n    return ['a', 'b', 'c']\n")
    assert run(["eval", str(model), str(path), "--allow-task-code", "--json"]) == ExitCode.OK
    (digest,) = json.loads(capsys.readouterr().out)["tasks"][0]["code"].values()
    assert len(digest) == 64


def test_a_row_that_is_no_json_is_said_with_its_line(model, tasks, capsys):
    (tasks / "colours.jsonl").write_text('{"question": "Q", "answer": 1}\n{"question": \n')
    code, err = fails(["eval", str(model), str(tasks / "colours.yaml")], capsys)
    assert code == ExitCode.USAGE, err
    assert "colours.jsonl" in err
    assert "2" in err


def test_damaged_weights_are_said(model, tasks, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(data[:-100] if path.suffix == ".safetensors" else data)
    code, err = fails(["eval", str(broken), str(tasks / "colours.yaml")], capsys)
    assert code == ExitCode.RUN_FAILED, err
    assert "model.safetensors" in err


def test_a_document_over_the_context_length_is_counted_and_said(model, tasks, capsys):
    write_rows(tasks, [{"question": "x" * 200, "answer": 0}, {"question": "short", "answer": 1}])
    assert run(["eval", str(model), str(tasks / "colours.yaml"), "--json"]) == ExitCode.OK
    out, err = capsys.readouterr()
    counts = json.loads(out)["tasks"][0]["counts"]
    assert counts["truncated_requests"] == 3
    assert counts["truncated_tokens"] > 3 * 130
    assert "warning: colours: 3 of 6 requests are longer than the model's context" in err


def test_an_empty_continuation_is_said(model, tasks, capsys):
    path = tasks / "colours.yaml"
    path.write_text(TASK.replace("[red, green, blue]", '["", green, blue]\ntarget_delimiter: ""'))
    code, err = fails(["eval", str(model), str(path)], capsys)
    assert code == ExitCode.USAGE, err
    assert "is empty" in err


def test_a_folder_with_another_run_is_left_alone(model, tasks, tmp_path, capsys):
    command = ["eval", str(model), "colours", "--include", str(tasks), "--output", str(tmp_path / "out")]
    assert run([*command, "--limit", "2"]) == ExitCode.OK
    before = (tmp_path / "out" / "record.json").read_bytes()
    capsys.readouterr()
    code, err = fails([*command, "--limit", "3"], capsys)
    assert code == ExitCode.USAGE
    assert "settings.limit is 2 there and 3 here" in err
    assert (tmp_path / "out" / "record.json").read_bytes() == before


# ---- the table ---------------------------------------------------------------------------------------------------------


def score(metric: str, value: float, stderr: float | None) -> dict:
    known = stderr is not None
    interval = {"ci_low": value - 0.2, "ci_high": value + 0.2} if known else {"ci_low": None, "ci_high": None}
    return {"metric": metric, "filter": "none", "value": value, "stderr": stderr, "n": 5, **interval}


def test_groups_stand_above_their_members():
    record = {
        "tasks": [
            {"name": "a", "alias": "A", "version": "1", "num_fewshot": 0, "scores": [score("acc", 0.5, 0.1)]},
            {
                "name": "b",
                "alias": "b",
                "version": "1",
                "num_fewshot": 5,
                "scores": [score("acc", 1.0, None)],
            },
            {
                "name": "c",
                "alias": "c",
                "version": "1",
                "num_fewshot": 0,
                "scores": [score("ppl", 9.0, None), score("bpb", 1.0, None)],
            },
        ],
        "groups": [
            {"name": "inner", "alias": "inner", "version": "1", "members": ["b"], "scores": []},
            {
                "name": "outer",
                "alias": "outer",
                "version": "1",
                "members": ["a", "inner"],
                "scores": [score("acc", 0.75, 0.2)],
            },
        ],
    }
    rows = list(result_rows(record))
    assert [row[0] for row in rows] == ["outer", "- A", "- inner", "- - b", "c", ""]
    assert rows[1][3:] == ("acc", "none", 0.5, "0.3000 to 0.7000", "0.1000", 5)
    assert rows[3][2:] == (5, "acc", "none", 1.0, "", "", 5)
    assert rows[2][3:] == ("", "", "", "", "", "")
