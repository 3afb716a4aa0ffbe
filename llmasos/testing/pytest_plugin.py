"""The pytest plugin, installed with llmasos (entry point ``pytest11``).

Fixtures: ``hub``, ``tmp_plugin``, ``no_network``, ``import_budget``. Option ``--llmasos-conformance PLUGIN`` adds the
conformance checks of a plugin to the run. Settings of pytest (``[tool.pytest.ini_options]``):

``llmasos_conformance``
    plugins to check on every run, so that ``pytest`` alone is enough in a plugin's repository
``llmasos_samples``
    model directories and weight files that tokenizer and model checks open, relative to the root directory
``llmasos_env_guard``
    true: a test fails when it leaves an environment variable changed behind
``llmasos_env_allow``
    variables the guard does not look at

Loaded by every pytest in an environment that has llmasos, so it imports nothing until something here is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmasos.hub import Hub
    from llmasos.testing.isolation import NetworkGuard
    from llmasos.testing.tmp import PluginBuilder

_ENVIRONMENT = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and settings."""
    group = parser.getgroup("llmasos")
    group.addoption(
        "--llmasos-conformance",
        action="append",
        default=[],
        metavar="PLUGIN",
        help="check an installed llmasos plugin (its id) or a local one (its folder) against the contracts; repeatable",
    )
    group.addoption(
        "--llmasos-sample",
        action="append",
        default=[],
        metavar="PATH",
        help="a model directory or weight file for the tokenizer and model checks; repeatable",
    )
    parser.addini("llmasos_conformance", "plugins to check on every run", type="linelist", default=[])
    parser.addini(
        "llmasos_samples", "model directories and weight files for the checks", type="linelist", default=[]
    )
    parser.addini(
        "llmasos_env_guard", "fail tests that leak environment variables", type="bool", default=False
    )
    parser.addini("llmasos_env_allow", "variables the guard does not look at", type="args", default=[])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the conformance checks; first, so that -k and -m choose among them too."""
    plugins = [*config.getini("llmasos_conformance"), *config.getoption("--llmasos-conformance")]
    if not plugins:
        return
    from llmasos.testing.conformance.collect import conformance_items

    samples = [config.rootpath / path for path in config.getini("llmasos_samples")]
    samples += [config.invocation_params.dir / path for path in config.getoption("--llmasos-sample")]
    for plugin in dict.fromkeys(plugins):
        items.extend(conformance_items(session, plugin, samples))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember the environment a test begins with."""
    if item.config.getini("llmasos_env_guard"):
        item.stash[_ENVIRONMENT] = dict(os.environ)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """After all fixtures are gone: what is still different was leaked, by the test or by a fixture that outlives it."""
    result = yield
    before = item.stash.get(_ENVIRONMENT, None)
    if before is not None:
        from llmasos.testing.isolation import changed_variables, restore_variables

        leaked = changed_variables(before, os.environ, item.config.getini("llmasos_env_allow"))
        if leaked:
            restore_variables(before)
            pytest.fail(
                f"the test leaves environment variables behind: {'; '.join(leaked)}\n"
                "hint: use monkeypatch.setenv, or list the variable in llmasos_env_allow",
                pytrace=False,
            )
    return result


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Makes Hubs: ``hub()`` sees the built-in plugins, ``hub(plugins=[folder], installed=["id"])`` those too.

    Cache and configuration lie in the test's temporary folder, nothing is fetched, and other plugins of the environment
    are not looked at. Two calls in one test share the folder, as two runs of the command line would. Further arguments
    are those of ``llmasos.Hub``. Hubs are closed at the end of the test.
    """
    from llmasos.testing.isolation import isolated_hub

    made: list[Hub] = []

    def make(**options: Any) -> Hub:
        made.append(isolated_hub(tmp_path / "llmasos", **options))
        return made[-1]

    yield make
    for one in reversed(made):
        one.close()


@pytest.fixture
def tmp_plugin(tmp_path: Path) -> Iterator[PluginBuilder]:
    """Builds throw-away plugins, as folders and as installed distributions (``llmasos.testing.tmp.PluginBuilder``)."""
    from llmasos.testing.tmp import PluginBuilder

    builder = PluginBuilder(tmp_path / "llmasos-plugins")
    yield builder
    builder.forget()


@pytest.fixture
def no_network() -> Iterator[NetworkGuard]:
    """Refuses every connection and name look-up that leaves this machine; ``no_network.attempts`` lists them.

    For a whole module: ``pytestmark = pytest.mark.usefixtures("no_network")``. Subprocesses are not covered.
    """
    from llmasos.testing.isolation import blocked_network

    with blocked_network() as guard:
        yield guard


@pytest.fixture
def import_budget(tmp_path: Path) -> Callable[..., list[str]]:
    """``import_budget(what, forbid=(...), budget=N)``: the modules that a fresh process imports, checked.

    ``what`` is Python code or a list of arguments of the ``llmasos`` command, which runs with an empty cache of the test's
    own (the same one at the second call). ``env`` adds environment variables.
    """
    from llmasos.testing.budget import check_budget
    from llmasos.testing.tmp import environment

    def run(what: Any, *, env: dict[str, str] | None = None, **limits: Any) -> list[str]:
        return check_budget(what, env={**environment(tmp_path / "llmasos"), **(env or {})}, **limits)

    return run
