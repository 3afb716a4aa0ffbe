"""The manifests of the plugins in a wheel, read without installing or importing anything."""

from __future__ import annotations

from llmasos.errors import ManifestError
from llmasos.kernel.manifest import Manifest, parse_manifest
from llmasos_registry.wheel.archive import WheelFacts
from llmasos_registry.wheel.refusal import WheelRefused

GROUP = "llmasos.plugins"
FILE = "llmasos.toml"
_SUFFIXES = (".py", "/__init__.py")


def read_plugins(facts: WheelFacts) -> tuple[Manifest, ...]:
    """The manifests of all plugins in a wheel, by plugin id; empty for a wheel that has none.

    Raises WheelRefused when an entry point leads nowhere, ManifestError (naming wheel and file) when a manifest is invalid.
    """
    found = []
    for plugin_id, value in sorted(facts.entry_points.get(GROUP, {}).items()):
        package, _, resource = (part.strip() for part in value.partition(":"))
        if resource != FILE or not package.isidentifier():
            raise WheelRefused(
                "plugin",
                f"{plugin_id} = {value} is not of the form top_level_package:{FILE}",
                member="entry_points.txt",
            )
        path = f"{package}/{FILE}"
        data = facts.manifests.get(path)
        if data is None:
            raise WheelRefused(
                "plugin", f"the entry point {plugin_id} names it, and it is not in the wheel", member=path
            )
        manifest = parse_manifest(data, source=f"{facts.filename}: {path}", plugin_id=plugin_id)
        module = manifest.module.replace(".", "/")
        files = [name for name in facts.site_paths if name.startswith(module)]
        compiled = any(name.startswith(module + ".") and name.endswith((".so", ".pyd")) for name in files)
        if not compiled and not any(module + suffix in files for suffix in _SUFFIXES):
            raise ManifestError(
                f"{facts.filename}: {path}: module {manifest.module} is not in the wheel",
                hint="is the package listed in the build configuration?",
            )
        found.append(manifest)
    return tuple(found)


def read_plugin(facts: WheelFacts) -> Manifest | None:
    """The manifest of the plugin in a wheel, or None. With several plugins, the one named as the distribution, else the first."""
    manifests = read_plugins(facts)
    named = [manifest for manifest in manifests if manifest.id == facts.name]
    return next(iter([*named, *manifests]), None)
