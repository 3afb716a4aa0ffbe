"""Local plugins: a folder with ``llmasos.toml``, used without packaging (``--plugin ./my_plugin/``).

The manifest's ``module`` is importable when the folder itself is the package (``./acme/``, module ``acme.plugin``) or holds
it (``./acme/plugin.py``, module ``plugin``). ``sys.path`` is left alone: a finder is added that answers for that one
top-level name and nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from llmasos.errors import ManifestError
from llmasos.kernel.record import PluginRecord


def local_record(folder: Path) -> PluginRecord:
    """Read the plugin in a folder the user named. Raises ManifestError: what is named fails hard."""
    record = read_folder(folder)
    if record.error is not None:
        raise ManifestError(record.error, hint="docs/reference/manifest.md lists the keys")
    return record


def read_folder(folder: Path) -> PluginRecord:
    """The plugin in a folder; a manifest that is wrong is the record's ``error``. Raises ManifestError when there is none."""
    from llmasos.kernel.discovery import fill

    path = folder.expanduser()
    if not path.is_dir():
        raise ManifestError(f"{folder} is not a folder", hint="name a folder that contains llmasos.toml")
    if not (path / "llmasos.toml").is_file():
        inside = sorted(file.parent.name for file in path.glob("*/llmasos.toml"))
        hint = f"try {folder / inside[0]}" if inside else "name a folder that contains llmasos.toml"
        raise ManifestError(f"{folder} has no llmasos.toml", hint=hint)
    record = PluginRecord(plugin_id="", version="local", distribution="(local folder)", local=True)
    return fill(record, str(path.resolve()))


def location(record: PluginRecord) -> tuple[str, str] | None:
    """The top-level name of a local plugin's module, and the file or folder it is; None when neither layout is there."""
    top = str(record.manifest["module"]).partition(".")[0]
    folder = record.package
    inside = os.path.join(folder, top)
    if os.path.isdir(inside):
        return top, inside
    if os.path.isfile(inside + ".py"):
        return top, inside + ".py"
    if os.path.basename(folder) == top:
        return top, folder
    return None


class LocalFinder:
    """A meta path finder for one top-level name."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the one name; submodules are found through its search locations as usual."""
        if fullname != self.name:
            return None
        if not os.path.isdir(self.path):
            return importlib.util.spec_from_file_location(fullname, self.path)
        init = os.path.join(self.path, "__init__.py")
        if os.path.isfile(init):
            return importlib.util.spec_from_file_location(
                fullname, init, submodule_search_locations=[self.path]
            )
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [self.path]
        return spec


def install_finder(record: PluginRecord) -> LocalFinder | None:
    """Make a local plugin's module importable. None when it already is, from this very place.

    Raises ManifestError when the folder does not hold the module, or when the name belongs to something else that is
    installed or imported: shadowing it would silently replace it.
    """
    found = location(record)
    module = str(record.manifest["module"])
    if found is None:
        top = module.partition(".")[0]
        raise ManifestError(
            f"{record.package} does not hold the module {module}",
            hint=f"put {top}.py or a folder {top}/ in it, or name the folder itself {top}",
        )
    top, path = found
    loaded = sys.modules.get(top)
    if loaded is not None:
        places = [getattr(loaded, "__file__", None) or "", *getattr(loaded, "__path__", [])]
    else:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec is not None else []
    others = [os.path.realpath(place) for place in places if place]
    here = os.path.realpath(path)
    if any(place == here or place.startswith(here + os.sep) for place in others):
        # Found by the ordinary import system; a finder of another Hub does not count, it may be taken away.
        if not _finders(top):
            return None
    elif others:
        raise ManifestError(
            f"the module name `{top}` of the local plugin {record.id} already belongs to {others[0]}",
            hint=f"rename the module in {record.manifest_path} and on disk",
        )
    finder = LocalFinder(top, path)
    sys.meta_path.insert(0, finder)
    return finder


def _finders(top: str) -> list[LocalFinder]:
    return [finder for finder in sys.meta_path if isinstance(finder, LocalFinder) and finder.name == top]


def remove_finder(finder: LocalFinder) -> None:
    """Take a finder away again."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
