"""The journey of the example plugin: built, published, found, installed, used; from a lock and from a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from journey_machines import MODEL, PLUGIN, REFERENCE, TASK, Machine, Published, score

pytest.importorskip("torch", reason="needs the extra `torch`")


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
    # The task, too, is one of the plugin that is not there yet.
    record = machine.json("eval", REFERENCE, TASK, "--limit", "2", "--yes")
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


def test_a_bundle_is_enough_for_a_machine_without_a_network(
    published: Published, machine: Machine, llmasos_wheel: Path, tmp_path: Path
) -> None:
    machine.run("bundle", "create", PLUGIN, "--model", MODEL, "-o", "demo.bundle")
    far = Machine(tmp_path / "far", llmasos_wheel, published.registry.url)
    far.online = False
    (far.work / "demo.bundle").write_bytes((machine.work / "demo.bundle").read_bytes())
    assert "registry" in far.refused("install", PLUGIN, "--yes"), "there is really no network"
    assert far.json("bundle", "install", "demo.bundle", "--yes")["applied"]
    far.environ["LLMASOS_OFFLINE"] = "1"  # what is here is what there is
    assert score(far, REFERENCE) == published.value
    # One bit of the bundle is another: refused, whichever file it is in.
    content = bytearray((far.work / "demo.bundle").read_bytes())
    content[len(content) // 2] ^= 1
    (far.work / "other.bundle").write_bytes(content)
    other = Machine(tmp_path / "other", llmasos_wheel, published.registry.url)
    other.online = False
    assert "expected" in other.refused("bundle", "install", far.work / "other.bundle", "--yes")
