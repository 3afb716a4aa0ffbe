"""Names: bare and full, ambiguous and unknown, and what matches a file or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmasos.errors import AmbiguousName, IncompatiblePlugin, PluginLoadError, UnknownName

if TYPE_CHECKING:
    from world import World


def test_bare_and_full_names(world: World) -> None:
    world.add("acme-one", provides=[("metric", "wer"), ("task", "wer")])
    catalog = world.hub().catalog
    assert catalog.find("metric", "wer") == catalog.find("metric", "acme-one/wer")
    assert catalog.find("metric", "wer").full_name == "acme-one/wer"
    assert catalog.find("task", "wer").kind == "task"


def test_two_providers_make_a_name_ambiguous_whoever_they_are(world: World) -> None:
    world.add("acme-two", provides=[("metric", "wer")], version="2.0")
    world.add("acme-one", provides=[("metric", "wer")])
    hub = world.hub()
    with pytest.raises(AmbiguousName) as caught:
        hub.contribution("metric", "wer")
    assert caught.value.message == "metric `wer` is provided by acme-one 1.0.0 and acme-two 2.0"
    assert caught.value.hint == "write `acme-one/wer` or `acme-two/wer`"
    assert caught.value.exit_code == 3
    assert hub.contribution("metric", "acme-two/wer").name == "wer"
    assert set(hub.catalog.ambiguous_names()) == {"metric wer"}
    assert [info.id for info in hub.plugins_used()] == ["acme-two"]


def test_a_disabled_provider_does_not_count(world: World) -> None:
    world.add("acme-one", provides=[("metric", "wer")])
    world.add("acme-two", provides=[("metric", "wer")])
    world.config.mkdir()
    (world.config / "plugins.json").write_text('{"disabled": ["acme-two"]}')
    assert world.hub().catalog.find("metric", "wer").record.id == "acme-one"


def test_a_near_miss_is_suggested(world: World) -> None:
    world.add("acme-one", provides=[("metric", "word_error_rate"), ("metric", "f1")])
    with pytest.raises(UnknownName) as caught:
        world.hub().contribution("metric", "word_eror_rate")
    assert caught.value.message == "no plugin provides the metric `word_eror_rate`"
    assert caught.value.hint is not None
    assert "`word_error_rate`" in caught.value.hint
    assert caught.value.exit_code == 5


def test_without_a_near_miss_the_list_is_capped(world: World) -> None:
    world.add("acme-one", provides=[("metric", f"m{i:02}") for i in range(30)])
    with pytest.raises(UnknownName) as caught:
        world.hub().contribution("metric", "entirely different")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("known: m00, m01")
    assert caught.value.hint.endswith("and 18 more")


def test_what_is_known_under_another_name_elsewhere(world: World) -> None:
    world.add("acme-one")
    world.promise(
        "acme-one",
        '[[provides]]\nkind = "metric"\nname = "wer"\nsummary = "x"\naliases_for = ["WordErrorRate"]\n',
    )
    with pytest.raises(UnknownName) as caught:
        world.hub().contribution("metric", "WordErrorRate")
    assert caught.value.hint == "did you mean `acme-one/wer`?"


def test_an_unknown_plugin_in_a_full_name(world: World) -> None:
    world.add("acme-one", provides=[("metric", "wer")])
    with pytest.raises(UnknownName, match="no plugin `acme-tow` is installed"):
        world.hub().contribution("metric", "acme-tow/wer")


def test_nothing_provides_the_kind(world: World) -> None:
    world.add("acme-one")
    with pytest.raises(UnknownName) as caught:
        world.hub().contribution("model_architecture", "llama")
    assert caught.value.message == "no plugin provides the model architecture `llama`"
    assert caught.value.hint is not None
    assert "llmasos plugin list" in caught.value.hint


def test_switched_off(world: World) -> None:
    world.add("acme-one", provides=[("metric", "wer")])
    with pytest.raises(UnknownName, match="installed plugins are switched off"):
        world.hub(no_plugins=True, only=None).contribution("metric", "wer")


def test_a_name_of_an_incompatible_plugin_says_why(world: World) -> None:
    world.add("acme-old", provides=[("metric", "wer")], api="<1")
    hub = world.hub()
    assert hub.names("metric") == []
    with pytest.raises(IncompatiblePlugin) as caught:
        hub.contribution("metric", "wer")
    assert caught.value.message == "plugin acme-old 1.0.0 is incompatible: needs llmasos API <1, this is 1.0"
    assert caught.value.hint == "upgrade the plugin"


def test_a_name_of_a_disabled_plugin_says_how_to_enable_it(world: World) -> None:
    world.add("acme-off", provides=[("metric", "wer")])
    world.config.mkdir()
    (world.config / "plugins.json").write_text('{"disabled": ["acme-off"]}')
    with pytest.raises(PluginLoadError, match="disabled by the user") as caught:
        world.hub().contribution("metric", "acme-off/wer")
    assert caught.value.hint == "run `llmasos plugin enable acme-off`"


MATCHES = """
[[provides]]
kind = "model_architecture"
name = "llama"
summary = "x"
matches = { model_type = ["llama", "mistral"], architectures = ["LlamaForCausalLM"] }

[[provides]]
kind = "weight_loader"
name = "safetensors"
summary = "x"
matches = { files = ["*.safetensors", "model.safetensors.index.json"] }

[[provides]]
kind = "weight_loader"
name = "plain"
summary = "x"
"""


@pytest.mark.parametrize(
    ("kind", "facts", "names"),
    [
        ("model_architecture", {"model_type": "llama"}, ["llama"]),
        ("model_architecture", {"model_type": "mistral", "architectures": ["Unknown"]}, ["llama"]),
        ("model_architecture", {"model_type": "other", "architectures": ["LlamaForCausalLM"]}, ["llama"]),
        ("model_architecture", {"model_type": "llama2"}, []),
        ("model_architecture", {"model_type": "*"}, []),
        ("model_architecture", {"colour": "blue"}, []),
        ("weight_loader", {"files": ["config.json", "model-00001-of-2.safetensors"]}, ["safetensors"]),
        ("weight_loader", {"files": ["MODEL.SAFETENSORS"]}, []),
        ("weight_loader", {"files": []}, []),
    ],
)
def test_matching_is_decided_by_the_index(
    world: World, kind: str, facts: dict[str, str | list[str]], names: list[str]
) -> None:
    world.add("acme-one", source="raise SystemExit")
    world.promise("acme-one", MATCHES)
    hub = world.hub()
    assert [provided.name for provided in hub.matching(kind, **facts)] == names
    assert hub.plugins_used() == []
    table = {provided.name: provided.matches for provided in hub.names(kind)}
    if kind == "weight_loader":
        assert table == {
            "plain": {},
            "safetensors": {"files": ("*.safetensors", "model.safetensors.index.json")},
        }
