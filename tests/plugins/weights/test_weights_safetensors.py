"""safetensors checkpoints: what is read equals what was written, and directories that do not add up are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from weight_samples import LLAMA_CONFIG, entry, safetensors_bytes, write

from llmasos.api import ModelNotFound, WeightsError
from llmasos_transformer.weights.safetensors import SafetensorsFormat

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.layer.{index}.{name}": torch.randn(shape, generator=generator)
        for index in range(6)
        for name, shape in (("weight", (5, 3)), ("bias", (3,)))
    }


def directory(folder: Path, config: object = LLAMA_CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sharded(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 3) -> dict[str, str]:
    """Write tensors round-robin into shards with an index; returns the weight map."""
    directory(folder)
    names = sorted(tensors)
    weight_map = {
        name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)
    }
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, folder / shard)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (2, 3, 5)], ids=str)
def test_every_dtype_and_shape_is_read_as_written(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    wanted = (
        torch.randint(0, 2, shape)
        if dtype is torch.bool
        else torch.randint(-9 if dtype.is_signed else 0, 9, shape)
    )
    wanted = wanted.to(dtype)
    save_file({"x": wanted}, directory(tmp_path) / "model.safetensors")
    checkpoint = SafetensorsFormat().open(tmp_path)
    read = checkpoint.tensor("x")
    assert read.dtype == dtype
    assert torch.equal(read, wanted)
    info = checkpoint.tensors["x"]
    assert (info.shape, info.nbytes, info.elements) == (shape, wanted.nbytes, wanted.numel())


def test_special_values_survive(tmp_path: Path) -> None:
    wanted = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    save_file({"x": wanted}, directory(tmp_path) / "model.safetensors")
    read = SafetensorsFormat().open(tmp_path).tensor("x")
    assert torch.equal(read.view(torch.int32), wanted.view(torch.int32))


def test_a_single_file_and_its_directory_are_the_same(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_file(tensors, directory(tmp_path) / "model.safetensors", metadata={"format": "pt"})
    by_file, by_directory = (SafetensorsFormat().open(p) for p in (tmp_path / "model.safetensors", tmp_path))
    for checkpoint in (by_file, by_directory):
        assert set(checkpoint.tensors) == set(tensors)
        assert all(torch.equal(checkpoint.tensor(name), value) for name, value in tensors.items())
        assert checkpoint.files() == [tmp_path / "config.json", tmp_path / "model.safetensors"]
        assert checkpoint.metadata["file_format"] == "safetensors"
        assert checkpoint.metadata["format"] == "pt"
        assert checkpoint.metadata["dtype"] == "F32"
        assert checkpoint.config == LLAMA_CONFIG
        assert not checkpoint.header
        with pytest.raises(KeyError):
            checkpoint.tensor("no such tensor")


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    tensors = some_tensors()
    weight_map = sharded(tmp_path, tensors)
    checkpoint = SafetensorsFormat().open(tmp_path)
    assert set(checkpoint.tensors) == set(tensors)
    assert all(torch.equal(checkpoint.tensor(name), value) for name, value in tensors.items())
    assert checkpoint.files() == [
        tmp_path / "config.json",
        tmp_path / "model.safetensors.index.json",
        *(tmp_path / shard for shard in sorted(set(weight_map.values()))),
    ]
    assert checkpoint.metadata["file_format"] == "safetensors, 3 shards"


def test_tensors_view_the_file_and_never_change_it(tmp_path: Path) -> None:
    file = directory(tmp_path) / "model.safetensors"
    save_file({"x": torch.ones(4096)}, file)
    before = file.read_bytes()
    checkpoint = SafetensorsFormat().open(tmp_path)
    first, second = checkpoint.tensor("x"), checkpoint.tensor("x")
    assert first.data_ptr() == second.data_ptr()
    first += 1
    assert float(second.sum()) == 2 * 4096
    assert file.read_bytes() == before


def test_tensors_outlive_the_checkpoint_but_no_new_ones_are_given(tmp_path: Path) -> None:
    save_file({"x": torch.arange(10_000.0)}, directory(tmp_path) / "model.safetensors")
    checkpoint = SafetensorsFormat().open(tmp_path)
    kept = checkpoint.tensor("x")
    checkpoint.close()
    checkpoint.close()
    assert float(kept[-1]) == 9999.0
    with pytest.raises(WeightsError, match="closed"):
        checkpoint.tensor("x")


def test_data_that_is_not_aligned_is_read_correctly(tmp_path: Path) -> None:
    wanted = torch.tensor([1.5, -2.5])
    raw = json.dumps({"x": entry()}).encode()
    raw += b" " * ((3 - len(raw)) % 8)  # data starts 3 bytes past a multiple of 8
    file = write(tmp_path, "model.safetensors", safetensors_bytes(raw, wanted.numpy().tobytes()))
    assert torch.equal(SafetensorsFormat().open(file).tensor("x"), wanted)


def test_a_file_that_shrinks_while_open_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    file = directory(tmp_path) / "model.safetensors"
    save_file({"x": torch.zeros(100_000)}, file)
    checkpoint = SafetensorsFormat().open(tmp_path)
    os.truncate(file, 5000)
    with pytest.raises(WeightsError, match=r"shrank from 4000.. to 5000 bytes"):
        checkpoint.tensor("x")


def test_a_boolean_tensor_may_only_hold_booleans(tmp_path: Path) -> None:
    file = write(
        tmp_path, "model.safetensors", safetensors_bytes({"x": entry("BOOL", (3,), (0, 3))}, b"\0\1\2")
    )
    with pytest.raises(WeightsError, match="holds the byte 2"):
        SafetensorsFormat().open(file).tensor("x")


# ---- index --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd.safetensors", "sub/model.safetensors", "..", "", "model.bin", 7, None,
     "C:\\model.safetensors", "model.safetensors\n", ".hidden.safetensors"],
)  # fmt: skip
def test_a_shard_must_be_a_plain_name_in_the_directory(tmp_path: Path, shard: object) -> None:
    folder = tmp_path / "inside"
    save_file({"x": torch.zeros(2)}, directory(tmp_path) / "model.safetensors")
    weight_map = sharded(folder, some_tensors())
    write_index(folder, {**weight_map, "x": shard})
    with pytest.raises(WeightsError, match=r"not the name of a \.safetensors file in this directory"):
        SafetensorsFormat().open(folder)


def test_the_index_may_only_name_tensors(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path, some_tensors())
    write_index(tmp_path, {**weight_map, "a\x1b[2J": "model-00001-of-00003.safetensors"})
    with pytest.raises(WeightsError, match=r"the tensor name 'a\\x1b"):
        SafetensorsFormat().open(tmp_path)


def test_missing_shards_are_named_and_counted(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path, some_tensors())
    gone = sorted(set(weight_map.values()))[1]
    (tmp_path / gone).unlink()
    with pytest.raises(WeightsError, match=f"1 of 3 shards are missing: {gone}"):
        SafetensorsFormat().open(tmp_path)


def test_a_tensor_the_shard_lacks_and_one_it_should_not_have_are_named(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path, some_tensors())
    moved = sorted(weight_map)[0]
    write_index(tmp_path, {**weight_map, moved: "model-00002-of-00003.safetensors"})
    with pytest.raises(WeightsError, match=rf"model-00001-of-00003.safetensors: the shard has {moved}"):
        SafetensorsFormat().open(tmp_path)
    write_index(tmp_path, {**weight_map, "invented.weight": "model-00001-of-00003.safetensors"})
    with pytest.raises(WeightsError, match=r"the shard lacks invented\.weight"):
        SafetensorsFormat().open(tmp_path)


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": []}', b"{", b"\xff",
                                   b'{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', b"[" * 100_000])  # fmt: skip
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: bytes) -> None:
    (directory(tmp_path) / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        SafetensorsFormat().open(tmp_path)


# ---- configuration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object, is list"),
        (b'"llama"', "must be a JSON object, is str"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' appears twice"),
        (b'{"model_type": "\\ud800"}', "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model_type": 7}', "model_type must be a name"),
        (b'{"model_type": ""}', "model_type must be a name"),
        (b'{"architectures": "LlamaForCausalLM"}', "architectures must be a list of names"),
        (b'{"architectures": ["SomethingForCausalLM"]}', "do not settle which it is"),
        (b'{"architectures": ["BertModel", "GPT2LMHeadModel"]}', "do not settle which it is"),
        (b"{}", "do not settle which it is"),
        (b" " * (8 * 1024 * 1024 + 1), "more than the 8388608"),
    ],
)
def test_a_configuration_that_does_not_say_what_the_model_is(
    tmp_path: Path, config: bytes, fragment: str
) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(WeightsError, match=fragment) as caught:
        SafetensorsFormat().open(tmp_path)
    assert caught.value.hint


def test_weights_without_a_configuration_say_what_is_needed(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no config\.json beside the weights") as caught:
        SafetensorsFormat().open(tmp_path / "model.safetensors")
    assert "config.json" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("config", "shapes", "model_type"),
    [
        ({"architectures": ["BertForMaskedLM"]}, {}, "bert"),
        ({"architectures": ["GPT2LMHeadModel"]}, {}, "gpt2"),
        ({"architectures": ["LlamaForCausalLM"]}, {}, "llama"),
        ({"architectures": ["T5EncoderModel"]}, {}, "t5"),
        ({"architectures": ["MarianMTModel"]}, {}, "marian"),
        ({"architectures": ["BertModel", "BertForMaskedLM"]}, {}, "bert"),
        (
            {"n_embd": 4, "n_layer": 1, "n_head": 1},
            {"h.0.attn.c_attn.weight": (4, 12), "wpe.weight": (8, 4)},
            "gpt2",
        ),
        (
            {"hidden_size": 4},
            {
                "bert.encoder.layer.0.attention.self.query.weight": (4, 4),
                "bert.embeddings.token_type_embeddings.weight": (2, 4),
            },
            "bert",
        ),
        (
            {"hidden_size": 4},
            {
                "encoder.layer.0.attention.self.query.weight": (4, 4),
                "embeddings.token_type_embeddings.weight": (2, 4),
                "pooler.dense.weight": (4, 4),
            },
            "bert",
        ),
        # One segment: RoBERTa. No pooler: ELECTRA. [out, in] attention: a GPT-2 descendant. All ambiguous.
        (
            {"hidden_size": 4},
            {
                "encoder.layer.0.attention.self.query.weight": (4, 4),
                "embeddings.token_type_embeddings.weight": (1, 4),
                "pooler.dense.weight": (4, 4),
            },
            None,
        ),
        (
            {"hidden_size": 4},
            {
                "encoder.layer.0.attention.self.query.weight": (4, 4),
                "embeddings.token_type_embeddings.weight": (2, 4),
            },
            None,
        ),
        (
            {"n_embd": 4, "n_layer": 1, "n_head": 1},
            {"transformer.h.0.attn.c_attn.weight": (12, 4), "transformer.wpe.weight": (8, 4)},
            None,
        ),
        ({"hidden_size": 4, "rms_norm_eps": 1e-5}, {"model.layers.0.self_attn.q_proj.weight": (4, 4)}, None),
    ],
)
def test_the_family_is_inferred_only_when_nothing_else_fits(
    tmp_path: Path, config: dict[str, object], shapes: dict[str, tuple[int, ...]], model_type: str | None
) -> None:
    save_file(
        {name: torch.zeros(shape) for name, shape in shapes.items()},
        directory(tmp_path, config) / "model.safetensors",
    )
    if model_type is None:
        with pytest.raises(WeightsError, match="do not settle which it is"):
            SafetensorsFormat().open(tmp_path)
    else:
        checkpoint = SafetensorsFormat().open(tmp_path)
        assert checkpoint.config == {**config, "model_type": model_type}


def test_code_that_the_configuration_names_is_reported_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    config = {**LLAMA_CONFIG, "auto_map": {"AutoModel": "modeling_evil.Evil"}, "trust_remote_code": True}
    save_file({"x": torch.zeros(2)}, directory(tmp_path, config) / "model.safetensors")
    (tmp_path / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')")
    checkpoint = SafetensorsFormat().open(tmp_path)
    checkpoint.tensor("x")
    assert "never imported or executed" in checkpoint.metadata["custom_code"]
    assert not canary.exists()


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model\n", "apache-2.0"),
        ("---\ntags: [x]\nlicense: 'mit'\n---\n", "mit"),
        ("# Model\n\nlicense: gpl\n", None),
        ("---\ntags: [x]\n---\nlicense: gpl\n", None),
        ("---\nlicense: never closed\n", None),
    ],
)
def test_the_licence_comes_from_the_model_card(tmp_path: Path, readme: str, licence: str | None) -> None:
    save_file({"x": torch.zeros(2)}, directory(tmp_path) / "model.safetensors")
    (tmp_path / "README.md").write_text(readme)
    assert SafetensorsFormat().open(tmp_path).metadata.get("license") == licence


# ---- which files ----------------------------------------------------------------------------------------------------------


def test_a_directory_without_the_usual_names_says_what_to_name(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, directory(tmp_path) / "model.fp16.safetensors")
    assert SafetensorsFormat().accepts(tmp_path)
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor") as caught:
        SafetensorsFormat().open(tmp_path)
    assert str(tmp_path / "model.fp16.safetensors") in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "content", "accepted"),
    [
        ("model.safetensors", save({"x": torch.zeros(2)}), True),
        ("renamed.bin", save({"x": torch.zeros(2)}), True),
        ("model.safetensors", b"", True),  # so that open can say that it is empty
        ("model.safetensors", b"GGUF" + bytes(40), False),
        ("model.safetensors", b"PK\x03\x04" + bytes(40), False),
        ("model.safetensors", b"\x80\x04\x95" + bytes(40), False),
        ("model.gguf", b"GGUF" + bytes(40), False),
        ("notes.txt", b"hello", False),
    ],
)
def test_files_are_recognised_by_content_first(
    tmp_path: Path, name: str, content: bytes, accepted: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    assert SafetensorsFormat().accepts(tmp_path / name) is accepted


def test_nothing_there(tmp_path: Path) -> None:
    assert not SafetensorsFormat().accepts(tmp_path / "absent")
    with pytest.raises(ModelNotFound, match="no such file"):
        SafetensorsFormat().open(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="neither"):
        SafetensorsFormat().open(directory(tmp_path / "empty"))


def test_files_that_are_no_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(directory(tmp_path / "pipe") / "model.safetensors")
    (directory(tmp_path / "folder") / "model.safetensors").mkdir()
    (directory(tmp_path / "device") / "model.safetensors").symlink_to("/dev/zero")
    (directory(tmp_path / "loop") / "model.safetensors").symlink_to("model.safetensors")
    (directory(tmp_path / "empty") / "model.safetensors").touch()
    for name in ("pipe", "folder", "device"):
        with pytest.raises(WeightsError, match="not a regular file"):
            SafetensorsFormat().open(tmp_path / name)
    with pytest.raises(WeightsError, match="empty"):
        SafetensorsFormat().open(tmp_path / "empty")
    with pytest.raises(WeightsError, match="leads back to itself"):
        SafetensorsFormat().open(tmp_path / "loop")


def test_a_symbolic_link_is_followed_as_the_hugging_face_cache_needs(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "blobs" / "0123abcd")
    (directory(tmp_path / "snapshot") / "model.safetensors").symlink_to("../blobs/0123abcd")
    assert float(SafetensorsFormat().open(tmp_path / "snapshot").tensor("x").sum()) == 2


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"x": torch.zeros(2)}, directory(tmp_path) / "model.safetensors")
    really_open = os.open

    def refuse(path: Path, flags: int) -> int:
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, flags)

    # chmod cannot be used: tests may run as a user that may read everything.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WeightsError, match="permission to read it was denied") as caught:
        SafetensorsFormat().open(tmp_path)
    assert "chmod" in (caught.value.hint or "")
