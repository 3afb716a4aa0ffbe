"""A model that is only prepared says what the loaded one says, and has read no weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmasos
from llmasos.errors import UsageError, WeightsError
from llmasos.testing.checkpoints import write_checkpoint


def hub_at(folder: Path) -> llmasos.Hub:
    return llmasos.Hub(cache_dir=folder / "cache", config_dir=folder / "cache", offline=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_prepared_is_what_is_loaded(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family)
    with hub_at(tmp_path) as hub:
        prepared = hub.prepare_model(str(folder))
        plugins = [plugin.id for plugin in hub.plugins_used()]
        loaded = hub.load_model(str(folder))
        assert dict(prepared.facts) == dict(loaded.facts)
        assert prepared.tokenizer.digest() == loaded.tokenizer.digest()
        assert (prepared.max_length, prepared.vocab_size) == (
            loaded.model.max_length,
            loaded.model.vocab_size,
        )
        assert prepared.load().model.num_parameters() == loaded.model.num_parameters()
        assert [plugin.id for plugin in hub.plugins_used()] == plugins


def test_weights_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    with hub_at(tmp_path) as hub:
        prepared = hub.prepare_model(str(folder))
        (weights,) = folder.glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-8])
        with pytest.raises(WeightsError):
            prepared.load()


def test_an_encoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "bert")
    with hub_at(tmp_path) as hub, pytest.raises(UsageError, match="this needs a causal language model"):
        hub.prepare_model(str(folder))
