"""The four call policies: order, isolation, attribution, tracing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from llmasos import api
from llmasos.errors import LlmasosError, ModelNotFound, PluginCallError
from llmasos.hooks.calls import HookCalls, HookPlugin, blame, new_manager


class Stage:
    """A manager with plugins made from source, registered in the order given."""

    def __init__(self, sources: dict[str, str], *, strict: bool = False) -> None:
        self.warnings: list[str] = []
        self.traces: list[str] = []
        self.log: list[str] = []
        manager = new_manager()
        self.calls = HookCalls(manager, warn=self.warnings.append, trace=self.traces.append, strict=strict)
        self.plugins: list[HookPlugin] = []
        for name, source in sources.items():
            module = ModuleType(name)
            vars(module).update(
                api=api,
                hookimpl=api.hookimpl,
                log=self.log,
                LlmasosError=LlmasosError,
                ModelNotFound=ModelNotFound,
            )
            exec(compile(source, name, "exec"), vars(module))
            manager.register(module, name=name)
            self.plugins.append(HookPlugin(name, "1.0", module))


def resolve(body: str) -> str:
    return f"@hookimpl\ndef llmasos_resolve_model(ref):\n    {body}\n"


def metrics(body: str) -> str:
    return f"@hookimpl\ndef llmasos_metrics():\n    {body}\n"


def wrap(before: str, after: str) -> str:
    return (
        "@hookimpl(wrapper=True)\ndef llmasos_run_evaluation(request):\n"
        f"    {before}\n    result = yield\n    {after}\n    return result\n"
    )


METRIC = 'yield api.MetricDef(name="{}", factory="m:a", higher_is_better=True)'
REQUEST = {"ref": "x", "hub": None}
RUN = {"request": None, "hub": None, "progress": None}


# ---- collect ----


def test_collect_sorts_by_plugin_and_name_whatever_the_order_of_registration() -> None:
    stage = Stage(
        {"b": metrics(METRIC.format("z")), "a": metrics(METRIC.format("y") + "; " + METRIC.format("x"))}
    )
    found = stage.calls.collect("metrics", stage.plugins)
    assert [(entry.plugin, entry.item.name) for entry in found] == [("a", "x"), ("a", "y"), ("b", "z")]


def test_collect_isolates_and_attributes_each_failure() -> None:
    stage = Stage(
        {
            "a": metrics("1 / 0"),
            "b": metrics("raise SystemExit"),
            "c": metrics(METRIC.format("x")),
            "d": metrics("return 5"),
        }
    )
    assert [entry.plugin for entry in stage.calls.collect("metrics", stage.plugins)] == ["c"]
    assert stage.warnings == [
        "hook llmasos_metrics of a 1.0 failed: ZeroDivisionError: division by zero",
        "hook llmasos_metrics of b 1.0 failed: SystemExit",
        "hook llmasos_metrics of d 1.0 failed: TypeError: 'int' object is not iterable",
    ]


def test_a_generator_that_fails_half_way_delivers_nothing() -> None:
    stage = Stage({"a": metrics(METRIC.format("x") + "; 1 / 0")})
    assert stage.calls.collect("metrics", stage.plugins) == []
    assert len(stage.warnings) == 1


def test_collect_refuses_other_descriptors() -> None:
    stage = Stage({"a": metrics('yield api.TaskDef(name="t", factory="m:t.yaml")')})
    with pytest.raises(PluginCallError, match="which is not a metric descriptor"):
        stage.calls.collect_one("metrics", stage.plugins[0])


def test_strict_collect_raises() -> None:
    stage = Stage({"a": metrics("1 / 0"), "b": metrics(METRIC.format("x"))}, strict=True)
    with pytest.raises(PluginCallError, match=r"of a 1\.0 failed"):
        stage.calls.collect("metrics", stage.plugins)


# ---- first ----


def test_first_asks_in_the_order_of_ids_and_stops() -> None:
    stage = Stage(
        {
            "c": resolve("log.append('c'); return 'c'"),
            "b": resolve("log.append('b'); return 'b'"),
            "a": resolve("log.append('a')"),
        }
    )
    assert stage.calls.first("resolve_model", stage.plugins, REQUEST) == ("b", "b")
    assert stage.log == ["a", "b"]


def test_first_falls_back_to_the_kernels_default_last() -> None:
    stage = Stage({"a": resolve("return None")})
    assert stage.calls.first("resolve_model", stage.plugins, REQUEST, lambda ref, hub: ref + "!") == (
        None,
        "x!",
    )
    assert stage.calls.first("resolve_model", stage.plugins, REQUEST) == (None, None)
    assert stage.calls.first("resolve_model", [], REQUEST) == (None, None)


@pytest.mark.parametrize("answer", ["False", "0", "''", "[]"])
def test_first_takes_false_for_an_answer(answer: str) -> None:
    stage = Stage({"a": resolve(f"return {answer}"), "b": resolve("return 'b'")})
    assert stage.calls.first("resolve_model", stage.plugins, REQUEST) == ("a", eval(answer))


def test_a_failing_first_hook_ends_the_search() -> None:
    stage = Stage({"a": resolve("raise KeyError('k')"), "b": resolve("log.append('b'); return 'b'")})
    with pytest.raises(PluginCallError) as caught:
        stage.calls.first("resolve_model", stage.plugins, REQUEST)
    assert caught.value.message == "hook llmasos_resolve_model of a 1.0 failed: KeyError: 'k'"
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.hint is not None
    assert "llmasos plugin disable a" in caught.value.hint
    assert stage.log == []


def test_the_hint_for_a_local_plugin_does_not_name_a_command_for_installed_ones() -> None:
    stage = Stage({"a": resolve("raise KeyError('k')")})
    local = [plugin._replace(local=True) for plugin in stage.plugins]
    with pytest.raises(PluginCallError) as caught:
        stage.calls.first("resolve_model", local, REQUEST)
    assert caught.value.hint is not None
    assert "plugin disable" not in caught.value.hint
    assert "--plugin" in caught.value.hint


def test_our_errors_pass_unchanged_and_interrupts_propagate() -> None:
    stage = Stage({"a": resolve("raise ModelNotFound('gone', hint='look elsewhere')")})
    with pytest.raises(ModelNotFound) as caught:
        stage.calls.first("resolve_model", stage.plugins, REQUEST)
    assert (caught.value.message, caught.value.hint) == ("gone", "look elsewhere")
    stage = Stage({"a": resolve("raise KeyboardInterrupt")})
    with pytest.raises(KeyboardInterrupt):
        stage.calls.first("resolve_model", stage.plugins, REQUEST)


# ---- notify ----


def test_notify_tells_everyone_in_order_and_ignores_answers() -> None:
    source = "@hookimpl\ndef llmasos_eval_failed(event):\n    log.append(({!r}, event)); return 5\n"
    stage = Stage({name: source.format(name) for name in ("b", "a")})
    stage.calls.notify("eval_failed", stage.plugins, {"event": "e"})
    assert stage.log == [("a", "e"), ("b", "e")]


@pytest.mark.parametrize("body", ["1 / 0", "raise SystemExit(1)", "raise LlmasosError('no')"])
def test_notify_isolates(body: str) -> None:
    stage = Stage(
        {
            "a": f"@hookimpl\ndef llmasos_eval_failed():\n    {body}\n",
            "b": "@hookimpl\ndef llmasos_eval_failed():\n    log.append('b')\n",
        }
    )
    stage.calls.notify("eval_failed", stage.plugins, {"event": None})
    assert stage.log == ["b"]
    assert len(stage.warnings) == 1


# ---- wrap ----


def test_wrappers_go_around_in_the_order_of_ids() -> None:
    inner = "@hookimpl\ndef llmasos_run_evaluation(request):\n    log.append('run'); return 'result'\n"
    stage = Stage(
        {
            "c": wrap("log.append('c in')", "log.append('c out')"),
            "b": inner,
            "a": wrap("log.append('a in')", "log.append('a out'); result += '!'"),
        }
    )
    assert stage.calls.wrap("run_evaluation", stage.plugins, RUN) == "result!"
    assert stage.log == ["a in", "c in", "run", "c out", "a out"]


def test_wrap_without_an_answer_takes_the_default() -> None:
    stage = Stage({"a": wrap("pass", "pass")})
    assert stage.calls.wrap("run_evaluation", stage.plugins, RUN, lambda **_: "default") == "default"
    assert stage.calls.wrap("run_evaluation", [], RUN) is None


@pytest.mark.parametrize(
    ("sources", "guilty"),
    [
        ({"a": wrap("pass", "pass"), "b": "@hookimpl\ndef llmasos_run_evaluation():\n    1 / 0\n"}, "b"),
        ({"a": wrap("1 / 0", "pass"), "b": "@hookimpl\ndef llmasos_run_evaluation():\n    return 1\n"}, "a"),
        ({"a": wrap("pass", "1 / 0"), "b": "@hookimpl\ndef llmasos_run_evaluation():\n    return 1\n"}, "a"),
        (
            {
                "a": wrap("pass", "pass"),
                "b": wrap("pass", "pass"),
                "c": "@hookimpl\ndef llmasos_run_evaluation():\n    raise SystemExit\n",
            },
            "c",
        ),
    ],
)
def test_wrap_blames_the_plugin_the_error_came_from(sources: dict[str, str], guilty: str) -> None:
    stage = Stage(sources)
    with pytest.raises(PluginCallError, match=rf"of {guilty} 1\.0 failed"):
        stage.calls.wrap("run_evaluation", stage.plugins, RUN)


def test_an_error_without_a_known_frame_names_all() -> None:
    stage = Stage({"a": "", "b": ""})
    assert blame(ValueError("made here"), stage.plugins) is None


def test_our_errors_pass_through_wrappers() -> None:
    stage = Stage(
        {
            "a": wrap("pass", "pass"),
            "b": "@hookimpl\ndef llmasos_run_evaluation():\n    raise LlmasosError('no', hint='h')\n",
        }
    )
    with pytest.raises(LlmasosError) as caught:
        stage.calls.wrap("run_evaluation", stage.plugins, RUN)
    assert type(caught.value) is LlmasosError
    assert caught.value.hint == "h"


# ---- tracing ----


def test_every_call_is_traced_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmasos.hooks import calls

    monkeypatch.setattr(calls, "SLOW_HOOK", -1.0)
    stage = Stage({"a": metrics(METRIC.format("x")), "b": metrics("1 / 0")})
    stage.calls.collect("metrics", stage.plugins)
    assert len(stage.traces) == 2
    assert all(line.startswith("hook llmasos_metrics ") and line.endswith("SLOW") for line in stage.traces)


def test_arguments_may_be_taken_in_part() -> None:
    stage = Stage({"a": "@hookimpl\ndef llmasos_resolve_model(hub):\n    return hub\n"})
    arguments: dict[str, Any] = {"ref": "x", "hub": "the hub"}
    assert stage.calls.first("resolve_model", stage.plugins, arguments) == ("a", "the hub")
