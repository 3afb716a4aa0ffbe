"""GGUF checkpoints: dequantisation equals the gguf package, names and layouts equal the Hugging Face checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from weight_samples import F32, I32, STRING, U32, U64, Gguf, Stored, elements, pair, scalar

from llmasos.api import ModelNotFound, WeightsError
from llmasos_transformer.weights.gguf import PLAIN, QUANTISED, GgufFormat
from llmasos_transformer.weights.gguf_header import read_header
from llmasos_transformer.weights.rope_factors import llama3_factors

Kind = gguf.GGMLQuantizationType
State = Mapping[str, torch.Tensor]


def open_bytes(folder: Path, content: Gguf | bytes, name: str = "model.gguf") -> Any:
    (folder / name).write_bytes(bytes(content))
    return GgufFormat().open(folder / name)


# ---- writing files the way llama.cpp's converter does -----------------------------------------------------------------------


def interleave(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """What the converter does to llama's q and k: [H, 2, d/2] -> [H, d/2, 2] within each head."""
    half = weight.shape[0] // heads // 2
    return numpy.swapaxes(weight.reshape(heads, 2, half, *weight.shape[1:]), 1, 2).reshape(weight.shape)


def convert(
    path: Path,
    state: State,
    arch: str,
    layers: int,
    keys: Mapping[str, Any],
    heads: int = 1,
    kv_heads: int = 1,
) -> None:
    """Write a Hugging Face state dict as GGUF, with the gguf package's own table of names."""
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch], layers)
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        full = key if key.startswith(("general.", "tokenizer.")) else f"{arch}.{key}"
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](full, value)
    for name, tensor in state.items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored, name
        array = tensor.float().numpy()
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            array = interleave(array, heads if ".q_proj." in name else kv_heads)
        if arch == "gpt2" and any(part in name for part in ("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        writer.add_tensor(stored, numpy.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(folder: Path, **options: Any) -> tuple[LlamaForCausalLM, Path]:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6, **options)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    state = {
        name: value
        for name, value in model.state_dict().items()
        if name != "lm_head.weight" or not config.tie_word_embeddings
    }
    keys = {"general.name": "tiny", "general.license": "apache-2.0", "embedding_length": 32, "feed_forward_length": 40,
            "block_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 64, "vocab_size": 48,
            "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0, "rope.dimension_count": config.head_dim}  # fmt: skip
    convert(folder / "llama.gguf", state, "llama", 2, keys, heads=4, kv_heads=2)
    return model, folder / "llama.gguf"


def gpt2(folder: Path) -> tuple[GPT2LMHeadModel, Path]:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    keys = {"general.name": "tiny", "embedding_length": 32, "feed_forward_length": 128, "block_count": 2,
            "attention.head_count": 4, "context_length": 64, "attention.layer_norm_epsilon": 1e-5}  # fmt: skip
    convert(folder / "gpt2.gguf", state, "gpt2", 2, keys)
    return model, folder / "gpt2.gguf"


def bert(folder: Path) -> tuple[BertModel, Path]:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                        max_position_embeddings=64)  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    keys = {"general.name": "tiny", "embedding_length": 32, "feed_forward_length": 40, "block_count": 2,
            "attention.head_count": 4, "context_length": 64, "attention.layer_norm_epsilon": 1e-12}  # fmt: skip
    convert(folder / "bert.gguf", model.state_dict(), "bert", 2, keys)
    return model, folder / "bert.gguf"


def assert_same_state(checkpoint: Any, state: State) -> None:
    assert set(checkpoint.tensors) == set(state)
    for name, wanted in state.items():
        read = checkpoint.tensor(name)
        assert checkpoint.tensors[name].shape == tuple(wanted.shape) == tuple(read.shape), name
        assert torch.equal(read, wanted), name


# ---- types ------------------------------------------------------------------------------------------------------------------


def random_blocks(kind: gguf.GGMLQuantizationType, rows: int, columns: int, seed: int = 0) -> numpy.ndarray:
    """Random bytes that are whole blocks: every bit pattern, NaN and infinite scales included."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return numpy.random.default_rng(seed).integers(0, 256, (rows, columns // block * size), dtype=numpy.uint8)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("rows", [1, 3, 16, 37])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinity times zero in numpy, as wanted
def test_blocks_decode_as_the_gguf_package_decodes_them(tmp_path: Path, name: str, rows: int) -> None:
    kind = Kind[name]
    data = random_blocks(kind, rows, 512)
    stored = Stored("output_norm.weight", (512, rows), int(kind))
    checkpoint = open_bytes(tmp_path, Gguf(tensors=(stored,), data=data.tobytes()))
    wanted = torch.from_numpy(gguf.dequantize(data, kind))
    read = checkpoint.tensor("model.norm.weight")
    assert read.dtype == torch.float32
    assert read.shape == wanted.shape == (rows, 512)
    assert torch.equal(read.view(torch.int32), wanted.view(torch.int32))
    info = checkpoint.tensors["model.norm.weight"]
    assert (info.dtype, info.nbytes, info.elements) == (name, data.nbytes, rows * 512)
    assert checkpoint.metadata["quantization"] == name


@pytest.mark.parametrize(
    ("name", "relative_error"),
    [("Q4_0", 0.10), ("Q4_1", 0.09), ("Q5_0", 0.05), ("Q5_1", 0.045), ("Q8_0", 0.006), ("BF16", 0.003), ("F16", 0.0005), ("F32", 0.0)],
)  # fmt: skip
def test_a_round_trip_loses_what_the_type_loses(tmp_path: Path, name: str, relative_error: float) -> None:
    kind = Kind[name]
    values = numpy.random.default_rng(1).normal(size=(24, 96)).astype(numpy.float32)
    stored = Stored("output.weight", (96, 24), int(kind))
    data = gguf.quantize(values, kind).tobytes()
    read = open_bytes(tmp_path, Gguf(tensors=(stored,), data=data)).tensor("lm_head.weight").float().numpy()
    error = float(numpy.sqrt(((read - values) ** 2).mean() / (values**2).mean()))
    assert error <= relative_error
    assert error >= relative_error / 4  # and the type really was this coarse


@pytest.mark.parametrize("name", PLAIN)
def test_plain_types_stay_as_they_are(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, PLAIN[name])
    wanted = torch.arange(-12, 12).to(dtype).reshape(3, 8)
    data = wanted.view(torch.uint8).numpy().tobytes()
    checkpoint = open_bytes(
        tmp_path, Gguf(tensors=(Stored("output.weight", (8, 3), int(Kind[name])),), data=data)
    )
    read = checkpoint.tensor("lm_head.weight")
    assert read.dtype == dtype
    assert torch.equal(read, wanted)
    assert checkpoint.tensor("lm_head.weight").data_ptr() == read.data_ptr()  # a view of the map


def test_a_type_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("IQ2_XXS", "Q3_K", "TQ1_0", "MXFP4"):
        _, size = gguf.GGML_QUANT_SIZES[Kind[name]]
        block = gguf.GGML_QUANT_SIZES[Kind[name]][0]
        checkpoint = open_bytes(
            tmp_path, Gguf(tensors=(Stored("output.weight", (block, 1), int(Kind[name])),), data=bytes(size))
        )
        assert checkpoint.tensors["lm_head.weight"].dtype == name
        with pytest.raises(
            WeightsError, match=f"output.weight is stored as {name}, which cannot be read"
        ) as caught:
            checkpoint.tensor("lm_head.weight")
        assert "Q4_K" in (caught.value.hint or "")


# ---- names and layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}], ids=str
)
def test_llama_has_its_names_and_its_rows_in_order(tmp_path: Path, options: dict[str, bool]) -> None:
    model, file = llama(tmp_path, **options)
    state = dict(model.state_dict())
    if options.get("tie_word_embeddings"):
        del state["lm_head.weight"]
    checkpoint = GgufFormat().open(file)
    assert_same_state(checkpoint, state)
    config = checkpoint.config
    assert config["model_type"] == "llama"
    assert config["architectures"] == ["LlamaForCausalLM"]
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                "head_dim", "max_position_embeddings", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "hidden_act",
                "attention_bias", "mlp_bias"):  # fmt: skip
        assert config[key] == getattr(model.config, key), key
    assert config["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None
    assert checkpoint.metadata["license"] == "apache-2.0"
    assert checkpoint.metadata["name"] == "tiny"


def test_quantised_rows_are_put_in_order_too(tmp_path: Path) -> None:
    values = numpy.random.default_rng(2).normal(size=(8, 32)).astype(numpy.float32)
    data = gguf.quantize(interleave(values, 2), Kind.Q8_0)
    stored = Stored("blk.0.attn_q.weight", (32, 8), int(Kind.Q8_0))
    read = open_bytes(tmp_path, Gguf(tensors=(stored,), data=data.tobytes())).tensor(
        "model.layers.0.self_attn.q_proj.weight"
    )
    wanted = gguf.dequantize(gguf.quantize(values, Kind.Q8_0), Kind.Q8_0)
    assert numpy.array_equal(read.numpy(), wanted)


def test_gpt2_has_its_names_and_its_linear_weights_turned(tmp_path: Path) -> None:
    model, file = gpt2(tmp_path)
    checkpoint = GgufFormat().open(file)
    assert_same_state(
        checkpoint, {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    )
    for key in ("n_embd", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "activation_function", "vocab_size",
                "tie_word_embeddings", "model_type"):  # fmt: skip
        assert checkpoint.config[key] == getattr(model.config, key), key
    assert checkpoint.config["n_inner"] == 128


def test_bert_has_its_names(tmp_path: Path) -> None:
    model, file = bert(tmp_path)
    checkpoint = GgufFormat().open(file)
    assert_same_state(checkpoint, model.state_dict())
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
                "layer_norm_eps", "hidden_act", "type_vocab_size", "vocab_size", "model_type"):  # fmt: skip
        assert checkpoint.config[key] == getattr(model.config, key), key


@pytest.mark.parametrize("make", [llama, gpt2])
def test_transformers_loads_the_same_from_the_same_file(
    tmp_path: Path, make: Callable[[Path], tuple[Any, Path]]
) -> None:
    model, file = make(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, config=model.config, dtype=torch.float32
    ).state_dict()
    checkpoint = GgufFormat().open(file)
    for name in checkpoint.tensors:
        assert torch.equal(checkpoint.tensor(name), loaded[name]), name


def test_names_nobody_knows_stay_as_they_are(tmp_path: Path) -> None:
    stored = (
        Stored("blk.0.attn_sinks.weight"),
        Stored("mystery", offset=32),
        Stored("blk.0.ssm_a", offset=64),
    )
    checkpoint = open_bytes(tmp_path, Gguf(tensors=stored, data=bytes(96)))
    assert set(checkpoint.tensors) == {"blk.0.attn_sinks.weight", "mystery", "blk.0.ssm_a"}


def test_another_architecture_keeps_its_own_names_and_says_what_it_is(tmp_path: Path) -> None:
    keys = (
        pair("general.architecture", scalar(STRING, "mamba")),
        pair("mamba.block_count", scalar(U32, 3)),
        pair("mamba.embedding_length", scalar(U32, 8)),
    )
    checkpoint = open_bytes(tmp_path, Gguf(keys=keys))
    assert checkpoint.config == {"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 3}
    assert set(checkpoint.tensors) == {"output_norm.weight"}


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [("command-r", "cohere"), ("starcoder", "gpt_bigcode"), ("qwen2", "qwen2")],
)
def test_architectures_are_called_what_hugging_face_calls_them(
    tmp_path: Path, architecture: str, model_type: str
) -> None:
    keys = (pair("general.architecture", scalar(STRING, architecture)),)
    assert open_bytes(tmp_path, Gguf(keys=keys)).config["model_type"] == model_type


def test_experts_under_the_name_of_llama_are_not_taken_for_llama(tmp_path: Path) -> None:
    checkpoint = open_bytes(tmp_path, Gguf().with_keys(pair("llama.expert_count", scalar(U32, 8))))
    assert checkpoint.config["model_type"] == "mixtral"


# ---- rotary scaling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, None),
        ({"rope.scaling.type": "none"}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 16.0,
                "rope.scaling.original_context_length": 4096,
            },
            {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096},
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.original_context_length": 16,
                "rope.scaling.yarn_beta_fast": 24.0,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 24.0},
        ),
    ],
    ids=str,
)
def test_rotary_scaling(tmp_path: Path, keys: dict[str, Any], wanted: dict[str, Any] | None) -> None:
    kinds = {str: STRING, float: F32, int: U32}
    pairs = [pair(f"llama.{key}", scalar(kinds[type(value)], value)) for key, value in keys.items()]
    assert open_bytes(tmp_path, Gguf().with_keys(*pairs)).config["rope_scaling"] == wanted


def rope_file(factors: list[float]) -> Gguf:
    data = numpy.asarray(factors, numpy.float32)
    pairs = (
        pair("llama.rope.dimension_count", scalar(U32, 64)),
        pair("llama.rope.freq_base", scalar(F32, 500000.0)),
    )
    return Gguf(tensors=(Stored("rope_freqs.weight", (len(factors),)),), data=data.tobytes()).with_keys(
        *pairs
    )


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_factors_become_the_rule_they_were_made_from(tmp_path: Path, factor: float) -> None:
    rule = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(
        head_dim=64, rope_parameters={**rule, "rope_theta": 500000.0}, max_position_embeddings=131072
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    factors = (plain / scaled.double()).tolist()
    assert numpy.allclose(factors, llama3_factors(64, 500000.0, factor), rtol=1e-5)
    checkpoint = open_bytes(tmp_path, rope_file(factors))
    assert checkpoint.config["rope_scaling"] == rule
    assert "rope_freqs.weight" not in checkpoint.tensors


@pytest.mark.parametrize(
    "factors", [[1.0] * 31 + [8.0], [1.0] * 16, [math.nan] * 32, [8.0] * 32, [0.0] * 32], ids=len
)
def test_factors_of_no_known_rule_are_refused(tmp_path: Path, factors: list[float]) -> None:
    with pytest.raises(WeightsError, match=r"rotary factors in rope_freqs\.weight follow no known rule"):
        open_bytes(tmp_path, rope_file(factors))


def test_factors_of_one_mean_no_scaling(tmp_path: Path) -> None:
    assert open_bytes(tmp_path, rope_file([1.0] * 32)).config["rope_scaling"] == {"rope_type": "default"}


# ---- header -------------------------------------------------------------------------------------------------------------------


VOCABULARY = Gguf(tensors=(), data=b"").with_keys(
    pair("tokenizer.ggml.tokens", elements(STRING, ["<s>", "", "é", "日本"])),
    pair("tokenizer.ggml.scores", elements(F32, [0.0, -1.0, 2.5, 0.5])),
    pair("tokenizer.ggml.token_type", elements(I32, [3, 1, 1, -1])),
    pair("tokenizer.ggml.bos_token_id", scalar(U32, 0)),
    pair("tokenizer.ggml.eos_token_id", scalar(U32, 3)),
    pair("big", elements(U64, [2**64 - 1])),
)


def test_a_vocabulary_without_tensors_opens(tmp_path: Path) -> None:
    checkpoint = open_bytes(tmp_path, VOCABULARY)
    assert not checkpoint.tensors
    assert checkpoint.config["vocab_size"] == 4
    assert (checkpoint.config["bos_token_id"], checkpoint.config["eos_token_id"]) == (0, 3)
    assert checkpoint.config["tie_word_embeddings"] is False
    assert checkpoint.metadata["quantization"] == "no tensors (vocabulary only)"
    header = checkpoint.header
    checkpoint.close()
    tokens, scores, types = (header[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    assert list(tokens) == ["<s>", "", "é", "日本"]
    assert (tokens[-1], tokens[1:3], len(tokens), "é" in tokens, tokens.index("日本")) == (
        "日本",
        ["", "é"],
        4,
        True,
        3,
    )
    assert list(scores) == [0.0, -1.0, 2.5, 0.5]
    assert (types[3], types[-4], types[::2], len(types)) == (-1, 3, [3, 1], 4)
    assert list(header["big"]) == [2**64 - 1]
    for array in (tokens, scores):
        with pytest.raises(IndexError):
            array[4]


def test_a_name_cannot_control_the_terminal(tmp_path: Path) -> None:
    checkpoint = open_bytes(
        tmp_path, Gguf().with_keys(pair("general.name", scalar(STRING, "a\x1b[2J\nb" + "c" * 999)))
    )
    name = checkpoint.metadata["name"]
    assert name.startswith("a\ufffd[2J\ufffdbc")
    assert len(name) == 300


def test_the_header_can_be_read_alone(tmp_path: Path) -> None:
    (tmp_path / "v.gguf").write_bytes(bytes(VOCABULARY))
    header = read_header(tmp_path / "v.gguf")
    assert (header.version, header.alignment, len(header.tensors)) == (3, 32, 0)
    assert header.values["tokenizer.ggml.tokens"][3] == "日本"
    with pytest.raises(ModelNotFound):
        read_header(tmp_path / "absent.gguf")


def test_numbers_stored_in_32_bits_are_given_as_they_were_meant(tmp_path: Path) -> None:
    for value in (1e-5, 1e-6, 1e-12, 10000.0, 500000.0, 0.1, 8.0, 3.4028234663852886e38, 1.17e-38, 123456.78):
        keys = pair("llama.rope.freq_base", scalar(F32, value))
        read = open_bytes(tmp_path, Gguf().with_keys(keys)).config["rope_theta"]
        assert numpy.float32(read) == numpy.float32(value)
        assert read == value or len(repr(read)) <= len(repr(float(numpy.float32(value))))
    assert (
        open_bytes(tmp_path, Gguf().with_keys(pair("llama.rope.freq_base", scalar(F32, 1e-5)))).config[
            "rope_theta"
        ]
        == 1e-5
    )


# ---- which file ---------------------------------------------------------------------------------------------------------------


def test_a_directory_must_hold_exactly_one(tmp_path: Path) -> None:
    form = GgufFormat()
    assert not form.accepts(tmp_path)
    with pytest.raises(WeightsError, match="has 0: none"):
        form.open(tmp_path)
    (tmp_path / "a.gguf").write_bytes(bytes(Gguf()))
    assert form.accepts(tmp_path)
    checkpoint = form.open(tmp_path)
    assert checkpoint.path == tmp_path
    assert checkpoint.files() == [tmp_path / "a.gguf"]
    (tmp_path / "b.gguf").write_bytes(bytes(Gguf()))
    with pytest.raises(WeightsError, match=r"has 2: a\.gguf, b\.gguf") as caught:
        form.open(tmp_path)
    assert str(tmp_path / "a.gguf") in (caught.value.hint or "")


def test_parts_of_a_split_file_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="part 2 of 5 of a split GGUF") as caught:
        open_bytes(tmp_path, Gguf(), "big-Q4_K-00002-of-00005.gguf")
    assert "llama-gguf-split --merge" in (caught.value.hint or "")
    open_bytes(tmp_path, Gguf(), "big-Q4_K-00001-of-00001.gguf")


@pytest.mark.parametrize(
    ("name", "content", "accepted"),
    [
        ("a.gguf", bytes(Gguf()), True),
        ("a.bin", bytes(Gguf()), True),
        ("a.gguf", b"", True),  # so that open can say that it is empty
        ("a.gguf", b"PK\x03\x04" + bytes(30), False),
        ("a.txt", b"hello", False),
    ],
)
def test_files_are_recognised_by_content_first(
    tmp_path: Path, name: str, content: bytes, accepted: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    assert GgufFormat().accepts(tmp_path / name) is accepted


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        GgufFormat().open(tmp_path / "absent.gguf")


def test_closing(tmp_path: Path) -> None:
    checkpoint = open_bytes(tmp_path, replace(Gguf(), data=numpy.ones(8, numpy.float32).tobytes()))
    kept = checkpoint.tensor("model.norm.weight")
    checkpoint.close()
    assert float(kept.sum()) == 8
    with pytest.raises(WeightsError, match="closed"):
        checkpoint.tensor("model.norm.weight")
    with pytest.raises(KeyError):
        checkpoint.tensor("absent")
