"""Checks of a plugin as a guest in the process: manifest, imports, hooks, life cycle.

The first group is what ``llmasos plugin check`` looks at (``llmasos.kernel.checkup``); the others use the plugin.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmasos.hooks.specs import HOOKS
from llmasos.kernel.checkup import Finding as CheckupFinding
from llmasos.kernel.checkup import examine
from llmasos.testing.conformance.check import Check, Observation, broken, check, does_not_apply, kept
from llmasos.testing.isolation import isolated_hub
from llmasos.testing.tmp import install_plugin, manifest, write_plugin

if TYPE_CHECKING:
    from llmasos.hub import Hub
    from llmasos.kernel.record import PluginRecord

#: Seconds a child process may take.
TIMEOUT = 180.0

#: Rule in ``llmasos plugin check`` -> what it asks for and what to do when it is broken.
CHECKUP_RULES: dict[str, tuple[str, str]] = {
    "manifest": ("llmasos.toml is valid", "docs/reference/manifest.md lists the keys"),
    "requirements": ("what the manifest requires is here", "install it, or correct [requires]"),
    "loads": ("the module can be imported", "do no work when the module is imported"),
    "import time": ("importing the module is quick", "import inside functions; name factories as text"),
    "light import": (
        "importing the module pulls in nothing heavy",
        "import heavy packages where they are used",
    ),
    "process state": ("importing the module changes nothing in the process", "leave the process as it was"),
    "silence": ("importing the module prints nothing", "stdout belongs to commands"),
    "hooks": ("what the manifest promises is delivered, and nothing else", "make the two equal"),
    "factory": ("every factory names something that exists", "correct the factory of the descriptor"),
}


class PluginSubject:
    """A plugin under test: an installed one by ``plugin_id``, or the one in ``folder``."""

    def __init__(self, plugin_id: str | None = None, *, folder: Path | None = None) -> None:
        if (plugin_id is None) == (folder is None):
            raise ValueError("give either the id of an installed plugin or the folder of a local one")
        self.folder = folder
        self._plugin_id = plugin_id

    def open_hub(self, root: Path, *, extra: tuple[str, ...] = (), **options: Any) -> Hub:
        """A Hub with the built-ins, this plugin and those installed as ``extra``, cache and configuration under ``root``."""
        return isolated_hub(
            root,
            plugins=[self.folder] if self.folder else [],
            installed=[*([] if self.folder else [str(self._plugin_id)]), *extra],
            **{"warn": lambda line: None, **options},
        )

    @contextmanager
    def hub(self, *, root: Path | None = None, **options: Any) -> Iterator[Hub]:
        """``open_hub`` that is closed at the end, in ``root`` or in a folder of its own."""
        with (
            tempfile.TemporaryDirectory(prefix="llmasos-conformance-") as scratch,
            self.open_hub(root or Path(scratch), **options) as hub,
        ):
            yield hub

    @cached_property
    def record(self) -> PluginRecord:
        """The plugin as the kernel sees it. Raises ManifestError or UnknownName."""
        if self.folder is not None:
            from llmasos.kernel.local import local_record

            return local_record(self.folder)
        with self.hub() as hub:
            return hub.inventory.get(str(self._plugin_id))

    @property
    def plugin_id(self) -> str:
        """The id in the manifest."""
        return self.record.id

    @cached_property
    def contributions(self) -> list[tuple[str, str]]:
        """(kind, full name) of everything the manifest promises."""
        return [(item["kind"], f"{self.plugin_id}/{item['name']}") for item in self.record.provides()]

    @cached_property
    def examined(self) -> list[CheckupFinding]:
        """What ``llmasos plugin check`` finds, asked once."""
        return examine(self.record)


def _checkup(rule: str) -> Check[PluginSubject]:
    wanted, fix = CHECKUP_RULES[rule]

    def observe(subject: PluginSubject) -> Observation:
        found = [finding for finding in subject.examined if finding.rule == rule]
        if not found:
            return does_not_apply("not reached: an earlier rule is broken")
        bad = [finding for finding in found if not finding.ok]
        if bad:
            return broken(
                "; ".join(f"{item.observation}" + (f" ({item.fix})" if item.fix else "") for item in bad)
            )
        return kept("; ".join(finding.observation for finding in found))

    return Check(f"plugin.{rule.replace(' ', '_')}", wanted, fix, observe)


@check(
    "plugin.good_guest",
    rule="importing what the factories name works, prints nothing and changes no global state, that of torch included",
    fix="set dtypes, devices, threads and seeds for your own tensors only; return values instead of printing",
)
def good_guest(subject: PluginSubject) -> Observation:
    if not subject.contributions:
        return does_not_apply("the plugin offers nothing by name")
    with tempfile.TemporaryDirectory(prefix="llmasos-conformance-") as scratch:
        answer = Path(scratch, "answer.json")
        request = {
            "plugin": subject.plugin_id,
            "folders": [str(subject.folder)] if subject.folder else [],
            "contributions": subject.contributions,
            "scratch": scratch,
            "answer": str(answer),
            "path": [folder for folder in sys.path if folder],
        }
        done = subprocess.run(
            [sys.executable, "-m", "llmasos.testing.conformance.usage_child"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return broken(f"the process ended with {done.returncode}: {last}")
        seen = json.loads(answer.read_text(encoding="utf-8"))
    printed = done.stdout.strip() or seen["printed"]
    if seen["failures"]:
        return broken("; ".join(seen["failures"]))
    if seen["changes"]:
        return broken(f"changes {', '.join(seen['changes'])}")
    if printed:
        return broken(f"prints {printed.splitlines()[0]!r}")
    return kept(f"{len(subject.contributions)} factories imported")


@check(
    "plugin.two_hubs",
    rule="two hubs in one process both get what the plugin promises, and closing one leaves the other working",
    fix="keep no state in module globals; hang it on the objects your factories make",
)
def two_hubs(subject: PluginSubject) -> Observation:
    with subject.hub() as first, subject.hub() as second:
        names = [
            [(type(hub.contribution(kind, name)).__name__, name) for kind, name in subject.contributions]
            for hub in (first, second)
        ]
        if names[0] != names[1]:
            return broken(f"the second hub got {names[1]}")
        with subject.hub() as third:
            for kind, name in subject.contributions:
                third.contribution(kind, name)
        for kind, name in subject.contributions:
            second.get(kind, name)
    return kept(f"{len(names[0])} contributions each")


@check(
    "plugin.switches_off",
    rule="disabling the plugin takes away exactly what it offers, and enabling it brings exactly that back",
    fix="offer things through [[provides]] only; change nothing that another plugin owns",
)
def switches_off(subject: PluginSubject) -> Observation:
    from llmasos.kernel.state import write_disabled

    if subject.folder is not None:
        return does_not_apply("a plugin named with --plugin is always on")

    with tempfile.TemporaryDirectory(prefix="llmasos-conformance-") as scratch:
        root = Path(scratch)

        def catalogue() -> set[tuple[str, str]]:
            with subject.hub(root=root) as hub:
                return {
                    (info.kind, provided.full_name)
                    for info in HOOKS.values()
                    if info.kind is not None
                    for provided in hub.names(info.kind)
                }

        before = catalogue()
        write_disabled(root / "config", frozenset({subject.plugin_id}))
        without = catalogue()
        write_disabled(root / "config", frozenset())
        after = catalogue()
    if before - without != set(subject.contributions) or without - before:
        return broken(
            f"disabling took away {sorted(before - without)} and brought {sorted(without - before)}"
        )
    if after != before:
        return broken(f"after enabling it again the catalogue differs by {sorted(after ^ before)}")
    return kept(f"{len(subject.contributions)} of {len(before)} names came and went")


@check(
    "plugin.bad_neighbour",
    rule="the plugin works beside a plugin that fails to load",
    fix="do not depend on what other plugins registered or imported",
)
def bad_neighbour(subject: PluginSubject) -> Observation:
    name = "a-neighbour-that-fails"
    kinds = sorted({kind for kind, _ in subject.contributions})
    provides = [{"kind": kind, "name": f"{name}-{kind}", "summary": "Fails"} for kind in kinds]
    with tempfile.TemporaryDirectory(prefix="llmasos-conformance-") as scratch:
        package = write_plugin(
            Path(scratch, name.replace("-", "_")),
            manifest(name, provides=provides),
            {"plugin.py": "raise RuntimeError('a neighbour that fails')\n"},
        )
        # Installed, not named: a plugin that the user named would be an error of its own.
        site = Path(scratch, "site")
        install_plugin(package, site)
        warnings: list[str] = []
        sys.path.append(str(site))
        try:
            with subject.hub(extra=(name,), warn=warnings.append) as hub:
                found = {(kind, f"{c.plugin}/{c.item.name}") for kind in kinds for c in hub.collect(kind)}
        finally:
            sys.path.remove(str(site))
    lost = sorted(full for kind, full in subject.contributions if (kind, full) not in found)
    if lost:
        return broken(f"{', '.join(lost)} was not collected ({'; '.join(warnings)})")
    if kinds and not any(name in line for line in warnings):
        return broken(f"the neighbour was not tried: {warnings}")
    return kept(f"{len(subject.contributions)} contributions collected beside it")


CHECKS: tuple[Check[PluginSubject], ...] = (
    *(_checkup(rule) for rule in CHECKUP_RULES),
    good_guest,
    two_hubs,
    switches_off,
    bad_neighbour,
)
