"""``llmasos plugin``: list, describe, switch, check and publish plugins.

``list``, ``info``, ``enable`` and ``disable`` never import plugin code, so they work whatever is installed. ``check`` does,
in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import ExitCode

if TYPE_CHECKING:
    from llmasos.kernel.record import PluginRecord


@click.group()
def command() -> None:
    """List, describe, switch, check and publish plugins."""


@command.command("list", short_help="List plugins and their states.")
@common_options
@pass_state
def list_(state: State) -> None:
    """Every installed plugin and its state, one line each."""
    records = list(state.inventory)

    def human() -> str:
        if not records:
            return "no plugins" + (
                " (switched off by --no-plugins)" if state.config.no_plugins else " installed"
            )
        rows = [(record.id, record.version, record.state, record.why or record.summary) for record in records]
        return state.output.table(("plugin", "version", "state", "summary"), rows)

    state.output.emit({"plugins": [_row(record) for record in records]}, human)


def _row(record: PluginRecord) -> dict[str, Any]:
    kinds: dict[str, list[str]] = {}
    for item in record.provides():
        kinds.setdefault(item["kind"], []).append(item["name"])
    return {
        "id": record.id,
        "version": record.version,
        "distribution": record.distribution,
        "state": record.state,
        "reason": record.why or None,
        "summary": record.manifest.get("summary"),
        "hooks": record.hooks(),
        "provides": kinds,
    }


@command.command(short_help="Describe a plugin.")
@click.argument("plugin")
@common_options
@pass_state
def info(state: State, plugin: str) -> None:
    """Everything known of PLUGIN from its manifest: what it offers, needs and may do, and why it cannot be used."""
    record = state.inventory.get(plugin)
    failure = state.inventory.quarantine.read(record.id) if record.state == "quarantined" else None
    value = {
        **_row(record),
        "path": record.package or None,
        "manifest": record.manifest or None,
        "requirements": record.trace,
        "failure": failure._asdict() if failure is not None else None,
    }
    state.output.emit(value, lambda: _page(state, record, failure.traceback if failure is not None else None))


def _page(state: State, record: PluginRecord, traceback: str | None) -> str:
    manifest = record.manifest
    permissions = manifest.get("permissions", {})
    facts: list[tuple[str, object]] = [
        ("plugin", record.title),
        ("state", f"{record.state}: {record.why}" if record.why else record.state),
        ("summary", manifest.get("summary")),
        ("distribution", record.distribution),
        ("folder", record.package),
        ("licence", manifest.get("license")),
        ("stability", manifest.get("stability")),
        ("hooks", ", ".join(record.hooks())),
        ("network", ", ".join(permissions.get("network", [])) or "none declared"),
        ("filesystem", permissions.get("filesystem")),
        ("subprocess", "yes" if permissions.get("subprocess") else "no"),
        ("remote code", "yes" if permissions.get("runs_remote_code") else "no"),
    ]
    lines = [f"{name:<14}{value}" for name, value in facts if value not in (None, "")]
    if record.trace:
        lines += ["", "requirements", *(f"  {step}" for step in record.trace)]
    if record.provides():
        rows = [(item["kind"], f"{record.id}/{item['name']}", item["summary"]) for item in record.provides()]
        lines += ["", state.output.table(("kind", "name", "summary"), rows)]
    if manifest.get("settings"):
        from llmasos.kernel.settings import plugin_settings, variable

        values = plugin_settings(record, state.config)
        table = [
            (name, values[name], variable(record.id, name), item["help"])
            for name, item in manifest["settings"].items()
        ]
        lines += ["", state.output.table(("setting", "value", "variable", "help"), table)]
    if traceback:
        lines += ["", "it failed with", *(f"  {line}" for line in traceback.rstrip().splitlines())]
    return "\n".join(lines)


@command.command(short_help="Use plugins again.")
@click.argument("plugins", nargs=-1, required=True, metavar="PLUGIN...")
@click.option(
    "--retry", is_flag=True, help="Also forget that it failed, and try it again when it is next used."
)
@common_options
@pass_state
def enable(state: State, plugins: tuple[str, ...], retry: bool) -> None:
    """Use PLUGIN again."""
    _switch(state, plugins, disable=False)
    forgotten = [plugin for plugin in plugins if retry and state.inventory.quarantine.forget(plugin)]
    states = {record.id: record.state for record in state.inventory}
    quarantined = [plugin for plugin in plugins if not retry and states.get(plugin) == "quarantined"]
    for plugin in quarantined:
        state.output.warn(
            f"plugin {plugin} failed before and stays in quarantine; add --retry to try it again"
        )
    state.output.emit(
        {"enabled": list(plugins), "retried": forgotten}, "\n".join(f"enabled {plugin}" for plugin in plugins)
    )


@command.command(short_help="Leave plugins out.")
@click.argument("plugins", nargs=-1, required=True, metavar="PLUGIN...")
@common_options
@pass_state
def disable(state: State, plugins: tuple[str, ...]) -> None:
    """Leave PLUGIN out: a disabled plugin is never imported."""
    _switch(state, plugins, disable=True)
    state.output.emit({"disabled": list(plugins)}, "\n".join(f"disabled {plugin}" for plugin in plugins))


def _switch(state: State, plugins: tuple[str, ...], *, disable: bool) -> None:
    from llmasos.errors import UnknownName, UsageError
    from llmasos.kernel.state import read_disabled, write_disabled

    folder = state.config.config_dir
    before = read_disabled(folder)
    for plugin in plugins:
        # A plugin that was uninstalled while disabled may still be enabled: that only tidies the list.
        if disable or plugin not in before:
            try:
                local = state.inventory.get(plugin).local
            except UnknownName:
                if not state.config.no_plugins:
                    raise
                local = False
            if local:
                raise UsageError(
                    f"{plugin} is not installed; it is used because --plugin names its folder",
                    hint="leave out --plugin",
                )
    after = before | set(plugins) if disable else before - set(plugins)
    if after != before:
        write_disabled(folder, after)


@command.command(short_help="Try a plugin against the rules.")
@click.argument("plugin")
@common_options
@pass_state
def check(state: State, plugin: str) -> ExitCode:
    """Load PLUGIN (an id, or a folder with llmasos.toml) in a process of its own and compare it with the rules."""
    from llmasos.kernel.checkup import examine
    from llmasos.kernel.local import read_folder

    folder = Path(plugin)
    record = read_folder(folder) if "/" in plugin or folder.is_dir() else state.inventory.get(plugin)
    with state.output.progress() as progress:
        progress.phase(f"checking {record.id or plugin}")
        findings = examine(record)
    failed = [finding for finding in findings if not finding.ok]

    def human() -> str:
        lines: list[str] = []
        for finding in findings:
            lines.append(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.rule}: {finding.observation}")
            if not finding.ok and finding.fix:
                lines.append(f"      fix: {finding.fix}")
        verdict = "passes" if not failed else f"breaks {len(failed)} of {len(findings)} rules"
        return "\n".join([*lines, f"{record.title or plugin} {verdict}"])

    state.output.emit(
        {
            "plugin": record.id or None,
            "version": record.version,
            "passed": not failed,
            "findings": [f._asdict() for f in findings],
        },
        human,
    )
    return ExitCode.PLUGIN if failed else ExitCode.OK


@command.command(short_help="Publish a plugin in a registry.")
@click.argument("path", default=".", type=click.Path(exists=True, path_type=Path))
@click.option("--owner", metavar="ORG", help="The organisation that a new project belongs to.")
@click.option(
    "--key", type=click.Path(dir_okay=False, path_type=Path), help="Sign with the key in this file."
)
@click.option("--no-sign", is_flag=True, help="Publish without a signature.")
@click.option("--registry", metavar="URL", help="The registry to publish in. [env: LLMASOS_REGISTRY]")
@common_options
@pass_state
def publish(
    state: State, path: Path, owner: str | None, key: Path | None, no_sign: bool, registry: str | None
) -> None:
    """Publish PATH: a project folder, which is built in an environment of its own, or a wheel.

    The wheel is checked without being installed, signed with your key and uploaded. Publishing the same wheel again
    changes nothing; a published version never changes.
    """
    import tempfile

    from llmasos.cli.registry_key import signing_key
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.publish_plugin import publish_plugin
    from llmasos_registry.client.wheel_build import build_wheel

    private = signing_key(state, key, no_sign)
    with (
        connect(state.config, registry, need_token=True) as connection,
        tempfile.TemporaryDirectory(prefix="llmasos-publish-") as scratch,
        state.output.progress() as progress,
    ):
        wheel = path
        if path.is_dir():
            progress.phase(f"building {path.resolve().name}")
            wheel = build_wheel(path, Path(scratch))
        done = publish_plugin(connection, wheel, key=private, progress=progress, owner=owner)
        url = connection.url

    def human() -> str:
        verb = "published" if done.uploaded else "already published:"
        signed = f"signed by {done.publisher} with {done.keyid}" if done.keyid else "not signed"
        return f"{verb} {done.name} {done.version} at {url}\n{done.filename}, sha256 {done.sha256}\n{signed}"

    state.output.emit({"registry": url, **done._asdict()}, human)


@command.command(short_help="Take a published version back.")
@click.argument("name")
@click.argument("version")
@click.option("--reason", default="", help="Shown to those who ask for this very version.")
@click.option("--undo", is_flag=True, help="Offer the version again.")
@click.option("--registry", metavar="URL", help="The registry. [env: LLMASOS_REGISTRY]")
@common_options
@pass_state
def yank(state: State, name: str, version: str, reason: str, undo: bool, registry: str | None) -> None:
    """Take VERSION of the plugin NAME back: ranges no longer choose it, exact versions and locks still do."""
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.yank import yank_plugin

    with connect(state.config, registry, need_token=True) as connection:
        yank_plugin(connection, name, version, None if undo else reason)
    state.output.emit(
        {"name": name, "version": version, "yanked": not undo},
        f"{name} {version} is {'offered again' if undo else 'yanked'}",
    )


@command.command(short_help="Remove installed plugins.")
@click.argument("plugins", nargs=-1, required=True, metavar="PLUGIN...")
@click.option("--yes", "-y", is_flag=True, help="Carry out the plan without asking.")
@click.option("--dry-run", is_flag=True, help="Show the plan and change nothing.")
@common_options
@pass_state
def uninstall(state: State, plugins: tuple[str, ...], yes: bool, dry_run: bool) -> None:
    """Remove PLUGIN: the name of its distribution, or the id of a plugin. Libraries that came with it stay."""
    from llmasos.cli.consent import carry_out
    from llmasos_registry.client.plan import Plan
    from llmasos_registry.client.session import local_workplace

    workplace = local_workplace(state.config)
    state.recover(workplace)
    names = [workplace.distribution_of(name) for name in plugins]
    plan = Plan(tuple(workplace.removal(dict.fromkeys(names))))
    carry_out(
        state, workplace, plan, yes=yes, dry_run=dry_run, again=["llmasos", "plugin", "uninstall", *plugins]
    )
