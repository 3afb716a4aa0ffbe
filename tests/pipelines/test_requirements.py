"""A model that names its plugins: every entry point comes through one function, and nothing goes on without them."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from llmasos.cli.main import COMMANDS, command, import_command, run
from llmasos.cli.state import State
from llmasos.contracts.model import SamplingParams
from llmasos.errors import PluginRequired
from llmasos.hub import Hub
from llmasos.kernel.hub import KernelHub
from llmasos.pipelines.requirements import unmet
from llmasos.testing.checkpoints import write_checkpoint
from llmasos.testing.tmp import PluginBuilder

ROOT = Path(__file__).parents[2]
REQUIRES = "llmasos-acme>=1.2,<2"
COMMAND = "llmasos install 'llmasos-acme<2,>=1.2'"


@pytest.fixture(scope="module")
def needy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that would work, if it did not require a plugin that is not there."""
    folder = write_checkpoint(tmp_path_factory.mktemp("needy") / "model", "llama")
    (folder / "llmasos.toml").write_text(f'requires = ["{REQUIRES}"]\n')
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def make(**settings: Any) -> Hub:
        made.append(Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "config", **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ---- every entry point ----

#: Public methods of the Hub that take a model reference, and how each is called with one.
METHODS: dict[str, Callable[[Hub, str], Any]] = {
    "resolve_model": lambda hub, ref: hub.resolve_model(ref),
    "load_model": lambda hub, ref: hub.load_model(ref),
    "load_tokenizer": lambda hub, ref: hub.load_tokenizer(ref),
    "prepare_model": lambda hub, ref: hub.prepare_model(ref),
    "describe": lambda hub, ref: hub.describe(ref),
    "evaluate": lambda hub, ref: hub.evaluate(ref, ("quickstart",), limit=1),
}
#: Methods that take no reference, with the reason.
OTHERS = {
    "locate_model": "the kernel's step before the requirements are looked at; see the test of its callers",
    "generate": "takes a loaded model",
}


def test_every_method_that_takes_a_reference_is_listed_here() -> None:
    found = {
        name
        for name, method in inspect.getmembers(Hub, inspect.isfunction)
        if not name.startswith("_") and {"ref", "model"} & set(inspect.signature(method).parameters)
    }
    assert found == set(METHODS) | {"locate_model"}
    assert set(OTHERS) <= set(dir(Hub))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_refuse_without_consent(name: str, hub: Callable[..., Hub], needy: Path) -> None:
    with pytest.raises(PluginRequired, match=r"`llmasos-acme<2,>=1.2` is not installed") as caught:
        METHODS[name](hub(), str(needy))
    assert caught.value.hint == COMMAND
    assert caught.value.requirements == ("llmasos-acme<2,>=1.2",)
    assert int(caught.value.exit_code) == 3


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_ask_what_provisions(name: str, hub: Callable[..., Hub], needy: Path) -> None:
    asked: list[tuple[Sequence[str], str]] = []

    def refuse(requirements: Sequence[str], why: str) -> bool:
        asked.append((requirements, why))
        return False

    with pytest.raises(PluginRequired):
        METHODS[name](hub(provision=refuse), str(needy))
    assert asked == [(["llmasos-acme<2,>=1.2"], f"model {needy}")]


def model_commands() -> dict[str, click.Command]:
    """Every command, of the core and of built-in plugins, with an argument MODEL that is a reference."""
    found: dict[str, click.Command] = {}

    def walk(name: str, one: click.Command) -> None:
        if isinstance(one, click.Group):
            inner = click.Context(one, obj=State())
            for part in one.list_commands(inner):
                walk(f"{name} {part}", one.get_command(inner, part))  # type: ignore[arg-type]
        elif any(isinstance(item, click.Argument) and item.name == "model" for item in one.params):
            found[name] = one

    for name, (path, _) in COMMANDS.items():
        walk(name, import_command(path))
    with click.Context(command, obj=State()) as context:
        for name in command.list_commands(context):  # type: ignore[attr-defined]
            if name not in COMMANDS:
                walk(name, command.get_command(context, name))  # type: ignore[attr-defined, arg-type]
    return found


ARGUMENTS = {
    "eval run": ["quickstart", "--limit", "1"],
    "generate": ["Once"],
    "model info": [],
    "model quantise": ["--dtype", "int8", "--output", "quantised"],
    "tokenize": ["Once"],
}


def test_every_command_that_takes_a_model_is_listed_here() -> None:
    assert set(model_commands()) == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_commands_refuse_without_a_terminal(
    name: str, needy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMASOS_REGISTRY", raising=False)
    assert run([*name.split(), str(needy), *ARGUMENTS[name]]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"hint: {COMMAND}" in shown.err


def test_a_data_pipeline_that_uses_a_tokenizer_comes_through_too(
    needy: Path, hub: Callable[..., Hub], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "Hello"}) + "\n")
    (tmp_path / "pipeline.yaml").write_text(
        "version: 1\nsource: {kind: jsonl, paths: [in.jsonl]}\n"
        f"steps: [{{kind: tokenize_pack, tokenizer: {json.dumps(str(needy))}}}]\n"
    )
    with pytest.raises(PluginRequired):
        hub().process(tmp_path / "pipeline.yaml", output=tmp_path / "out")


def test_nothing_reaches_a_model_past_the_choke_point() -> None:
    """``locate_model``, which does not look at requirements, is called in one place of the whole product."""
    callers: list[str] = []
    for folder in ("llmasos", "plugins", "registry"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                named = getattr(node, "attr", None) or getattr(node, "value", None)
                if isinstance(node, ast.Attribute | ast.Constant) and named == "locate_model":
                    callers.append(path.relative_to(ROOT).as_posix())
                if isinstance(node, ast.Attribute | ast.Constant) and named == "llmasos_resolve_model":
                    callers.append(path.relative_to(ROOT).as_posix())
    assert callers == ["llmasos/pipelines/requirements.py"]
    # And the kernel calls the hook of that name nowhere else.
    source = inspect.getsource(KernelHub)
    assert source.count('first("resolve_model"') == 1


# ---- what counts as there ----


def install(tmp_plugin: PluginBuilder, monkeypatch: pytest.MonkeyPatch, version: str, **changes: Any) -> None:
    folder = tmp_plugin("llmasos-acme", **changes)
    monkeypatch.syspath_prepend(str(tmp_plugin.install(folder, version=version)))


@pytest.mark.parametrize(
    ("version", "changes", "reason"),
    [
        ("1.2", {}, None),
        ("1.9.9", {}, None),
        ("1.3rc1", {}, None),
        ("1.1", {}, "installed is 1.1"),
        ("2.0", {}, "installed is 2.0"),
        ("1.5", {"api": ">=9"}, "is incompatible: needs llmasos API >=9, this is 1.0"),
    ],
)
def test_versions_and_states(
    version: str,
    changes: dict[str, Any],
    reason: str | None,
    hub: Callable[..., Hub],
    tmp_plugin: PluginBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(tmp_plugin, monkeypatch, version, **changes)
    found = unmet(hub(), [REQUIRES])
    assert found == ([] if reason is None else [(REQUIRES, reason, True)])


def test_a_disabled_plugin_is_the_users_decision(
    hub: Callable[..., Hub],
    needy: Path,
    tmp_plugin: PluginBuilder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    install(tmp_plugin, monkeypatch, "1.2")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "plugins.json").write_text('{"disabled": ["llmasos-acme"]}')

    def provision(requirements: Sequence[str], why: str) -> bool:
        raise AssertionError("nothing that could be installed would help")

    with pytest.raises(PluginRequired, match="disabled") as caught:
        hub(provision=provision).describe(str(needy))
    assert "llmasos plugin enable" in str(caught.value.hint)


def test_a_local_plugin_that_the_user_named_counts(
    hub: Callable[..., Hub], tmp_plugin: PluginBuilder
) -> None:
    assert unmet(hub(plugins=[tmp_plugin("llmasos-acme")]), [REQUIRES]) == []


def test_plugins_switched_off_cannot_be_installed_on(hub: Callable[..., Hub]) -> None:
    ((_, reason, installable),) = unmet(hub(no_plugins=True), [REQUIRES])
    assert "--no-plugins" in reason
    assert not installable


# ---- with consent ----


def test_what_was_installed_is_used_in_the_same_process(
    hub: Callable[..., Hub],
    needy: Path,
    tmp_plugin: PluginBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def provision(requirements: Sequence[str], why: str) -> bool:
        install(tmp_plugin, monkeypatch, "1.2.0")
        return True

    one = hub(provision=provision)
    assert "llmasos-acme" not in {record.id for record in one.inventory}
    loaded = one.load_model(str(needy))
    assert one.inventory.get("llmasos-acme").version == "1.2.0"
    done = [c.done for c in one.generate(loaded, ["Once"], SamplingParams(max_new_tokens=2)) if c.done]
    assert len(done) == 1


def test_provisioning_that_does_not_provide_is_not_believed(hub: Callable[..., Hub], needy: Path) -> None:
    with pytest.raises(PluginRequired, match="is not installed"):
        hub(provision=lambda requirements, why: True).describe(str(needy))
