"""The checks of a plugin as a guest: the good fixture passes, and each rule is broken by a plugin made for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos.testing.conformance import plugin
from llmasos.testing.conformance.plugin import PluginSubject
from llmasos.testing.tmp import PluginBuilder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "plugins"
CHECKS = {check.name: check for check in plugin.CHECKS}

METRIC = [{"kind": "metric", "name": "demo", "summary": "A metric"}]
SOURCE = """\
from llmasos.api import MetricDef, hookimpl

{extra}

@hookimpl
def llmasos_metrics():
    yield MetricDef(name="demo", factory="{factory}", higher_is_better=True)
"""
PARTS = "class Metric:\n    pass\n"


def fixture(name: str) -> Callable[[PluginBuilder], Path]:
    return lambda build: FIXTURES / name


def importing(extra: str, factory: str = "acme_demo.parts:Metric") -> Callable[[PluginBuilder], Path]:
    """A plugin that does something when its module is imported."""
    source = SOURCE.format(extra=extra, factory=factory)
    return lambda build: build("acme-demo", source, files={"parts.py": PARTS}, provides=METRIC)


def using(parts: str) -> Callable[[PluginBuilder], Path]:
    """A plugin that does something when what it offers is imported."""
    source = SOURCE.format(extra="", factory="acme_demo.parts:Metric")
    return lambda build: build("acme-demo", source, files={"parts.py": parts + PARTS}, provides=METRIC)


ONCE = """\
from llmasos.api import MetricDef, hookimpl

_left = [MetricDef(name="demo", factory="acme_demo.parts:Metric", higher_is_better=True)]


@hookimpl
def llmasos_metrics():
    while _left:
        yield _left.pop()
"""

NOSY = """\
from importlib.metadata import entry_points

from llmasos.api import MetricDef, hookimpl


@hookimpl
def llmasos_metrics():
    for point in entry_points(group="llmasos.plugins"):
        if point.name.startswith("a-neighbour"):
            __import__(point.value.partition(":")[0] + ".plugin")
    yield MetricDef(name="demo", factory="acme_demo.parts:Metric", higher_is_better=True)
"""

BUSY = "import time\n_end = time.process_time() + 0.6\nwhile time.process_time() < _end:\n    pass\n"

BREAKS: list[tuple[str, Callable[[PluginBuilder], Path], str]] = [
    ("plugin.requirements", fixture("old_api"), "API >=0.1,<0.9"),
    ("plugin.requirements", fixture("missing_package"), "llmasos-there-is-no-such-distribution"),
    ("plugin.loads", fixture("raises_at_import"), "another machine"),
    ("plugin.loads", fixture("system_exit"), "SystemExit"),
    ("plugin.import_time", importing(BUSY), "ms of CPU time"),
    ("plugin.light_import", fixture("heavy_import"), "torch"),
    ("plugin.process_state", importing("import os\nos.environ['ACME'] = '1'\n"), "os.environ"),
    (
        "plugin.process_state",
        importing("import warnings\nwarnings.simplefilter('ignore')\n"),
        "warning filters",
    ),
    ("plugin.process_state", importing("import logging\nlogging.basicConfig()\n"), "logging handlers"),
    ("plugin.process_state", importing("import sys\nsys.path.append('x')\n"), "sys.path"),
    ("plugin.silence", importing("print('hello')\n"), "hello"),
    ("plugin.hooks", fixture("misspelt_hook"), "llmasos_eval_startd"),
    ("plugin.hooks", fixture("promises_more"), "promised"),
    ("plugin.hooks", fixture("default_argument"), "default value"),
    ("plugin.factory", importing("", factory="acme_demo.nowhere:Metric"), "nowhere"),
    (
        "plugin.good_guest",
        using("import torch\ntorch.set_default_dtype(torch.float64)\n"),
        "torch default dtype",
    ),
    ("plugin.good_guest", using("import torch\ntorch.manual_seed(3)\n"), "torch random state"),
    ("plugin.good_guest", using("import random\nrandom.seed(3)\n"), "the state of random"),
    ("plugin.good_guest", using("print('ready')\n"), "ready"),
    ("plugin.good_guest", using("import there_is_no_such_module\n"), "there_is_no_such_module"),
    (
        "plugin.two_hubs",
        lambda build: build("acme-demo", ONCE, files={"parts.py": PARTS}, provides=METRIC),
        "demo",
    ),
    (
        "plugin.bad_neighbour",
        lambda build: build("acme-demo", NOSY, files={"parts.py": PARTS}, provides=METRIC),
        "a neighbour that fails",
    ),
]


@pytest.mark.parametrize(("rule", "make", "says"), BREAKS, ids=[f"{rule}-{says}" for rule, _, says in BREAKS])
def test_a_rule_can_be_broken(
    rule: str, make: Callable[[PluginBuilder], Path], says: str, tmp_plugin: PluginBuilder
) -> None:
    finding = CHECKS[rule].run(PluginSubject(folder=make(tmp_plugin)))
    assert finding.outcome == "broken", str(finding)
    assert says in finding.observation
    assert finding.fix


def test_an_invalid_manifest_is_a_finding(tmp_plugin: PluginBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_plugin.install(FIXTURES / "bad_manifest")))
    subject = PluginSubject("bad-manifest")
    finding = CHECKS["plugin.manifest"].run(subject)
    assert finding.outcome == "broken"
    assert "unknown key `sumary` in the top level, did you mean `summary`?" in finding.observation
    assert CHECKS["plugin.loads"].run(subject).outcome == "does not apply"


def test_switching_off_is_compared(tmp_plugin: PluginBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_plugin.install(FIXTURES / "good")))
    assert CHECKS["plugin.switches_off"].run(PluginSubject("good")).outcome == "kept"
    # A kernel that forgets what the user disabled.
    monkeypatch.setattr("llmasos.kernel.inventory.read_disabled", lambda folder: frozenset())
    finding = CHECKS["plugin.switches_off"].run(PluginSubject("good"))
    assert finding.outcome == "broken"
    assert "took away []" in finding.observation


def test_every_rule_is_shown_to_fail() -> None:
    shown = {rule for rule, _, _ in BREAKS} | {"plugin.manifest", "plugin.switches_off"}
    assert shown == set(CHECKS)


def test_the_good_fixture_keeps_all_rules(tmp_plugin: PluginBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_plugin.install(FIXTURES / "good")))
    subject = PluginSubject("good")
    path = list(sys.path)
    outcomes = {name: check.run(subject).outcome for name, check in CHECKS.items()}
    assert set(outcomes.values()) == {"kept"}, outcomes
    assert sys.path == path


def test_a_subject_is_one_plugin() -> None:
    with pytest.raises(ValueError, match="either"):
        PluginSubject()
    with pytest.raises(ValueError, match="either"):
        PluginSubject("good", folder=FIXTURES / "good")
