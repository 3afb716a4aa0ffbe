"""Every plugin of an environment and the state it is in, without importing any of them.

States: enabled, disabled (by the user), incompatible (its requirements are not met), quarantined (it failed before in
this environment), invalid (its manifest or entry point is wrong). Only enabled plugins are ever imported.

On the path of ``llmasos --help``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llmasos.errors import IncompatiblePlugin, PluginError, PluginLoadError, UnknownName, UsageError
from llmasos.kernel.index import load_index
from llmasos.kernel.record import PluginRecord
from llmasos.kernel.state import Quarantine, read_disabled


class Inventory:
    """The plugins one Hub or command works with, by id.

    ``only`` keeps the named installed plugins; ``no_plugins`` leaves all installed ones out. Local plugins are named by the
    user, so neither switch applies to them, their problems are errors, and one that failed before is tried again.
    """

    def __init__(
        self,
        cache_dir: Path,
        config_dir: Path,
        *,
        no_plugins: bool = False,
        only: Sequence[str] | None = None,
        local: Iterable[Path] = (),
    ) -> None:
        self.quarantine = Quarantine(cache_dir)
        self.no_plugins = no_plugins
        self.config_dir = config_dir
        self._records: dict[str, PluginRecord] = {}
        if no_plugins and only is not None:
            raise UsageError(
                "installed plugins are switched off, and some are asked for by name",
                hint="leave out --only, or --no-plugins (and LLMASOS_NO_PLUGINS)",
            )
        if not no_plugins:
            records = {record.id: record for record in load_index(cache_dir)}
            for name in only or ():
                if name not in records:
                    from llmasos.near_miss import capped, did_you_mean

                    raise UnknownName(
                        f"no plugin `{name}` is installed{did_you_mean(name, records)}",
                        hint=f"installed plugins: {capped(records) or 'none'}",
                    )
            self._records = {key: record for key, record in records.items() if only is None or key in only}
            self._judge(self._records.values())
        folders = list(local)
        if folders:
            self._add_local(folders)

    def _judge(self, records: Iterable[PluginRecord]) -> None:
        disabled = read_disabled(self.config_dir)
        failed = set(self.quarantine.ids())
        for record in records:
            if record.error is not None:
                record.state, record.why = "invalid", record.error
            elif record.id in disabled and not record.local:
                record.state, record.why = "disabled", f"disabled; `llmasos plugin enable {record.id}`"
            elif record.rejected is not None:
                record.state, record.why = "incompatible", record.rejected
            elif (
                not record.local
                and record.id in failed
                and (failure := self.quarantine.current(record)) is not None
            ):
                record.state, record.why = "quarantined", failure.summary
            else:
                record.state, record.why = "enabled", ""

    def _add_local(self, folders: list[Path]) -> None:
        from llmasos.kernel.local import local_record

        for folder in folders:
            record = local_record(folder)
            other = self._records.get(record.id)
            if other is not None and other.package != record.package:
                raise UsageError(
                    f"the local plugin in {folder} has the id `{record.id}`, which {other.distribution} {other.version} has too",
                    hint=f"uninstall {other.distribution}, or give the local plugin another id",
                )
            self._records[record.id] = record
            self._judge([record])
            if record.state != "enabled":
                raise refusal(record)

    def __iter__(self) -> Iterator[PluginRecord]:
        return (self._records[key] for key in sorted(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def enabled(self) -> list[PluginRecord]:
        """Plugins that may be imported, sorted by id."""
        return [record for record in self if record.state == "enabled"]

    def broken(self) -> list[PluginRecord]:
        """Plugins that the user did not disable and that still cannot be used."""
        return [record for record in self if record.state in ("incompatible", "quarantined", "invalid")]

    def get(self, plugin_id: str) -> PluginRecord:
        """One plugin in whatever state. Raises UnknownName with near misses."""
        if plugin_id in self._records:
            return self._records[plugin_id]
        from llmasos.near_miss import capped, did_you_mean

        raise UnknownName(
            f"no plugin `{plugin_id}` is installed{did_you_mean(plugin_id, self._records)}",
            hint=f"installed plugins: {capped(self._records) or 'none'}",
        )

    def usable(self, plugin_id: str) -> PluginRecord:
        """One plugin that may be imported. Raises UnknownName, or PluginLoadError saying why it may not."""
        record = self.get(plugin_id)
        if record.state != "enabled":
            raise refusal(record)
        return record


def refusal(record: PluginRecord) -> PluginError:
    """Why a plugin that the user named cannot be used, and what to do about it."""
    hints = {
        "disabled": f"run `llmasos plugin enable {record.id}`",
        "quarantined": f"`llmasos plugin info {record.id}` shows the traceback; `llmasos plugin enable --retry {record.id}` tries again",
        "invalid": f"reinstall the plugin, or report it to its author; `llmasos plugin check {record.id}` shows details",
    }
    reason = "disabled by the user" if record.state == "disabled" else f"{record.state}: {record.why}"
    if record.state == "incompatible":
        from llmasos.kernel.compat import Rejected, check

        verdict = check(record.manifest)
        hint = (
            verdict.hint
            if isinstance(verdict, Rejected)
            else "the environment changed; run the command again"
        )
        return IncompatiblePlugin(f"plugin {record.title} is {reason}", hint=hint)
    return PluginLoadError(f"plugin {record.title} is {reason}", hint=hints.get(record.state))
