"""A model's folder before it is published: formats, shards, card, manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmasos.errors import InputError, LlmasosError, ManifestError
from llmasos_registry.client.model_folder import check_card, check_folder, read_folder, write_card

CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n\nA test.\n"


def safetensors(name: str = "w") -> bytes:
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text('{"model_type": "llama"}')
    (root / "model.safetensors").write_bytes(safetensors())
    return root


def test_a_good_folder_passes(folder: Path) -> None:
    found = read_folder(folder)
    assert found.files == ("README.md", "config.json", "model.safetensors")
    assert found.size == sum(path.stat().st_size for path in folder.iterdir())
    check_folder(found, "model")


def test_what_tools_leave_behind_and_git_files_stay_out(folder: Path) -> None:
    for path in (
        ".git/HEAD",
        ".cache/huggingface/x",
        "sub/.DS_Store",
        "sub/__pycache__/a.pyc",
        ".gitattributes",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")
    (folder / "model.sig").write_text("x")
    found = read_folder(folder)
    assert found.files == ("README.md", "config.json", "model.safetensors")
    assert found.left_out == (".cache", "sub/.DS_Store", "sub/__pycache__")


def test_everything_wrong_is_said_at_once_with_what_to_do(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "modeling.py").write_text("import os")
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError) as refusal:
        check_folder(read_folder(folder), "model")
    for word in ("3 files", "pytorch_model.bin", "modeling.py", "model.safetensors"):
        assert word in refusal.value.message
    assert "save_pretrained" in str(refusal.value.hint)
    assert "plugin" in str(refusal.value.hint)


@pytest.mark.parametrize("name", ["config.json", "sub/tokenizer_config.json"])
def test_remote_code_in_a_configuration_is_refused(folder: Path, name: str) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / name).write_text('{"deep": [{"auto_map": {"AutoModel": "modeling.Evil"}}]}')
    with pytest.raises(InputError, match="auto_map"):
        check_folder(read_folder(folder), "model")


@pytest.mark.parametrize("content", ["{", "[" * 99999])
def test_a_configuration_that_is_no_json_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        check_folder(read_folder(folder), "model")


def test_a_missing_shard_is_named(folder: Path) -> None:
    weights = {
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    (folder / "model-00001-of-00002.safetensors").write_bytes(safetensors())
    with pytest.raises(InputError, match="names model-00002-of-00002"):
        check_folder(read_folder(folder), "model")
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors())
    check_folder(read_folder(folder), "model")


def test_a_bad_manifest_is_refused(folder: Path) -> None:
    (folder / "llmasos.toml").write_text('requires = ["llmasos-acme @ https://evil.example/x.whl"]')
    with pytest.raises(ManifestError):
        check_folder(read_folder(folder), "model")
    (folder / "llmasos.toml").write_text('manifest = 1\nrequires = ["llmasos-acme>=1.2,<2"]\n')
    check_folder(read_folder(folder), "model")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# Tiny\n", "no front matter"),
        ("---\nlicense: mit\n", "no front matter"),
        ("---\nlanguage: en\n---\ntext\n", "does not state a licence"),
        ("---\nlicense:\n---\ntext\n", "does not state a licence"),
        ("---\nlicense: mit\n---\n\n", "no text below"),
        ("---\n- mit\n---\ntext\n", "not a list of `key: value`"),
        ("---\na: [1\n---\ntext\n", r"not valid YAML \(line"),
        ("---\na: &a [1]\nb: *a\nlicense: mit\n---\ntext\n", "YAML aliases"),
        ("---\nlicense: !!python/object/apply:os.system ['true']\n---\ntext\n", "not valid YAML"),
        ("---\n" + "a: " + "[" * 200_000 + "\n---\ntext\n", "nested more than 32 deep"),
        ("---\nlicense: " + "m" * 300_000 + "\n---\ntext\n", "more than"),
    ],
)
def test_a_poor_card_is_refused_by_name(folder: Path, text: str, words: str) -> None:
    (folder / "README.md").write_text(text)
    with pytest.raises(InputError, match=words) as refusal:
        check_card(read_folder(folder), "model")
    assert "README.md" in refusal.value.message


def test_a_card_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    with pytest.raises(InputError, match="as UTF-8"):
        check_card(read_folder(folder), "model")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_template_is_written_and_cannot_be_published_unfilled(folder: Path, kind: str) -> None:
    (folder / "README.md").unlink()
    with pytest.raises(InputError) as missing:
        check_card(read_folder(folder), kind)
    flag = " --dataset" if kind == "dataset" else ""
    assert f"llmasos model publish {folder} ORG/NAME{flag} --write-card" in str(missing.value.hint)
    path = write_card(folder, "acme/tiny", kind)
    with pytest.raises(InputError, match="does not state a licence"):
        check_card(read_folder(folder), kind)
    path.write_text(path.read_text().replace("license: #", "license: mit #"))
    assert check_card(read_folder(folder), kind)["license"] == "mit"


def test_a_template_goes_above_the_text_that_is_there(folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n\nWords.\n")
    path = write_card(folder, "acme/tiny", "model")
    assert path.read_text().startswith("---\nlicense:")
    assert path.read_text().endswith("# Mine\n\nWords.\n")
    with pytest.raises(InputError, match="has front matter already"):
        write_card(folder, "acme/tiny", "model")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LlmasosError, match="holds no files"):
        read_folder(tmp_path)
