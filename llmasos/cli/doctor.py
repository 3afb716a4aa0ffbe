"""``llmasos doctor``: what this environment is, and what in it does not work. Imports no plugin and no torch.

Contributions that differ from machine to machine are asked what they are here, in processes of their own.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from llmasos.cli.state import State, common_options, pass_state
from llmasos.config import SETTINGS, Config, load_config
from llmasos.errors import ExitCode, LlmasosError

if TYPE_CHECKING:
    from pathlib import Path

    from llmasos.kernel.inventory import Inventory


class Check(NamedTuple):
    """One line of the report. ``level`` is ``ok``, ``warn`` (something is left out) or ``fail`` (runs will fail)."""

    level: str
    what: str
    detail: str
    hint: str = ""


@click.command()
@common_options
@pass_state
def command(state: State) -> ExitCode:
    """Check this environment and its plugins.

    Exits with 4 when something would make every run fail. Plugins that cannot be used are warnings, unless
    LLMASOS_STRICT=1 makes them errors (exit code 3).
    """
    config, checks = _configuration(state)
    checks.append(_folder("cache folder", config.cache_dir, "LLMASOS_CACHE"))
    checks.append(_folder("configuration folder", config.config_dir, "LLMASOS_CONFIG"))
    inventory, problem = _inventory(state, config)
    if problem is not None:
        checks.append(problem)
    if inventory is not None:
        checks.append(_index(config))
        checks.extend(_plugins(inventory))
        checks.extend(_probes(inventory))
    required = _requirements()
    value = {
        "environment": _environment(),
        "packages": _packages(required),
        "settings": {
            name: {"value": str(getattr(config, name)), "from": config.origins[name]} for name in SETTINGS
        },
        "checks": [check._asdict() for check in checks],
        "plugins": [
            {"id": record.id, "version": record.version, "state": record.state, "reason": record.why or None}
            for record in inventory or ()
        ],
    }
    state.output.emit(value, lambda: _page(state, value, checks, required))
    levels = {check.level for check in checks}
    if "fail" in levels:
        return ExitCode.ENVIRONMENT
    return ExitCode.PLUGIN if "warn" in levels and config.strict else ExitCode.OK


def _configuration(state: State) -> tuple[Config, list[Check]]:
    """The settings in force; where they make no sense, the defaults and a failed check."""
    try:
        config = state.config
    except LlmasosError as error:
        variables = {name for setting in SETTINGS.values() for name in setting.variables}
        environ = {name: text for name, text in os.environ.items() if name not in variables}
        return load_config({}, environ, file=False), [
            Check("fail", "settings", error.message, error.hint or "")
        ]
    return config, [Check("ok", "settings", "make sense")]


def _folder(what: str, folder: Path, variable: str) -> Check:
    import tempfile

    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror or error}"
        # Without a cache everything that needs no download still works.
        return Check("warn", what, detail, f"set {variable} to a folder you may write to")
    return Check("ok", what, f"{folder} can be written")


def _inventory(state: State, config: Config) -> tuple[Inventory | None, Check | None]:
    from llmasos.kernel.inventory import Inventory

    try:
        return (
            Inventory(
                config.cache_dir,
                config.config_dir,
                no_plugins=config.no_plugins,
                only=state.only,
                local=state.plugins,
            ),
            None,
        )
    except LlmasosError as error:
        return None, Check("fail", "plugins", error.message, error.hint or "")


def _index(config: Config) -> Check:
    from llmasos.kernel.index import environment_key, index_file, read_index

    if config.no_plugins:
        return Check("ok", "plugin index", "not read: installed plugins are switched off")
    path = index_file(config.cache_dir)
    if read_index(path, environment_key()) is None:
        return Check(
            "warn", "plugin index", f"{path} cannot be kept, so every start scans the environment again"
        )
    return Check("ok", "plugin index", f"{path} is up to date")


def _plugins(inventory: Inventory) -> list[Check]:
    from llmasos.cli.main import COMMANDS
    from llmasos.kernel.catalog import Catalog
    from llmasos.kernel.inventory import refusal

    checks: list[Check] = []
    for record in inventory:
        if record.state == "enabled":
            checks.append(Check("ok", f"plugin {record.title}", "enabled"))
        elif record.state == "disabled":
            checks.append(Check("ok", f"plugin {record.title}", "disabled by the user"))
        else:
            hint = refusal(record).hint or ""
            checks.append(Check("warn", f"plugin {record.title}", f"{record.state}: {record.why}", hint))
    catalog = Catalog(inventory)
    for name, entries in catalog.ambiguous_names().items():
        pins = ", ".join(entry.full_name for entry in entries)
        checks.append(
            Check("warn", f"name {name}", f"provided by {len(entries)} plugins", f"write one of {pins}")
        )
    for entry in catalog.entries("command"):
        if entry.name in COMMANDS:
            detail = f"of plugin {entry.record.title} has the name of a core command"
            checks.append(
                Check("warn", f"command {entry.name}", detail, f"write `llmasos {entry.full_name}`")
            )
    return checks


def _probes(inventory: Inventory) -> list[Check]:
    from llmasos.kernel.catalog import label
    from llmasos.kernel.probe import probe_plugin

    checks: list[Check] = []
    for record in inventory.enabled():
        for found in probe_plugin(record):
            what = f"{label(found.kind)} {found.full_name}"
            checks.extend(Check("ok", what, line) for line in found.lines)
            if found.problem:
                hint = f"`llmasos plugin info {record.id}` shows where it comes from; report it to the author"
                checks.append(Check("warn", what, f"cannot be asked what it is here: {found.problem}", hint))
    return checks


def _environment() -> dict[str, Any]:
    from llmasos import API_VERSION, __version__
    from llmasos.kernel.compat import device_version

    cuda = device_version("cuda", detail=True)
    return {
        "llmasos": __version__,
        "api": ".".join(str(part) for part in API_VERSION),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "cuda": cuda,
    }


def _packages(required: dict[str, bool]) -> dict[str, str | None]:
    """Versions of what llmasos and its extras require; None for what is not installed."""
    from llmasos.kernel.compat import installed_version

    return {name: installed_version(name) for name in sorted(required)}


def _requirements() -> dict[str, bool]:
    """Names of what llmasos and its extras require, from metadata, and whether llmasos itself does."""
    import importlib.metadata as metadata

    try:
        lines = metadata.requires("llmasos") or []
    except metadata.PackageNotFoundError:
        lines = []
    # The tools of the test extra are not part of what runs.
    lines = [line for line in lines if "test" not in line.partition(";")[2]]
    found: dict[str, bool] = {}
    for line in lines:
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match is not None and match[0].lower() != "llmasos":
            always = "extra" not in line.partition(";")[2]
            found[match[0].lower()] = found.get(match[0].lower(), False) or always
    return found


def _page(state: State, value: dict[str, Any], checks: list[Check], required: dict[str, bool]) -> str:
    facts = value["environment"]
    cuda = f"CUDA capability {facts['cuda']}" if facts["cuda"] else "no CUDA device"
    packages = value["packages"]
    absent = [name for name, version in packages.items() if version is None and not required[name]]
    shown = [(name, version or "not installed") for name, version in packages.items() if name not in absent]
    lines = [
        f"llmasos {facts['llmasos']} (API {facts['api']}), Python {facts['python']}",
        f"{facts['platform']}, {facts['cpus']} CPUs, {cuda}",
        facts["executable"],
        "",
        state.output.table(("package", "version"), shown),
        "",
        *([f"optional, and not here: {', '.join(absent)}", ""] if absent else []),
        state.output.table(
            ("setting", "value", "from"),
            [(name, item["value"], item["from"]) for name, item in value["settings"].items()],
        ),
        "",
    ]
    for check in checks:
        hint = f"  hint: {check.hint}" if check.hint else ""
        lines.append(f"{check.level:<5} {check.what}: {check.detail}{hint}")
    return "\n".join(lines)
