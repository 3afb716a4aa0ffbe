"""Loading one plugin as one transaction: check, import, register, collect, compare with the promises.

Any failure takes back everything: modules the plugin's package added to ``sys.modules``, its registration with pluggy
(pluggy 1.6 leaves a plugin half registered when validation fails), ``sys.path``, the environment variables. The plugin is
then quarantined for this environment with its traceback. SystemExit counts as a failure, because plugins do raise it;
KeyboardInterrupt propagates.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pluggy

from llmasos.contracts.base import Contribution
from llmasos.errors import IncompatiblePlugin, LlmasosError, PluginLoadError
from llmasos.hooks import specs
from llmasos.hooks.calls import HookCalls, HookPlugin
from llmasos.hooks.specs import HOOKS
from llmasos.kernel.compat import Rejected, check
from llmasos.kernel.record import PluginRecord
from llmasos.kernel.state import Quarantine
from llmasos.near_miss import did_you_mean

#: Imports slower than this are pointed out by --trace-plugins. Seconds.
SLOW_IMPORT = 0.5

#: kind -> name of its collect hook.
HOOK_OF_KIND: dict[str, str] = {info.kind: name for name, info in HOOKS.items() if info.kind is not None}


class LoadedPlugin(NamedTuple):
    """A plugin that is imported, registered and keeps its promises."""

    record: PluginRecord
    hooks: HookPlugin
    #: (kind, name) -> descriptor.
    contributions: Mapping[tuple[str, str], Contribution]
    #: Seconds its import took.
    seconds: float


class Loader:
    """Loads plugins into one pluggy manager; loading the same plugin again returns the first result."""

    def __init__(
        self,
        manager: pluggy.PluginManager,
        calls: HookCalls,
        quarantine: Quarantine,
        *,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self._manager = manager
        self._calls = calls
        self._quarantine = quarantine
        self._trace = trace
        self._loaded: dict[str, LoadedPlugin] = {}
        self._lock = threading.RLock()

    def loaded(self) -> list[LoadedPlugin]:
        """Plugins loaded so far, sorted by id."""
        return [self._loaded[key] for key in sorted(self._loaded)]

    def load(self, record: PluginRecord) -> LoadedPlugin:
        """Import a plugin, or return it when it is loaded.

        Raises PluginLoadError (and quarantines the plugin), IncompatiblePlugin, ManifestError when the manifest changed for
        the worse since it was indexed.
        """
        with self._lock:
            if record.id not in self._loaded:
                self._loaded[record.id] = self._transaction(record)
            return self._loaded[record.id]

    def _transaction(self, record: PluginRecord) -> LoadedPlugin:
        from llmasos.kernel.manifest import read_manifest

        # The index is never trusted for loading: this is the manifest that is there now.
        manifest = read_manifest(Path(record.manifest_path), plugin_id=record.id).model_dump(
            mode="json", exclude_none=True
        )
        verdict = check(manifest, devices=True)
        if isinstance(verdict, Rejected):
            raise IncompatiblePlugin(f"plugin {record.title} {verdict.reason}", hint=verdict.hint)
        before = Snapshot()
        try:
            return self._load(record, manifest)
        except BaseException as error:
            self._unregister(record.id)
            before.restore(manifest["module"], record.package)
            if not isinstance(error, (Exception, SystemExit)):
                raise
            raise self._quarantined(record, error) from error

    def _load(self, record: PluginRecord, manifest: Mapping[str, Any]) -> LoadedPlugin:
        started = time.perf_counter()
        module = importlib.import_module(manifest["module"])
        seconds = time.perf_counter() - started
        if self._trace is not None:
            slow = f"  SLOW: more than {SLOW_IMPORT} s" if seconds > SLOW_IMPORT else ""
            self._trace(f"load {record.title} {seconds * 1000:.1f} ms{slow}")
        check_origin(module, record)
        check_implementations(self._manager, module, manifest)
        self._manager.register(module, name=record.id)
        self._manager.check_pending()
        plugin = HookPlugin(record.id, record.version, module, local=record.local)
        contributions: dict[tuple[str, str], Contribution] = {}
        for kind in sorted({item["kind"] for item in manifest.get("provides", [])}):
            promised = [item["name"] for item in manifest["provides"] if item["kind"] == kind]
            delivered = self._calls.collect_one(HOOK_OF_KIND[kind], plugin)
            contributions.update(check_promises(kind, promised, delivered))
        return LoadedPlugin(record, plugin, contributions, seconds)

    def _unregister(self, plugin_id: str) -> None:
        if self._manager.has_plugin(plugin_id):
            self._manager.unregister(name=plugin_id)

    def _quarantined(self, record: PluginRecord, error: BaseException) -> PluginLoadError:
        summary = cause(error)
        text = "".join(traceback.format_exception(error))
        if record.local:
            # Named on the command line, so tried each time: there is nothing to remember, and no installed plugin to show.
            return PluginLoadError(
                f"plugin {record.title} cannot be loaded: {summary}",
                hint=f"LLMASOS_STRICT=1 shows the traceback, `llmasos plugin check {record.package}` what else is wrong",
            )
        kept = self._quarantine.add(record, summary, text)
        more = (
            f"`llmasos plugin info {record.id}` shows the traceback"
            if kept
            else "LLMASOS_STRICT=1 shows the traceback"
        )
        return PluginLoadError(
            f"plugin {record.title} cannot be loaded: {summary}",
            hint=f"{more}; update it, or run `llmasos plugin disable {record.id}`",
        )


class Snapshot:
    """The process state a failing import may have changed."""

    def __init__(self) -> None:
        self.modules = dict(sys.modules)
        self.path = list(sys.path)
        self.meta_path = list(sys.meta_path)
        self.environ = dict(os.environ)

    def restore(self, module: str, package: str) -> None:
        """Take back what a plugin added.

        Third-party modules that finished importing stay: taking a C extension such as numpy out of ``sys.modules`` makes
        the next import of it fail, for everyone. Modules of the plugin itself, modules put there by hand and modules that
        replaced others do not stay.
        """
        top = module.partition(".")[0]
        folder = os.path.realpath(package) + os.sep
        for name, value in list(sys.modules.items()):
            if self.modules.get(name) is value:
                continue
            if name in self.modules:
                sys.modules[name] = self.modules[name]
            elif name.partition(".")[0] == top or not _was_imported(value) or _lies_in(value, folder):
                del sys.modules[name]
        sys.path[:] = self.path
        sys.meta_path[:] = self.meta_path
        for name in set(os.environ) - set(self.environ):
            del os.environ[name]
        for name, text in self.environ.items():
            if os.environ.get(name) != text:
                os.environ[name] = text
        importlib.invalidate_caches()


def _was_imported(module: object) -> bool:
    return getattr(module, "__spec__", None) is not None


def _lies_in(module: object, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and os.path.realpath(file).startswith(folder)


def check_origin(module: ModuleType, record: PluginRecord) -> None:
    """The imported module must be the one the manifest lies beside, not a namesake. Raises PluginLoadError."""
    file = getattr(module, "__file__", None)
    places = [file] if isinstance(file, str) else list(getattr(module, "__path__", []))
    folder = os.path.realpath(record.package)
    if not any(
        os.path.realpath(place).startswith(folder + os.sep) or os.path.realpath(place) == folder
        for place in places
    ):
        raise PluginLoadError(
            f"module {module.__name__} was imported from {places[0] if places else 'nowhere'}, not from {record.package}",
            hint="another package or folder on sys.path has the same name",
        )


def implementations(
    manager: pluggy.PluginManager, module: ModuleType
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Attribute name -> (hook name without prefix, marker options) of every marked implementation in a module."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name in dir(module):
        options = manager.parse_hookimpl_opts(module, name)
        if options is not None:
            hook = str(options.get("specname") or name)
            found[name] = (hook, dict(options))
    return found


def check_implementations(
    manager: pluggy.PluginManager, module: ModuleType, manifest: Mapping[str, Any]
) -> None:
    """Implemented hooks must be exactly those the manifest promises, and well formed. Raises PluginLoadError."""
    wanted = set(manifest.get("hooks", [])) | {
        HOOK_OF_KIND[item["kind"]] for item in manifest.get("provides", [])
    }
    known = [f"llmasos_{name}" for name in HOOKS]
    delivered: set[str] = set()
    for attribute, (hook, options) in implementations(manager, module).items():
        where = f"{module.__name__}.{attribute}"
        if hook not in known:
            if options.get("optionalhook"):
                continue
            raise PluginLoadError(
                f"{where} implements an unknown hook `{hook}`{did_you_mean(hook, known)}",
                hint="docs/reference/hooks.md lists the hooks",
            )
        name = hook.removeprefix("llmasos_")
        delivered.add(name)
        if options.get("tryfirst") or options.get("trylast"):
            raise PluginLoadError(
                f"{where} asks for a place in the order", hint="the order is by plugin id; remove the option"
            )
        wraps = options.get("wrapper") or options.get("hookwrapper")
        if wraps and HOOKS[name].policy != "wrap":
            raise PluginLoadError(
                f"{where} wraps `{hook}`, whose policy is {HOOKS[name].policy}",
                hint="only wrap hooks take wrappers",
            )
        arguments = inspect.signature(getattr(specs, hook)).parameters
        for parameter in inspect.signature(getattr(module, attribute)).parameters.values():
            if parameter.name not in arguments:
                raise PluginLoadError(
                    f"{where} takes an argument `{parameter.name}`, which {hook} does not have"
                    f"{did_you_mean(parameter.name, arguments)}",
                    hint=f"arguments: {', '.join(arguments) or 'none'}",
                )
            if parameter.default is not inspect.Parameter.empty:
                # pluggy 1.6 never passes such an argument, 1.7 does.
                raise PluginLoadError(
                    f"{where} gives the argument `{parameter.name}` a default value",
                    hint="remove the default value",
                )
    if missing := sorted(wanted - delivered):
        raise PluginLoadError(
            f"the manifest promises `{missing[0]}` but {module.__name__} does not implement llmasos_{missing[0]}",
            hint="implement it, or take it out of llmasos.toml",
        )
    if extra := sorted(delivered - wanted):
        kind = HOOKS[extra[0]].kind
        place = f'a [[provides]] table of kind = "{kind}"' if kind else "`hooks`"
        raise PluginLoadError(
            f"{module.__name__} implements llmasos_{extra[0]}, which the manifest does not promise",
            hint=f"add it to {place}",
        )


def check_promises(
    kind: str, promised: list[str], delivered: list[Contribution]
) -> dict[tuple[str, str], Contribution]:
    """Names delivered must be those promised, both ways, each once. Raises PluginLoadError."""
    found: dict[tuple[str, str], Contribution] = {}
    for item in delivered:
        if (kind, item.name) in found:
            raise PluginLoadError(f"{kind} `{item.name}` is delivered twice")
        module, _, attribute = item.factory.partition(":")
        if not module or not attribute:
            raise PluginLoadError(
                f"{kind} `{item.name}` has the factory {item.factory!r}", hint='write "module:attribute"'
            )
        found[kind, item.name] = item
    names = {name for _, name in found}
    if missing := sorted(set(promised) - names):
        raise PluginLoadError(
            f"the manifest promises the {kind} `{missing[0]}`, which is not delivered{did_you_mean(missing[0], names - set(promised))}"
        )
    if extra := sorted(names - set(promised)):
        raise PluginLoadError(
            f"the {kind} `{extra[0]}` is delivered but not promised{did_you_mean(extra[0], set(promised) - names)}",
            hint="add it to [[provides]] in llmasos.toml",
        )
    return found


def cause(error: BaseException) -> str:
    """One printable line for an exception: its own words for our errors, ``Type: text`` for others."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    text = error.message if isinstance(error, LlmasosError) else str(error)
    first = (text.strip().splitlines() or [""])[0]
    line = "".join(letter if letter.isprintable() else "?" for letter in first)
    if isinstance(error, LlmasosError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
