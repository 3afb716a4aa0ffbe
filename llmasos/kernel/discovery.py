"""Finding plugins without importing them: entry points, then the data file each leads to.

Entry point group ``llmasos.plugins``, name = plugin id, value = ``top_level_package:llmasos.toml``. Only the *top-level*
package may be named, because finding a sub-package's folder would import its parent. Problems become records with an
``error``; nothing here raises.

Imported only when the index is stale.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
from collections.abc import Iterator
from pathlib import Path

from llmasos.errors import ManifestError
from llmasos.kernel.compat import Rejected, check
from llmasos.kernel.index import MANIFEST_FILE, package_folder, stamp
from llmasos.kernel.manifest import read_manifest
from llmasos.kernel.record import PluginRecord

GROUP = "llmasos.plugins"


def discover() -> list[PluginRecord]:
    """One record a plugin, sorted by id; an id that two distributions claim becomes one record with an error."""
    by_id: dict[str, list[PluginRecord]] = {}
    for record in _scan():
        by_id.setdefault(record.id, []).append(record)
    return [_only(same) for _, same in sorted(by_id.items())]


def _only(records: list[PluginRecord]) -> PluginRecord:
    if len(records) == 1:
        return records[0]
    claims = " and ".join(sorted(f"{record.distribution} {record.version}" for record in records))
    conflict = PluginRecord(
        plugin_id=records[0].id,
        error=f"the plugin id `{records[0].id}` is claimed by {claims}; uninstall all but one",
    )
    for record in records:
        conflict.stamps.update(record.stamps)
    return conflict


def _scan() -> Iterator[PluginRecord]:
    seen: set[str] = set()
    try:
        distributions = list(metadata.distributions())
    except (
        Exception
    ):  # a custom finder on sys.meta_path may raise anything; built-in discovery then finds nothing
        distributions = []
    for distribution in distributions:
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception:  # damaged metadata of a stranger's distribution is not our failure
            continue
        if not points:
            continue
        name, version = _name_and_version(distribution)
        normalized = re.sub(r"[-_.]+", "-", name).lower()
        # The first on sys.path is the one that would be imported.
        if normalized in seen:
            continue
        seen.add(normalized)
        for point in points:
            yield record_of_entry_point(point.name, point.value, name, version, distribution)


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    """Both may be missing from damaged metadata, which some versions of Python answer with None and some with an error."""
    try:
        fields = distribution.metadata
        names, versions = fields.get_all("Name"), fields.get_all("Version")
    except Exception:
        names = versions = None
    return (names or [""])[0] or "unknown", (versions or [""])[0]


def record_of_entry_point(
    plugin_id: str, value: str, name: str, version: str, distribution: metadata.Distribution | None
) -> PluginRecord:
    """What one entry point leads to."""
    record = PluginRecord(plugin_id=plugin_id, version=version, distribution=name)
    package, _, file = (part.strip() for part in value.partition(":"))
    if file != MANIFEST_FILE or not package.isidentifier():
        record.error = f"entry point `{plugin_id} = {value}` of {name} {version} must be `top_level_package:{MANIFEST_FILE}`"
        record.state, record.why = "invalid", record.error
        return record
    folder = _package_folder(package, distribution)
    if folder is None:
        record.missing = package
        record.error = f"{name} {version} has no file {package}/{MANIFEST_FILE}; reinstall it"
        record.state, record.why = "invalid", record.error
        return record
    return fill(record, folder)


def fill(record: PluginRecord, folder: str) -> PluginRecord:
    """Read and check the manifest in ``folder``; used for installed and for local plugins."""
    record.package = folder
    record.manifest_path = os.path.join(folder, MANIFEST_FILE)
    record.stamps[record.manifest_path] = stamp(record.manifest_path)
    try:
        manifest = read_manifest(Path(record.manifest_path), plugin_id=record.id or None)
    except ManifestError as error:
        record.error = error.message
        record.state, record.why = "invalid", error.message
        return record
    record.id = manifest.id
    # The JSON form is what the index stores and every reader uses.
    record.manifest = manifest.model_dump(mode="json", exclude_none=True)
    verdict = check(record.manifest)
    record.trace = list(verdict.trace)
    record.rejected = verdict.reason if isinstance(verdict, Rejected) else None
    return record


def _package_folder(package: str, distribution: metadata.Distribution | None) -> str | None:
    """The folder of a top-level package that holds a manifest, found without importing anything."""
    if distribution is not None:
        try:
            beside = os.path.abspath(str(distribution.locate_file(package)))
            if os.path.isfile(os.path.join(beside, MANIFEST_FILE)):
                return beside
        except Exception:  # a custom Distribution may not support locate_file; find_spec below still may
            pass
    return package_folder(package)
