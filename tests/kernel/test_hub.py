"""The Hub: names without imports, one plugin at a time, policies, no globals."""

from __future__ import annotations

import inspect
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llmasos
from llmasos.contracts.hub import HubAPI
from llmasos.errors import (
    ConfigError,
    MissingDependency,
    ModelNotFound,
    PluginCallError,
    PluginLoadError,
    UnknownName,
    UsageError,
)
from llmasos.kernel.hub import KernelHub
from llmasos.testing.sources import plugin_source

if TYPE_CHECKING:
    from world import World

METRIC = [("metric", "wer")]


def test_names_import_nothing(world: World) -> None:
    world.add("acme-two", provides=METRIC, source="raise SystemExit")
    world.add("acme-one", provides=[("metric", "b"), ("metric", "a")], source="raise SystemExit")
    hub = world.hub()
    assert [provided.full_name for provided in hub.names("metric")] == [
        "acme-one/a",
        "acme-one/b",
        "acme-two/wer",
    ]
    provided = hub.names("metric")[2]
    assert (provided.summary, provided.plugin.version, provided.plugin.path) == (
        "The metric wer",
        "1.0.0",
        world.site / "acme_two",
    )
    assert hub.names("task") == []
    assert hub.plugins_used() == []


def test_using_a_name_imports_that_plugin_only(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    world.add("acme-two", provides=[("metric", "cer")], source="raise SystemExit")
    hub = world.hub()
    assert hub.get("metric", "wer").__name__ == "dumps"
    assert [(info.id, info.version, info.distribution) for info in hub.plugins_used()] == [
        ("acme-one", "1.0.0", "acme-one")
    ]


def test_factories_may_be_nested_attributes(world: World) -> None:
    world.add(
        "acme-one",
        provides=METRIC,
        source=plugin_source(METRIC).replace("json:dumps", "json:JSONEncoder.encode"),
    )
    assert world.hub().get("metric", "wer").__qualname__ == "JSONEncoder.encode"


@pytest.mark.parametrize(
    ("factory", "files", "error", "words"),
    [
        ("acme_one.nowhere:x", {}, PluginLoadError, "No module named 'acme_one.nowhere'"),
        ("acme_one.part:x", {"part.py": ""}, PluginLoadError, "AttributeError"),
        (
            "acme_one.part:x",
            {"part.py": "import no_such_module_here"},
            MissingDependency,
            "needs the package `no_such_module_here`",
        ),
        ("acme_one.part:x", {"part.py": "1 / 0"}, PluginLoadError, "ZeroDivisionError: division by zero"),
        ("acme_one.part:x", {"part.py": "raise SystemExit"}, PluginLoadError, "it called sys.exit(None)"),
    ],
)
def test_a_broken_factory_is_a_hard_error(
    world: World, factory: str, files: dict[str, str], error: type[Exception], words: str
) -> None:
    world.add("acme-one", provides=METRIC, source=plugin_source(METRIC).replace("json:dumps", factory))
    for name, text in files.items():
        world.file("acme-one", name).write_text(text)
    hub = world.hub()
    with pytest.raises(error, match="metric acme-one/wer 1") as caught:
        hub.get("metric", "wer")
    assert words in str(caught.value)
    # The descriptor is fine, so the plugin is not in quarantine.
    assert hub.contribution("metric", "wer").factory == factory
    assert world.hub().inventory.get("acme-one").state == "enabled"


def test_the_authors_hint_for_a_missing_package(world: World) -> None:
    source = plugin_source(METRIC).replace("json:dumps", "acme_one.part:x")
    world.add("acme-one", provides=METRIC, source=source, requires={"extras_hint": "pip install 'acme[all]'"})
    world.file("acme-one", "part.py").write_text("import no_such_module_here")
    with pytest.raises(MissingDependency) as caught:
        world.hub().get("metric", "wer")
    assert caught.value.hint == "pip install 'acme[all]'"


def test_a_task_is_a_file_of_its_plugin(world: World) -> None:
    tasks = [("task", "quiz"), ("task", "lost"), ("task", "outside")]
    source = plugin_source(tasks)
    for name, path in (
        ("quiz", "acme_one:tasks/quiz.yaml"),
        ("lost", "acme_one:lost.yaml"),
        ("outside", "acme_one:../secret.yaml"),
    ):
        source = source.replace(f'name="{name}", factory="json:dumps"', f'name="{name}", factory="{path}"')
    world.add("acme-one", provides=tasks, source=source)
    world.file("acme-one", "tasks").mkdir()
    world.file("acme-one", "tasks/quiz.yaml").write_text("task: quiz")
    (world.site / "secret.yaml").write_text("")
    hub = world.hub()
    found = hub.get("task", "quiz")
    assert isinstance(found, Path)
    assert found.read_text() == "task: quiz"
    for name in ("lost", "outside"):
        with pytest.raises(PluginLoadError, match="which does not exist"):
            hub.get("task", name)


def test_collect_sorts_and_keeps_going(world: World) -> None:
    world.add("acme-two", provides=[("metric", "b"), ("task", "t")])
    world.add("acme-one", provides=[("metric", "z"), ("metric", "a")])
    world.add("acme-bad", provides=[("metric", "x")], source="1 / 0")
    found = world.hub().collect("metric")
    assert [(entry.plugin, entry.item.name) for entry in found] == [
        ("acme-one", "a"),
        ("acme-one", "z"),
        ("acme-two", "b"),
    ]
    assert world.warnings == ["plugin acme-bad 1.0.0 cannot be loaded: ZeroDivisionError: division by zero"]


def resolver(prefix: str) -> dict[str, str]:
    body = f"if ref.startswith('{prefix}'):\n    return api.ResolvedModel(ref=ref, path=hub.cache_dir, source='{prefix}')"
    return {"resolve_model": body}


def test_resolve_model_asks_plugins_that_list_the_hook(world: World) -> None:
    world.add("acme-b", hooks=resolver("b"))
    world.add("acme-a", hooks=resolver("a"))
    world.add("acme-none", provides=METRIC, source="raise SystemExit")
    hub = world.hub()
    found = hub.locate_model("b:model")
    assert (found.source, found.path) == ("b", world.cache)
    assert [info.id for info in hub.plugins_used()] == ["acme-a", "acme-b"]
    with pytest.raises(ModelNotFound, match="no plugin understands the model reference `c:model`") as caught:
        hub.locate_model("c:model")
    assert "hf://" in (caught.value.hint or "")
    assert caught.value.exit_code == 5


def test_resolve_model_without_any_resolver_says_so(world: World) -> None:
    with pytest.raises(ModelNotFound) as caught:
        world.hub().locate_model("x")
    assert "no enabled plugin resolves model references" in (caught.value.hint or "")


def test_a_resolver_that_cannot_be_loaded_is_one_warning(world: World) -> None:
    world.add("acme-a", hooks=resolver("a"), source="1 / 0")
    world.add("acme-b", hooks=resolver("b"))
    assert world.hub().locate_model("b:x").source == "b"
    assert len(world.warnings) == 1


def test_a_resolver_that_fails_ends_the_run(world: World) -> None:
    world.add("acme-a", hooks={"resolve_model": "1 / 0"})
    world.add("acme-b", hooks=resolver("b"))
    with pytest.raises(PluginCallError, match=r"hook llmasos_resolve_model of acme-a 1\.0\.0 failed"):
        world.hub().locate_model("b:x")


def test_a_resolver_that_answers_nonsense_is_named(world: World) -> None:
    world.add("acme-a", hooks={"resolve_model": "return 'somewhere'"})
    world.add("acme-b", hooks=resolver("b"))
    with pytest.raises(PluginCallError, match="acme-a answered 'somewhere', which is not a ResolvedModel"):
        world.hub().locate_model("b:x")


def test_select_backend(world: World) -> None:
    hub = world.hub()
    from llmasos.contracts.runtime import BackendRequest

    request = BackendRequest("auto", "float32")
    assert hub.select_backend(request, ("a/x", "b/y")) == "a/x"
    world.add("acme-chooser", hooks={"select_backend": "return candidates[-1]"})
    assert world.hub().select_backend(request, ("a/x", "b/y")) == "b/y"
    world.add("acme-a", hooks={"select_backend": "return 'c/z'"})
    with pytest.raises(PluginCallError, match="of acme-a answered 'c/z', which is not a candidate"):
        world.hub().select_backend(request, ("a/x", "b/y"))


def test_notify_and_wrap(world: World) -> None:
    world.add("acme-a", hooks={"eval_failed": "hits.append(event)", "run_evaluation": "return request"})
    world.file("acme-a").write_text("hits = []\n" + world.file("acme-a").read_text())
    world.add("acme-b", hooks={"eval_failed": "1 / 0"})
    hub = world.hub()
    hub.notify("eval_failed", event="event")
    assert sys.modules["acme_a.plugin"].hits == ["event"]
    assert world.warnings == [
        "hook llmasos_eval_failed of acme-b 1.0.0 failed: ZeroDivisionError: division by zero"
    ]
    assert hub.wrap("run_evaluation", request="request", hub=hub, progress=None) == "request"


def test_a_hook_is_called_by_its_own_policy_only(world: World) -> None:
    with pytest.raises(ValueError, match="has the policy wrap, not first"):
        world.hub().first("run_evaluation")


def test_only_and_no_plugins(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    world.add("acme-two", provides=[("metric", "cer")])
    assert [record.id for record in world.hub(only=["acme-two"]).inventory] == ["acme-two"]
    assert [record.id for record in world.hub(only=[]).inventory] == []
    assert len(world.hub(only=None, no_plugins=True).inventory) == 0
    with pytest.raises(UnknownName, match="no plugin `acme-tow` is installed, did you mean `acme-two`"):
        world.hub(only=["acme-tow"])


def test_switched_off_and_asked_for_is_a_contradiction(world: World) -> None:
    with pytest.raises(UsageError, match="switched off, and some are asked for"):
        world.hub(no_plugins=True, only=["acme-one"])


def test_no_plugins_does_not_even_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmasos.kernel import inventory

    def look(cache: Path) -> None:
        raise AssertionError("looked")

    monkeypatch.setattr(inventory, "load_index", look)
    monkeypatch.setenv("LLMASOS_NO_PLUGINS", "1")
    assert len(world.hub(only=None).inventory) == 0


def test_explain(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    world.add("acme-old", provides=METRIC, api="<1")
    world.add("acme-other")
    world.add("acme-bad", sumary="x")
    lines = world.hub().explain("metric", "wer")
    assert "no: acme-old 1.0.0: incompatible: needs llmasos API <1, this is 1.0" in lines
    assert "no: acme-other 1.0.0: provides no metric `wer`" in lines
    assert "yes: acme-one 1.0.0: Throw-away plugin acme-one" in lines
    assert "    ok: needs llmasos API >=1.0,<2, this is 1.0" in lines
    assert any(line.startswith("no: acme-bad 1.0.0: ") and "sumary" in line for line in lines)


SETTINGS = {
    "cache_mb": {"type": "int", "default": 5, "help": "Memory"},
    "name": {"type": "str", "default": "x", "help": "Name"},
    "ratio": {"type": "float", "default": 0.5, "help": "Ratio"},
    "on": {"type": "bool", "default": False, "help": "Switch"},
}


def test_plugin_settings_precedence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("acme-one", settings=SETTINGS)
    assert world.hub().plugin_settings("acme-one") == {"cache_mb": 5, "name": "x", "ratio": 0.5, "on": False}
    world.config.mkdir()
    (world.config / "config.toml").write_text('[plugins.acme-one]\ncache_mb = 6\nname = "y"\n')
    monkeypatch.setenv("LLMASOS_ACME_ONE_NAME", "z")
    monkeypatch.setenv("LLMASOS_ACME_ONE_ON", "yes")
    monkeypatch.setenv("LLMASOS_ACME_ONE_RATIO", "0.25")
    assert world.hub().plugin_settings("acme-one") == {"cache_mb": 6, "name": "z", "ratio": 0.25, "on": True}


@pytest.mark.parametrize(
    ("text", "variable", "message"),
    [
        ("cache_bm = 6", None, "unknown key `cache_bm` in .*did you mean `cache_mb`"),
        ('cache_mb = "6"', None, "`cache_mb` in .* must be of type int"),
        ("cache_mb = true", None, "`cache_mb` in .* must be of type int"),
        (
            "",
            ("LLMASOS_ACME_ONE_CACHE_MB", "six"),
            "LLMASOS_ACME_ONE_CACHE_MB is 'six', which is not of type int",
        ),
        ("", ("LLMASOS_ACME_ONE_ON", "maybe"), "LLMASOS_ACME_ONE_ON is 'maybe'"),
    ],
)
def test_plugin_settings_errors(
    world: World, monkeypatch: pytest.MonkeyPatch, text: str, variable: tuple[str, str] | None, message: str
) -> None:
    world.add("acme-one", settings=SETTINGS)
    world.config.mkdir()
    (world.config / "config.toml").write_text(f"[plugins.acme-one]\n{text}\n")
    if variable is not None:
        monkeypatch.setenv(*variable)
    with pytest.raises(ConfigError, match=message):
        world.hub().plugin_settings("acme-one")


def test_hubs_do_not_share_anything(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    world.add("acme-two", provides=METRIC)
    first, second = world.hub(only=["acme-one"]), world.hub(only=["acme-two"])
    assert first.contribution("metric", "wer").name == second.contribution("metric", "wer").name
    assert [info.id for info in first.plugins_used()] == ["acme-one"]
    assert [info.id for info in second.plugins_used()] == ["acme-two"]


def test_a_hub_travels_to_a_worker_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("acme-one", provides=METRIC)
    folder = world.local("acme-local", provides=[("metric", "cer")])
    hub = KernelHub(
        cache_dir=world.cache,
        config_dir=world.config,
        only=["acme-one"],
        plugins=[folder],
        offline=True,
        strict=True,
    )
    hub.contribution("metric", "wer")
    data = pickle.dumps(hub)
    hub.close()
    monkeypatch.chdir("/")
    arrived = pickle.loads(data)
    assert arrived.plugins_used() == []
    assert (arrived.offline, arrived.config.strict, arrived.cache_dir) == (True, True, world.cache)
    assert [provided.full_name for provided in arrived.names("metric")] == ["acme-local/cer", "acme-one/wer"]
    assert arrived.contribution("metric", "cer").name == "cer"
    arrived.close()


def test_the_public_hub_satisfies_the_contract() -> None:
    wanted = {name for name in vars(HubAPI) if not name.startswith("_")}
    for name in wanted:
        promised, given = getattr(HubAPI, name), getattr(llmasos.Hub, name)
        expected = list(inspect.signature(promised).parameters)
        assert list(inspect.signature(given).parameters)[: len(expected)] == expected, name
    assert set(HubAPI.__annotations__) == {"cache_dir", "data_dir", "offline"}


def test_a_damaged_list_of_disabled_plugins_is_an_error_not_a_guess(world: World) -> None:
    world.config.mkdir()
    for content in ("{", "[]", '{"disabled": "acme"}', '{"disabled": [1]}', "\x00"):
        (world.config / "plugins.json").write_text(content)
        with pytest.raises(ConfigError, match=r"plugins\.json"):
            world.hub()


def test_a_resolver_behind_the_one_that_answers_is_not_loaded(world: World) -> None:
    world.add("acme-a", hooks=resolver("a"))
    world.add("acme-b", hooks=resolver("b"))
    hub = world.hub()
    assert hub.locate_model("a:model").source == "a"
    assert [plugin.id for plugin in hub.plugins_used()] == ["acme-a"]
    assert hub.locate_model("b:model").source == "b"
    assert [plugin.id for plugin in hub.plugins_used()] == ["acme-a", "acme-b"]
