"""The journey of the example plugin: built, published, found, installed, used; from a lock, from a bundle, and refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from journey_machines import CHECKOUT, EXAMPLE, Machine, build_wheel
from registries import Server

pytest.importorskip("torch", reason="needs the extra `torch`")

PLUGIN, MODEL, TASK = "llmasos-ngram", "acme/ngram-demo", "ngram_weather"
REFERENCE = f"registry://{MODEL}"


@pytest.fixture(scope="module")
def llmasos_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llmasos as it would be released from this checkout."""
    return build_wheel(CHECKOUT, tmp_path_factory.mktemp("llmasos-wheel"))


class Published(NamedTuple):
    """What the author put into the registry, and the number that he saw."""

    registry: Server
    author: Machine
    wheel: Path
    corpus: str
    value: float


@pytest.fixture(scope="module")
def published(
    registry: Server, llmasos_wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    """An author of the organisation acme publishes the example plugin and a model that was trained with it."""
    token = registry.user("ada", ("write", "publish"))
    registry.org("acme", {"ada": "owner"})
    author = Machine(tmp_path_factory.mktemp("author"), llmasos_wheel, registry.url, token)
    author.run("registry", "key", "new", "--register")
    author.run("registry", "key", "register", "--account", "acme")
    wheel = build_wheel(EXAMPLE, tmp_path_factory.mktemp("ngram-wheel"))
    assert author.json("plugin", "publish", wheel)["keyid"]
    author.run("install", PLUGIN, "--yes")
    corpus = (CHECKOUT / "docs" / "explanation" / "evaluation.md").read_text(encoding="utf-8")
    (author.work / "corpus.txt").write_text(corpus, encoding="utf-8")
    author.run("ngram", "train", "corpus.txt", "-o", "ngram-demo", "--order", "3", "--license", "Apache-2.0")
    done = author.json("model", "publish", "ngram-demo", MODEL, "--version", "1.0.0")
    assert done["version"] == "1.0.0"
    return Published(registry, author, wheel, corpus, score(author, "ngram-demo"))


@pytest.fixture
def machine(published: Published, llmasos_wheel: Path, tmp_path: Path) -> Machine:
    """A new machine that knows the registry's address and nothing else."""
    return Machine(tmp_path / "reader", llmasos_wheel, published.registry.url)


def score(machine: Machine, model: str) -> float:
    """Bits a character."""
    (task,) = machine.json("eval", model, TASK)["tasks"]
    (value,) = [s["value"] for s in task["scores"] if s["metric"] == f"{PLUGIN}/bits_per_character"]
    return float(value)


def test_install_pull_and_evaluate(published: Published, machine: Machine) -> None:
    said = machine.refused("eval", REFERENCE, "quickstart_prose", code=3)
    assert "`llmasos-ngram<1,>=0.1` is not installed" in said
    assert said.endswith("hint: llmasos install 'llmasos-ngram<1,>=0.1'")

    done = machine.json("install", PLUGIN, "--yes")
    assert done["applied"]
    pulled = machine.json("model", "pull", MODEL)
    assert pulled["version"] == "1.0.0"
    value = score(machine, REFERENCE)
    assert value == published.value
    assert 1.0 < value < 8.0
    listed = {plugin["id"]: plugin for plugin in machine.json("plugin", "list")["plugins"]}
    assert listed[PLUGIN]["state"] == "enabled"


def test_one_command_after_consent(published: Published, machine: Machine) -> None:
    record = machine.json("eval", REFERENCE, "quickstart_prose", "--limit", "2", "--yes")
    assert record["model"]["architecture"] == f"{PLUGIN}/kneser-ney"
    assert any(plugin["id"] == PLUGIN for plugin in record["plugins"])


def test_a_lock_makes_a_second_environment_equal_byte_for_byte(
    published: Published, machine: Machine, llmasos_wheel: Path, tmp_path: Path
) -> None:
    machine.run("install", PLUGIN, "--yes")
    machine.run("lock", PLUGIN, "--model", MODEL)
    lock = machine.work / "pylock.toml"
    second = Machine(tmp_path / "second", llmasos_wheel)  # the registry's address comes from the lock
    (second.work / "pylock.toml").write_bytes(lock.read_bytes())
    before = second.packages()
    done = second.json("sync", "--yes")
    assert done["applied"]
    assert second.packages() == machine.packages()
    assert second.packages() != before
    second.environ["LLMASOS_REGISTRY"] = published.registry.url
    assert score(second, REFERENCE) == published.value
    assert not second.json("sync", "--yes")["applied"], "the second time there is nothing to do"
    machine.run("lock", PLUGIN, "--model", MODEL, "-o", "pylock.again.toml")
    assert (machine.work / "pylock.again.toml").read_bytes() == lock.read_bytes()
