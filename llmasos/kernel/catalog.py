"""Names: (kind, name) -> who provides it, from manifests alone.

A full name is ``plugin-id/name``. A bare name that two plugins provide is ambiguous and stays so: no plugin has precedence,
built-in or not, because a host upgrade that adds a name already in use must not silently change what that name means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from llmasos.errors import AmbiguousName, LlmasosError, UnknownName
from llmasos.kernel.inventory import Inventory, refusal
from llmasos.kernel.record import PluginRecord
from llmasos.near_miss import capped, closest


class Entry(NamedTuple):
    """One promise of one plugin."""

    kind: str
    name: str
    record: PluginRecord
    table: dict[str, Any]

    @property
    def full_name(self) -> str:
        """``plugin-id/name``."""
        return f"{self.record.id}/{self.name}"


class Catalog:
    """The promises of the plugins in an inventory."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._entries: dict[str, list[Entry]] = {}
        #: Promises of plugins that cannot be used now, so that an error can say so.
        self._withheld: dict[str, list[Entry]] = {}
        for record in inventory:
            target = self._entries if record.state == "enabled" else self._withheld
            for table in record.provides():
                entry = Entry(table["kind"], table["name"], record, table)
                target.setdefault(entry.kind, []).append(entry)

    def entries(self, kind: str) -> list[Entry]:
        """Everything usable of one kind, sorted by full name."""
        return sorted(self._entries.get(kind, []), key=lambda entry: entry.full_name)

    def kinds(self) -> list[str]:
        """Kinds that something usable provides."""
        return sorted(self._entries)

    def find(self, kind: str, name: str) -> Entry:
        """The one provider of a bare or full name.

        Raises AmbiguousName naming all providers, UnknownName with near misses, or, when only a plugin that cannot be used
        provides it, the reason it cannot be.
        """
        entries = self.entries(kind)
        found = [entry for entry in entries if name in (entry.name, entry.full_name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise self._ambiguous(kind, name, found)
        raise self._unknown(kind, name, entries)

    def _ambiguous(self, kind: str, name: str, found: Sequence[Entry]) -> LlmasosError:
        providers = " and ".join(f"{entry.record.title}" for entry in found)
        pins = " or ".join(f"`{entry.full_name}`" for entry in found)
        return AmbiguousName(f"{label(kind)} `{name}` is provided by {providers}", hint=f"write {pins}")

    def _unknown(self, kind: str, name: str, entries: Sequence[Entry]) -> LlmasosError:
        for entry in self._withheld.get(kind, []):
            if name in (entry.name, entry.full_name):
                return refusal(entry.record)
        if self._inventory.no_plugins:
            return UnknownName(
                f"no plugin provides the {label(kind)} `{name}`: installed plugins are switched off",
                hint="leave out --no-plugins, or unset LLMASOS_NO_PLUGINS",
            )
        aliases = [entry for entry in entries if name in entry.table.get("aliases_for", [])]
        known = {entry.name for entry in entries} | {entry.full_name for entry in entries}
        near = [entry.full_name for entry in aliases] or closest(name, known)
        if near:
            hint = "did you mean " + " or ".join(f"`{word}`" for word in near) + "?"
        elif entries:
            hint = f"known: {capped(entry.name for entry in entries)}"
        else:
            hint = f"no installed plugin provides any {label(kind)}; `llmasos plugin list` shows the plugins"
        if "/" in name:
            owner = name.partition("/")[0]
            if all(record.id != owner for record in self._inventory):
                return UnknownName(
                    f"no plugin `{owner}` is installed, so there is no {label(kind)} `{name}`", hint=hint
                )
        return UnknownName(f"no plugin provides the {label(kind)} `{name}`", hint=hint)

    def matching(self, kind: str, facts: Mapping[str, str | Iterable[str]]) -> list[Entry]:
        """Providers whose manifest ``matches`` any of the facts, sorted by full name; decided without imports.

        ``facts`` are for example ``model_type="llama"`` or ``files=["model.safetensors"]``. ``files`` in a manifest are glob
        patterns, everything else is compared exactly.
        """
        return [
            entry
            for entry in self.entries(kind)
            if any(_matches(entry, key, value) for key, value in facts.items())
        ]

    def ambiguous_names(self) -> dict[str, list[Entry]]:
        """``kind name`` -> providers, for every bare name that more than one plugin provides."""
        groups: dict[str, list[Entry]] = {}
        for kind in self.kinds():
            for entry in self.entries(kind):
                groups.setdefault(f"{label(kind)} {entry.name}", []).append(entry)
        return {name: group for name, group in groups.items() if len(group) > 1}


def _matches(entry: Entry, key: str, value: str | Iterable[str]) -> bool:
    wanted = [value] if isinstance(value, str) else list(value)
    patterns = entry.table.get("matches", {}).get(key, [])
    if key == "files":
        return any(fnmatchcase(word, pattern) for word in wanted for pattern in patterns)
    return any(word in patterns for word in wanted)


def label(kind: str) -> str:
    """A kind as people read it: ``model architecture``."""
    return kind.replace("_", " ")
