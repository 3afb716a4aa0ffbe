"""`llmasos model publish` against a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from person import Person
from registries import Server

from llmasos_registry.client.connection import Connection
from llmasos_registry.signatures.keys import load_private
from llmasos_registry.signatures.model_bundle import read_bundle, verify_model

CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n\nA test.\n"
#: Above what the server keeps in git, so that it goes up through LFS.
BIG = 12 << 20


def safetensors(size: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(size)


def make_model(folder: Path, size: int = BIG) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "sub" / "notes é.txt").write_text("notes")
    (folder / "model.safetensors").write_bytes(safetensors(size))
    (folder / ".gitignore").write_text("*.safetensors")
    return folder


@pytest.fixture(scope="module")
def ann(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> Person:
    person = Person(tmp_path_factory.mktemp("ann"), registry.url, registry.user("ann"))
    person.run("registry", "key", "new", "--register")
    return person


def listing(
    registry: Server, person: Person, name: str, revision: str, kind: str = "model"
) -> dict[str, str]:
    """path -> SHA-256 at a revision, as the registry says."""
    with Connection(registry.url, person.env.get("LLMASOS_TOKEN")) as connection:
        answer = connection.get(f"/v1/{kind}s/{name}/resolve", {"revision": revision})
    return {row["path"]: row["sha256"] for row in answer["files"]}


def sent(registry: Server, before: int) -> list[str]:
    """Requests since then that carry content, or change something."""
    return [line for line in registry.requests()[before:] if line.split()[0] in ("PUT", "POST", "DELETE")]


def test_a_model_is_published_changed_mirrored_and_sealed(
    registry: Server, ann: Person, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "tiny")
    publish = ("model", "publish", str(model), "ann/tiny")
    first = ann.json(*publish, "--version", "1.0.0", "--message", "First\n\nWith a text.")
    assert sorted(first["changed"]) == ["README.md", "config.json", "model.safetensors", "sub/notes é.txt"]
    files = listing(registry, ann, "ann/tiny", "1.0.0")
    assert sorted(set(files) - {".gitattributes"}) == sorted([*first["changed"], "model.sig"])
    public = load_private(ann.config / "keys" / "publisher.pem").public_key()
    bundle = (model / "model.sig").read_bytes()
    signed = read_bundle(bundle, [public])
    assert (signed.name, signed.version, signed.keyid) == ("ann/tiny", "1.0.0", first["keyid"])
    assert verify_model(files, bundle, [public], name="ann/tiny", version="1.0.0")
    assert verify_model(model, bundle, [public])

    # The same again: nothing is sent, with or without a version, and from a copy without the signature.
    mark = len(registry.requests())
    again = ann.json(*publish, "--version", "1.0.0")
    assert (again["commit"], again["sealed_now"], again["changed"]) == (first["commit"], False, [])
    assert ann.json(*publish)["commit"] == first["commit"]
    (model / "model.sig").unlink()
    assert ann.json(*publish)["commit"] == first["commit"]
    assert (model / "model.sig").read_bytes() == bundle
    assert sent(registry, mark) == []

    # One file changed, one gone, one new: the weights stay where they are.
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    shutil.rmtree(model / "sub")
    (model / "tokenizer.json").write_text("{}")
    words = ann.refused(*publish, "--version", "1.0.0")
    assert f"sealed at commit {first['commit']}" in words
    assert f"main is at {first['commit']}" in words
    assert "config.json: expected sha256" in words
    mark = len(registry.requests())
    second = ann.json(*publish, "--version", "1.1.0")
    assert sorted(second["changed"]) == ["config.json", "tokenizer.json"]
    assert second["deleted"] == ["sub/notes é.txt"]
    assert second["unchanged"] == 2
    assert not [line for line in sent(registry, mark) if line.startswith("PUT")]
    head = listing(registry, ann, "ann/tiny", "main")
    assert set(head) - {".gitattributes"} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "model.sig",
        "tokenizer.json",
    }
    assert listing(registry, ann, "ann/tiny", "1.0.0") == files
    assert f"main is at {second['commit']}" in ann.refused(*publish, "--version", "1.0.0")


def test_a_run_that_was_killed_is_finished_by_the_same_command(
    registry: Server, ann: Person, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "killed", 48 << 20)
    (model / "other.safetensors").write_bytes(safetensors(BIG))
    publish = ("model", "publish", str(model), "ann/killed", "--version", "2.0.0")
    process = subprocess.Popen(
        ann.command(*publish),
        env=ann.env,
        cwd=ann.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    for line in process.stderr:
        if line.startswith("uploading"):
            process.kill()
            break
    process.communicate()
    assert process.returncode == -9
    with Connection(registry.url, ann.env["LLMASOS_TOKEN"]) as connection:
        assert connection.get("/v1/models/ann/killed")["releases"] == []
    done = ann.json(*publish)
    assert done["sealed_now"] is True
    bundle = (model / "model.sig").read_bytes()
    public = load_private(ann.config / "keys" / "publisher.pem").public_key()
    assert verify_model(listing(registry, ann, "ann/killed", "2.0.0"), bundle, [public], version="2.0.0")


def test_what_was_committed_but_not_sealed_is_sealed_by_the_same_command(
    registry: Server, ann: Person, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "half", 10)
    publish = ("model", "publish", str(model), "ann/half", "--version", "1.0.0")
    # A token that may write and not publish stops the run after its commit.
    stopped = ann.run(*publish, code=1, LLMASOS_TOKEN=registry.user("ann", ("write",)))
    assert "sealing 1.0.0" in stopped.stderr
    assert "lacks the scope `publish`" in stopped.stderr
    done = ann.json(*publish)
    assert (done["version"], done["sealed_now"], done["changed"]) == ("1.0.0", True, [])


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "one", "1.0.0+cpu", "01.0.0"])
def test_what_is_no_version_is_refused_before_anything_is_sent(
    registry: Server, ann: Person, tmp_path: Path, version: str
) -> None:
    model = make_model(tmp_path / "misnamed", 10)
    mark = len(registry.requests())
    words = ann.refused("model", "publish", str(model), "ann/misnamed", "--version", version)
    assert "is not a version of a release" in words
    assert "MAJOR.MINOR.PATCH" in words
    assert sent(registry, mark) == []
    assert not (model / "model.sig").exists()


def test_progress_is_shown_and_other_tools_are_silent(ann: Person, tmp_path: Path) -> None:
    model = make_model(tmp_path / "loud", 30 << 20)
    done = ann.run("model", "publish", str(model), "ann/loud")
    notes = done.stderr.splitlines()
    assert notes[0] == "checking 4 files ..."
    assert any(line.startswith("hashing 4 files (MB): ") for line in notes)
    assert "uploading 4 files (MB): 31/31" in notes
    assert notes[-1] == "committing ..."
    assert not [line for line in notes if "Xet" in line or "Warning" in line or "%|" in line]
    assert done.stdout.startswith("published ann/loud at ")
    quiet = ann.run("model", "publish", str(model), "ann/loud", "--quiet")
    assert quiet.stderr == ""


def test_a_dataset_is_published_and_may_be_private(registry: Server, ann: Person, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "train.jsonl").write_text('{"text": "a"}\n')
    done = ann.json(
        "model", "publish", str(folder), "ann/data", "--dataset", "--private", "--version", "1.0.0"
    )
    assert done["kind"] == "dataset"
    assert "train.jsonl" in listing(registry, ann, "ann/data", "1.0.0", "dataset")
    stranger = Person(tmp_path / "stranger", registry.url, registry.user("stranger"))
    stranger.run("registry", "key", "new", "--register")
    words = stranger.refused("model", "publish", str(folder), "ann/data", "--dataset", code=2)
    assert "not registered for ann" in words


def test_without_a_card_a_template_is_offered(ann: Person, tmp_path: Path) -> None:
    model = make_model(tmp_path / "bare", 10)
    (model / "README.md").unlink()
    publish = ("model", "publish", str(model), "ann/bare")
    assert "--write-card" in ann.refused(*publish)
    assert ann.json(*publish, "--write-card") == {"card": str(model / "README.md")}
    assert "does not state a licence" in ann.refused(*publish)


def test_unsafe_files_never_leave_the_machine(registry: Server, ann: Person, tmp_path: Path) -> None:
    model = make_model(tmp_path / "unsafe", 10)
    (model / "model.safetensors").write_bytes(b"\x80\x04\x95junk")
    (model / "modeling.py").write_text("print()")
    mark = len(registry.requests())
    words = ann.refused("model", "publish", str(model), "ann/unsafe")
    assert "model.safetensors holds a pickle" in words
    assert "modeling.py is code" in words
    assert registry.requests()[mark:] == []


def test_a_key_that_the_registry_does_not_know_is_refused_before_anything_is_sent(
    registry: Server, tmp_path: Path
) -> None:
    ben = Person(tmp_path / "ben", registry.url, registry.user("ben"))
    made = ben.json("registry", "key", "new")
    model = make_model(tmp_path / "own", 10)
    publish = ("model", "publish", str(model), "ben/own")
    mark = len(registry.requests())
    assert "key register --account ben" in ben.refused(*publish)
    assert sent(registry, mark) == []
    ben.run("registry", "key", "register")
    ben.run(*publish)
    ben.run("registry", "key", "revoke", made["keyid"], "--yes")
    (model / "config.json").write_text("{}")
    assert "was revoked" in ben.refused(*publish)
    # Unsigned it may still be published; the old signature would not hold and goes.
    done = ben.json(*publish, "--no-sign")
    assert done["keyid"] is None
    assert "model.sig" in done["deleted"]
    assert "model.sig" not in listing(registry, ben, "ben/own", "main")


@pytest.mark.network
def test_a_downloaded_model_verifies_with_the_independent_tool(
    registry: Server, ann: Person, tmp_path: Path, model_signing: list[str]
) -> None:
    ann.run("model", "publish", str(make_model(tmp_path / "outside")), "ann/outside", "--version", "1.0.0")
    copy = tmp_path / "copy"
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", "ann/outside", "--revision", "1.0.0"]
    env = ann.env | {"HF_ENDPOINT": registry.url, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    subprocess.run([*hf, "--local-dir", str(copy)], env=env, check=True, capture_output=True, timeout=120)
    public = tmp_path / "ann.pub.pem"
    public.write_text(ann.json("registry", "key", "list")["keys"][0]["pem"])
    verify = [*model_signing, "verify", "key", "--public_key", str(public), "--signature"]
    command = [*verify, str(copy / "model.sig"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (copy / "config.json").write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "Hash mismatch" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "../x", "ann/..", "ann/a b"])
def test_names_are_checked_first(ann: Person, tmp_path: Path, name: str) -> None:
    assert "not of the form org/name" in ann.refused("model", "publish", str(tmp_path), name)


def test_a_read_token_is_told_what_it_lacks(registry: Server, tmp_path: Path) -> None:
    registry.user("carl")
    carl = Person(tmp_path / "carl", registry.url, registry.user("carl", ("read",)))
    model = make_model(tmp_path / "m", 10)
    words = carl.refused("model", "publish", str(model), "carl/m", "--no-sign", code=1)
    assert "hint:" in words


def test_a_stranger_with_the_same_files_is_not_told_that_he_published(
    registry: Server, ann: Person, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "same", 1000)
    command = ("model", "publish", str(model), "ann/same", "--version", "1.0.0")
    ann.json(*command)
    (model / "model.sig").unlink()
    bob = Person(tmp_path / "bob", registry.url, registry.user("bob-the-stranger"))
    for words in (command, command[:4]):
        assert "write" in bob.refused(*words, "--no-sign", code=1)
