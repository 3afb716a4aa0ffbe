"""Models written again with weights of fewer bits: they load, compute what their blocks say, and what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmasos.api import InputError, PackedBatch, UsageError, WeightsError
from llmasos.pipelines.evaluate import Silence
from llmasos.pipelines.perplexity import perplexity, windows
from llmasos.pipelines.quantise import quantise
from llmasos.testing.checkpoints import write_checkpoint

SIZES = {
    "llama": {"hidden_size": 64, "intermediate_size": 96},
    "gpt2": {"n_embd": 64},
}
TEXT = "In that very building there was a pane of glass, and it was cracked. " * 8


def model(folder: Path, family: str = "llama", **changes) -> Path:
    return write_checkpoint(folder, family, **{**SIZES[family], **changes})


def hidden(loaded, text: str = "Once upon a time") -> torch.Tensor:
    tokens = torch.tensor(loaded.tokenizer.encode(text))
    with torch.inference_mode():
        return loaded.model.hidden(
            PackedBatch(tokens=tokens, positions=torch.arange(len(tokens)), starts=(0, len(tokens)))
        )


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_a_quantised_model_is_the_model_again(hub, tmp_path: Path, family: str, dtype, tied: bool) -> None:
    source = model(tmp_path / "model", family, tie_word_embeddings=tied)
    report = quantise(hub(), str(source), tmp_path / "small", dtype, progress=Silence())
    assert report["missing"] == []
    assert report["bytes_after"] < (0.32 if dtype == "int8" else 0.3) * report["bytes_before"]
    assert set(report["types"]) == ({"Q8_0", "F32"} if dtype == "int8" else {"Q8_0", "Q4_1", "F32"})
    before, exact = hub().load_model(str(source)), hub().load_model(str(tmp_path / "small"))
    kept, chosen = (hub().load_model(str(tmp_path / "small"), dtype=one) for one in (dtype, "auto"))
    assert chosen.model.dtype == dtype
    assert exact.facts["parameters"] == before.facts["parameters"]
    wanted = hidden(exact)
    torch.testing.assert_close(hidden(kept), wanted, rtol=0, atol=2e-3)
    assert torch.equal(hidden(kept), hidden(chosen))
    error = (wanted - hidden(before)).norm() / hidden(before).norm()
    assert 0 < error < (0.08 if dtype == "int8" else 0.6)  # weights of no meaning amplify rounding
    # The file alone has all that it takes, its tokenizer with it.
    alone = hub().load_model(str(tmp_path / "small" / report["file"]))
    assert torch.equal(hidden(alone), wanted)


def test_the_cost_is_measured_and_a_calibration_text_lessens_it(hub, tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text(TEXT)
    other.write_text(TEXT[::-1])
    one = hub()
    report = quantise(one, str(source), tmp_path / "a", "int8", text=text, tokens=200, progress=Silence())
    cost = report["perplexity"]
    assert cost["tokens"] == 200 - 4  # windows of 64, the context of this model
    loaded = one.load_model(str(source))
    ids = loaded.tokenizer.encode(TEXT)[:200]
    assert cost["before"] == pytest.approx(perplexity(loaded.model, ids).value, rel=1e-6)
    assert cost["change"] == pytest.approx(cost["after"] / cost["before"] - 1)
    assert 0 < abs(cost["change"]) < 0.05
    quantise(one, str(source), tmp_path / "plain", "int4", progress=Silence())
    fitted = quantise(
        one, str(source), tmp_path / "b", "int4", calibrate=other, tokens=300, progress=Silence()
    )
    assert fitted["calibrated"] == 300
    wanted = hidden(loaded, TEXT[:60])
    errors = [
        (hidden(one.load_model(str(tmp_path / name)), TEXT[:60]) - wanted).norm() for name in ("plain", "b")
    ]
    assert errors[1] < 0.97 * errors[0]


def test_blocks_of_no_more_bits_stay_as_they_are(hub, tmp_path: Path) -> None:
    one = hub()
    first = quantise(one, str(model(tmp_path / "model")), tmp_path / "a", "int4", progress=Silence())
    again = quantise(one, str(tmp_path / "a"), tmp_path / "b", "int8", progress=Silence())
    assert again["types"] == first["types"]
    assert torch.equal(*(hidden(one.load_model(str(tmp_path / name))) for name in "ab"))
    eight = quantise(one, str(tmp_path / "model"), tmp_path / "c", "int8", progress=Silence())
    four = quantise(one, str(tmp_path / "c" / eight["file"]), tmp_path / "d", "int4", progress=Silence())
    assert set(four["types"]) == {"Q8_0", "Q4_1", "F32"}
    assert hidden(one.load_model(str(tmp_path / "d"), dtype="int4")).isfinite().all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_and_nothing_is_left(hub, tmp_path: Path, poison: float) -> None:
    source = model(tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = poison
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    for dtype in ("int8", "int4"):
        with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj") as caught:
            quantise(hub(), str(source), tmp_path / "small", dtype, progress=Silence())
        assert "mend the checkpoint" in (caught.value.hint or "")
    assert not [path for path in tmp_path.iterdir() if "small" in path.name]


def test_what_cannot_be_is_refused_before_anything_is_written(hub, tmp_path: Path) -> None:
    source, text = model(tmp_path / "model"), tmp_path / "text.txt"
    text.write_bytes(b"\xff\xfe\x00")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("kept")
    one = hub()
    with pytest.raises(UsageError, match="is there already"):
        quantise(one, str(source), full, "int8", progress=Silence())
    assert (full / "mine").read_text() == "kept"
    with pytest.raises(UsageError, match="says little"):
        quantise(one, str(source), tmp_path / "a", "int8", text=text, calibrate=text, progress=Silence())
    with pytest.raises(InputError, match="cannot be read as text"):
        quantise(one, str(source), tmp_path / "a", "int8", text=text, progress=Silence())
    encoder = write_checkpoint(tmp_path / "bert", "bert")
    with pytest.raises(UsageError, match="causal language model"):
        quantise(one, str(encoder), tmp_path / "a", "int8", progress=Silence())
    odd = model(tmp_path / "odd", rope_scaling={"rope_type": "yarn", "factor": 2.0})
    with pytest.raises(WeightsError):
        quantise(one, str(odd), tmp_path / "a", "int8", progress=Silence())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ],
    ids=["linear", "llama3"],
)
def test_rotary_rules_are_carried_over(hub, tmp_path: Path, rope) -> None:
    source = model(tmp_path / "model", rope_scaling=rope, rope_theta=500000.0)
    quantise(hub(), str(source), tmp_path / "small", "int8", progress=Silence())
    found = hub().load_model(str(tmp_path / "small")).model.config["rope_scaling"]
    assert {key: found[key] for key in rope if key in found} == {
        key: rope[key] for key in rope if key in found
    }
    assert found["rope_type"] == rope["rope_type"]
    assert found["factor"] == rope["factor"]


def test_a_tokenizer_that_gguf_cannot_say_lies_beside_the_file(hub, tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"}, tokenizer["pre_tokenizer"]]}  # fmt: skip
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    report = quantise(hub(), str(source), tmp_path / "small", "int8", progress=Silence())
    assert "splits a text" in report["missing"][0]
    small, before = (hub().load_model(str(tmp_path / name)) for name in ("small", "model"))
    assert small.tokenizer.digest() == before.tokenizer.digest()


def test_windows_cover_a_text_and_leave_no_single_token() -> None:
    assert [batch.starts[-1] for batch in windows(range(2049), 5000)] == [1024, 1024]
    assert [batch.starts[-1] for batch in windows(range(130), 64)] == [64, 64, 2]


def test_a_model_of_no_numbers_has_no_perplexity(hub, tmp_path: Path) -> None:
    from llmasos.api import EvaluationError

    source = model(tmp_path / "model", tie_word_embeddings=False)
    tensors = load_file(source / "model.safetensors")
    # Loading looks at what the first token meets; other rows of the table show when a text has them.
    tensors["model.embed_tokens.weight"][2] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    loaded = hub().load_model(str(source))
    with pytest.raises(EvaluationError, match="NaN"):
        perplexity(loaded.model, [1, 2, 3])
    with pytest.raises(EvaluationError, match="longer text"):
        perplexity(loaded.model, [1])
