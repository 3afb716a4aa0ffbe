"""Loading is a transaction: a plugin keeps its promises or leaves nothing behind but its traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmasos.errors import IncompatiblePlugin, ManifestError, PluginLoadError
from llmasos.testing.sources import plugin_source

if TYPE_CHECKING:
    from world import World

METRIC = [("metric", "wer")]
GOOD = plugin_source(METRIC)

#: name -> (module source, hooks promised, words in the one line)
BROKEN: dict[str, tuple[str, list[str], str]] = {
    "raises": ("1 / 0\n" + GOOD, [], "ZeroDivisionError: division by zero"),
    "exits": ("import sys\nsys.exit(3)\n", [], "it called sys.exit(3)"),
    "escapes": ("raise RuntimeError('\\x1b[2Jhidden')", [], "RuntimeError: ?[2Jhidden"),
    "syntax": ("def llmasos_metrics(:\n", [], "SyntaxError"),
    "imports-missing": (
        "import no_such_module_here\n",
        [],
        "ModuleNotFoundError: No module named 'no_such_module_here'",
    ),
    "nothing": ("", [], "promises `metrics` but raises_nothing.plugin does not implement llmasos_metrics"),
    "misspelt": (
        GOOD.replace("llmasos_metrics", "llmasos_metrcs"),
        [],
        "unknown hook `llmasos_metrcs`, did you mean `llmasos_metrics`?",
    ),
    "default": (
        GOOD + "\n@hookimpl\ndef llmasos_eval_failed(event=None):\n    pass\n",
        ["eval_failed"],
        "gives the argument `event` a default value",
    ),
    "argument": (
        GOOD + "\n@hookimpl\ndef llmasos_eval_failed(evnt):\n    pass\n",
        ["eval_failed"],
        "takes an argument `evnt`, which llmasos_eval_failed does not have, did you mean `event`?",
    ),
    "unpromised-verb": (
        GOOD + "\n@hookimpl\ndef llmasos_eval_failed(event):\n    pass\n",
        [],
        "implements llmasos_eval_failed, which the manifest does not promise",
    ),
    "unpromised-kind": (
        GOOD + "\n@hookimpl\ndef llmasos_tasks():\n    return ()\n",
        [],
        "implements llmasos_tasks, which the manifest does not promise",
    ),
    "missing-verb": (GOOD, ["eval_failed"], "promises `eval_failed` but"),
    # pluggy itself refuses this one; 1.6 does so after it has registered the good hooks of the module.
    "not-a-generator": (
        GOOD + "\n@hookimpl(wrapper=True)\ndef llmasos_run_evaluation(request):\n    return 1\n",
        ["run_evaluation"],
        "PluginValidationError",
    ),
    "order": (GOOD.replace("@hookimpl", "@hookimpl(tryfirst=True)"), [], "asks for a place in the order"),
    "wraps": (
        GOOD + "\n@hookimpl(wrapper=True)\ndef llmasos_eval_failed(event):\n    yield\n",
        ["eval_failed"],
        "wraps `llmasos_eval_failed`, whose policy is notify",
    ),
    "other-name": (
        GOOD.replace('name="wer"', 'name="werr"'),
        [],
        "promises the metric `wer`, which is not delivered, did you mean `werr`?",
    ),
    "more": (
        plugin_source([*METRIC, ("metric", "cer")]),
        [],
        "the metric `cer` is delivered but not promised",
    ),
    "twice": (plugin_source([*METRIC, *METRIC]), [], "metric `wer` is delivered twice"),
    "factory": (GOOD.replace("json:dumps", "json.dumps"), [], "has the factory 'json.dumps'"),
    "other-kind": (
        GOOD.replace("yield api.MetricDef(", "yield api.TokenizerDef(").replace(
            ", higher_is_better=True", ""
        ),
        [],
        "which is not a metric descriptor",
    ),
    "not-a-descriptor": (
        GOOD.replace("yield api.MetricDef(name=", "yield dict(name="),
        [],
        "which is not a metric descriptor",
    ),
    "generator-raises": (
        GOOD.replace("    yield", "    raise RuntimeError('half way')\n    yield"),
        [],
        "RuntimeError: half way",
    ),
    "returns-none": (GOOD.replace("    yield api", "    api"), [], "which is not delivered"),
    "bad-descriptor": (GOOD.replace('name="wer", ', ""), [], "TypeError"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_plugin_is_rolled_back_and_quarantined(world: World, name: str) -> None:
    source, hooks, words = BROKEN[name]
    # The source is given, so the bodies of the hooks promised do not matter.
    plugin_id = world.add(f"raises-{name}", provides=METRIC, source=source, hooks=dict.fromkeys(hooks, ""))
    hub = world.hub()
    before = set(sys.modules)
    with pytest.raises(PluginLoadError) as caught:
        hub.contribution("metric", "wer")
    message = caught.value.message
    assert message.startswith(f"plugin {plugin_id} 1.0.0 cannot be loaded: ")
    assert words in message
    assert "\n" not in message
    assert caught.value.hint is not None
    # Nothing is left: no module of the plugin, nothing registered, nobody counts as used.
    assert not [m for m in set(sys.modules) - before if m.startswith("raises_")]
    assert hub._manager.get_plugins() == set()
    assert not any(caller.get_hookimpls() for caller in vars(hub._manager.hook).values())
    assert hub.plugins_used() == []
    # The next Hub knows without trying, and says so when the name is asked for.
    second = world.hub()
    assert second.inventory.get(plugin_id).state == "quarantined"
    assert second.names("metric") == []
    with pytest.raises(PluginLoadError, match="is quarantined: ") as again:
        second.contribution("metric", "wer")
    assert f"plugin enable --retry {plugin_id}" in (again.value.hint or "")
    failure = second.inventory.quarantine.read(plugin_id)
    assert failure is not None
    assert failure.traceback.startswith("Traceback")
    assert failure.summary in message


def test_rollback_restores_the_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEPT", "1")
    source = "\n".join(
        [
            "import os, sys, types, wave",
            "os.environ['ACME_NEW'] = '1'; os.environ['ACME_KEPT'] = '2'; os.environ.pop('HOME', None)",
            "sys.path.insert(0, '/nowhere'); sys.meta_path.append(object())",
            "sys.modules['acme_injected'] = types.ModuleType('acme_injected')",
            "sys.modules['json'] = types.ModuleType('json')",
            "import acme_state.other",
            "raise RuntimeError('now')",
        ]
    )
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    world.add("acme-state", provides=METRIC, source=source)
    world.file("acme-state", "other.py").write_text("")
    before = (list(sys.path), list(sys.meta_path), dict(os.environ), sys.modules["json"])
    with pytest.raises(PluginLoadError):
        world.hub().contribution("metric", "wer")
    assert (list(sys.path), list(sys.meta_path), dict(os.environ), sys.modules["json"]) == before
    assert not {"acme_injected", "acme_state", "acme_state.plugin", "acme_state.other"} & set(sys.modules)
    # A third-party module that finished importing stays: removing extension modules breaks them for everyone.
    assert "wave" in sys.modules


def test_control_c_during_import_propagates_and_is_not_held_against_the_plugin(world: World) -> None:
    world.add("acme-slow", provides=METRIC, source="raise KeyboardInterrupt")
    hub = world.hub()
    with pytest.raises(KeyboardInterrupt):
        hub.contribution("metric", "wer")
    assert "acme_slow.plugin" not in sys.modules
    assert world.hub().inventory.get("acme-slow").state == "enabled"


@pytest.mark.parametrize("change", ["source", "manifest", "version", "environment", "retry"])
def test_quarantine_ends_when_something_changed(world: World, change: str) -> None:
    world.add("acme-flaky", provides=METRIC, source="raise RuntimeError")
    with pytest.raises(PluginLoadError):
        world.hub().contribution("metric", "wer")
    assert world.hub().inventory.get("acme-flaky").state == "quarantined"
    if change == "source":
        world.file("acme-flaky").write_text(GOOD)
    elif change == "manifest":
        path = world.file("acme-flaky", "llmasos.toml")
        path.write_text(path.read_text().replace("Throw-away", "Mended"))
    elif change == "version":
        os.rename(world.site / "acme_flaky-1.0.0.dist-info", world.site / "acme_flaky-1.0.1.dist-info")
        metadata = world.site / "acme_flaky-1.0.1.dist-info" / "METADATA"
        metadata.write_text(metadata.read_text().replace("1.0.0", "1.0.1"))
    elif change == "environment":
        world.add("acme-dependency")
        world.ids.remove("acme-dependency")
    else:
        assert world.hub().inventory.quarantine.forget("acme-flaky")
    assert world.hub().inventory.get("acme-flaky").state == "enabled"


def test_a_plugin_that_was_mended_loads(world: World) -> None:
    world.add("acme-flaky", provides=METRIC, source="raise RuntimeError")
    with pytest.raises(PluginLoadError):
        world.hub().contribution("metric", "wer")
    world.file("acme-flaky").write_text(GOOD)
    assert world.hub().contribution("metric", "wer").name == "wer"


def test_within_one_hub_a_failed_plugin_is_not_tried_again(world: World) -> None:
    world.add("acme-count", provides=METRIC, source="import acme_counter\nraise RuntimeError")
    (world.site / "acme_counter.py").write_text(f"open({str(world.root / 'count')!r}, 'a').write('x')")
    hub = world.hub()
    for _ in range(3):
        with pytest.raises(PluginLoadError):
            hub.contribution("metric", "wer")
        sys.modules.pop("acme_counter", None)
    assert (world.root / "count").read_text() == "x"


def test_an_unwritable_cache_does_not_hide_the_failure(world: World) -> None:
    world.add("acme-broken", provides=METRIC, source="raise RuntimeError('why')")
    blocked = world.root / "file"
    blocked.write_text("")
    with pytest.raises(PluginLoadError, match="RuntimeError: why") as caught:
        world.hub(cache_dir=blocked / "cache").contribution("metric", "wer")
    assert "LLMASOS_STRICT=1" in (caught.value.hint or "")


def test_the_manifest_is_read_again_before_loading(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    hub = world.hub()
    path = world.file("acme-one", "llmasos.toml")
    path.write_text(path.read_text() + 'sumary = "x"\n')
    with pytest.raises(ManifestError):
        hub.contribution("metric", "wer")
    assert "acme_one.plugin" not in sys.modules


def test_words_of_the_user_do_not_lead_out_of_the_cache(world: World) -> None:
    victim = world.cache / "other.json"
    victim.parent.mkdir(parents=True, exist_ok=True)
    victim.write_text("{}")
    assert not world.hub().inventory.quarantine.forget("../other")
    assert victim.exists()


def test_requirements_are_checked_again_before_loading(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    hub = world.hub()
    path = world.file("acme-one", "llmasos.toml")
    path.write_text(path.read_text().replace(">=1.0,<2", ">=7"))
    with pytest.raises(IncompatiblePlugin, match="needs llmasos API >=7"):
        hub.contribution("metric", "wer")
    assert "acme_one.plugin" not in sys.modules


def test_a_namesake_elsewhere_is_not_loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("acme-one", provides=METRIC)
    hub = world.hub()
    shadow = world.root / "shadow"
    (shadow / "acme_one").mkdir(parents=True)
    (shadow / "acme_one" / "__init__.py").write_text("")
    (shadow / "acme_one" / "plugin.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(shadow))
    with pytest.raises(PluginLoadError, match=r"was imported from .*shadow.*, not from"):
        hub.contribution("metric", "wer")


def test_optional_hooks_of_a_later_api_are_ignored(world: World) -> None:
    source = GOOD + "\n@hookimpl(optionalhook=True)\ndef llmasos_from_the_future(thing):\n    pass\n"
    world.add("acme-one", provides=METRIC, source=source)
    assert world.hub().contribution("metric", "wer").name == "wer"


def test_unmarked_names_are_left_alone(world: World) -> None:
    source = (
        GOOD
        + "\nllmasos_note = 5\n\ndef llmasos_helper():\n    pass\n\nclass Odd:\n    def __getattr__(self, name):\n        raise KeyError(name)\n\nodd = Odd\n"
    )
    world.add("acme-one", provides=METRIC, source=source)
    assert world.hub().contribution("metric", "wer").name == "wer"


def test_specname_is_understood(world: World) -> None:
    source = GOOD.replace(
        "@hookimpl\ndef llmasos_metrics", '@hookimpl(specname="llmasos_metrics")\ndef whatever'
    )
    world.add("acme-one", provides=METRIC, source=source)
    assert world.hub().contribution("metric", "wer").name == "wer"


def test_loading_twice_is_loading_once(world: World) -> None:
    world.add("acme-one", provides=METRIC)
    hub = world.hub()
    assert hub.contribution("metric", "wer") is hub.contribution("metric", "acme-one/wer")
    assert [info.id for info in hub.plugins_used()] == ["acme-one"]


def test_a_slow_import_is_pointed_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmasos.kernel import loader

    monkeypatch.setattr(loader, "SLOW_IMPORT", 0.0)
    world.add("acme-one", provides=METRIC)
    world.hub(trace_plugins=True).contribution("metric", "wer")
    assert any(line.startswith("load acme-one 1.0.0 ") and "SLOW" in line for line in world.traces)
    assert any(line.startswith("hook llmasos_metrics acme-one 1.0.0 ") for line in world.traces)


def test_neighbours_survive(world: World) -> None:
    world.add("acme-bad", provides=[("metric", "bad")], source="raise SystemExit")
    world.add("acme-good", provides=METRIC)
    hub = world.hub()
    assert [item.plugin for item in hub.collect("metric")] == ["acme-good"]
    assert world.warnings == ["plugin acme-bad 1.0.0 cannot be loaded: it called sys.exit(None)"]
    assert hub.contribution("metric", "wer").name == "wer"
    hub.collect("metric")
    assert len(world.warnings) == 1


def test_strict_turns_isolation_into_an_exception(world: World) -> None:
    world.add("acme-bad", provides=[("metric", "bad")], source="raise SystemExit")
    with pytest.raises(PluginLoadError):
        world.hub(strict=True).collect("metric")


def test_a_path_with_odd_characters(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = tmp_path / "späce and 'quote'"
    os.rename(world.site, odd)
    monkeypatch.syspath_prepend(str(odd))
    world.site = odd
    world.root = tmp_path
    from llmasos.testing.sources import install_generated

    install_generated(tmp_path, "acme-one", provides=METRIC)
    os.rename(tmp_path / "site" / "acme_one", odd / "acme_one")
    os.rename(tmp_path / "site" / "acme_one-1.0.0.dist-info", odd / "acme_one-1.0.0.dist-info")
    world.ids.append("acme-one")
    assert world.hub().contribution("metric", "wer").name == "wer"
