"""The kernel's Hub: one environment's plugins, found without importing, loaded when used, called through hooks.

No globals: everything hangs off the object, and many may live in one process. ``llmasos.Hub`` adds the pipelines.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from llmasos.config import Config, load_config
from llmasos.contracts.base import Contribution
from llmasos.contracts.evaluation import Progress, TaskDef
from llmasos.contracts.hub import PluginInfo, Provided
from llmasos.contracts.model import ResolvedModel
from llmasos.contracts.runtime import BackendRequest
from llmasos.errors import LlmasosError, MissingDependency, ModelNotFound, PluginCallError, PluginLoadError
from llmasos.hooks.calls import Collected, HookCalls, HookPlugin, new_manager
from llmasos.hooks.specs import HOOKS
from llmasos.kernel.catalog import Catalog, Entry, label
from llmasos.kernel.inventory import Inventory
from llmasos.kernel.loader import LoadedPlugin, Loader, cause
from llmasos.kernel.local import LocalFinder, install_finder, remove_finder
from llmasos.kernel.record import PluginRecord
from llmasos.kernel.settings import plugin_settings


def _warn_on_stderr(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _trace_on_stderr(line: str) -> None:
    print(f"trace: {line}", file=sys.stderr)


#: Given requirement lines and what needs them, installs them and says whether it did.
Provision = Callable[[Sequence[str], str], bool]


class KernelHub:
    """Plugins, names and hooks of one environment.

    Arguments left at None take the setting of ``llmasos.config`` (environment variable, file, default).

    ``plugins`` are folders of local plugins; ``only`` restricts installed plugins to these ids; ``no_plugins`` leaves
    installed plugins out. ``provision`` is asked when a model requires plugins that are not there. ``warn`` receives one line for each failure that the user did not ask to hear as an error.
    """

    def __init__(
        self,
        *,
        cache_dir: Path | str | None = None,
        config_dir: Path | str | None = None,
        data_dir: Path | str | None = None,
        offline: bool | None = None,
        strict: bool | None = None,
        trace_plugins: bool | None = None,
        no_plugins: bool | None = None,
        only: Sequence[str] | None = None,
        plugins: Iterable[Path | str] = (),
        registry: str | None = None,
        provision: Provision | None = None,
        warn: Callable[[str], None] | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        flags = {
            "cache_dir": cache_dir,
            "config_dir": config_dir,
            "data_dir": data_dir,
            "offline": offline,
            "strict": strict,
            "trace_plugins": trace_plugins,
            "no_plugins": no_plugins,
            "registry": registry,
        }
        self.config: Config = load_config(flags)
        self.cache_dir: Path = self.config.cache_dir
        self.data_dir: Path = self.config.data_dir
        self.offline: bool = self.config.offline
        #: Installs what a model requires, after the user consented; None refuses. Does not travel to worker processes.
        self.provision: Provision | None = provision
        #: Who watches long work of hooks that are given no progress of their own, such as fetching a model.
        self.progress: Progress | None = None
        #: Takes one line for each failure that is not an error of what the user asked for.
        self.warn: Callable[[str], None] = warn or _warn_on_stderr
        tracer = (trace or _trace_on_stderr) if self.config.trace_plugins else None
        # The settings in force, not the arguments: a worker may run in another directory or environment.
        self._arguments: dict[str, Any] = {
            **{name: getattr(self.config, name) for name in flags},
            "only": None if only is None else tuple(only),
            "plugins": tuple(Path(folder).resolve() for folder in plugins),
        }
        self.inventory = self._look()
        self.catalog = Catalog(self.inventory)
        self._manager = new_manager()
        self._calls = HookCalls(self._manager, warn=self.warn, trace=tracer, strict=self.config.strict)
        self._loader = Loader(self._manager, self._calls, self.inventory.quarantine, trace=tracer)
        self._failed: dict[str, LlmasosError] = {}
        self._finders: list[LocalFinder] = []
        for record in self.inventory.enabled():
            if record.local and (finder := install_finder(record)) is not None:
                self._finders.append(finder)

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        # What is loaded stays behind: a worker process finds the same plugins again and loads what it uses.
        return partial(type(self), **self._arguments), ()

    def _look(self) -> Inventory:
        return Inventory(
            self.cache_dir,
            self.config.config_dir,
            no_plugins=self.config.no_plugins,
            only=self._arguments["only"],
            local=self._arguments["plugins"],
        )

    def refresh(self) -> None:
        """Look at the environment again: something was installed or removed. What is loaded stays loaded."""
        importlib.invalidate_caches()
        self.inventory = self._look()
        self.catalog = Catalog(self.inventory)
        self._failed = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget local plugins: their finders and their modules. Installed plugins stay imported, as modules do."""
        for finder in self._finders:
            remove_finder(finder)
            for name in [name for name in sys.modules if name.partition(".")[0] == finder.name]:
                del sys.modules[name]
        self._finders = []

    # ---- names ----

    def names(self, kind: str) -> Sequence[Provided]:
        """Everything enabled plugins promise of one kind, sorted by full name. Imports nothing."""
        return [_provided(entry) for entry in self.catalog.entries(kind)]

    def matching(self, kind: str, **facts: str | Iterable[str]) -> Sequence[Provided]:
        """What enabled plugins promise of one kind and declare to match any of the facts. Imports nothing.

        For example ``matching("model_architecture", model_type="llama")`` or
        ``matching("weight_loader", files=["model.safetensors"])``.
        """
        return [_provided(entry) for entry in self.catalog.matching(kind, facts)]

    def contribution(self, kind: str, name: str) -> Contribution:
        """The descriptor behind a bare or full name; imports that plugin only.

        Raises UnknownName with near misses, AmbiguousName naming the providers, PluginLoadError.
        """
        entry = self.catalog.find(kind, name)
        return self._load(entry.record).contributions[kind, entry.name]

    def get(self, kind: str, name: str) -> Any:
        """The object behind a contribution: its factory path, imported; for a task, the Path of its file.

        Raises what ``contribution`` raises; MissingDependency when the factory needs a package that is not installed;
        PluginLoadError when the factory itself is broken.
        """
        entry = self.catalog.find(kind, name)
        item = self._load(entry.record).contributions[kind, entry.name]
        if isinstance(item, TaskDef):
            return self._data_file(entry, item.factory)
        return self._factory(entry, item.factory)

    def collect(self, kind: str) -> list[Collected]:
        """Descriptors of one kind from every enabled plugin; a plugin that fails is one warning and is left out."""
        found: list[Collected] = []
        for record in self._providers(entry.record for entry in self.catalog.entries(kind)):
            loaded = self._try_load(record)
            if loaded is not None:
                found.extend(
                    Collected(record.id, item) for (k, _), item in loaded.contributions.items() if k == kind
                )
        return sorted(found, key=lambda entry: (entry.plugin, entry.item.name))

    def explain(self, kind: str, name: str) -> list[str]:
        """Why a name means what it means, or nothing: one line for each plugin that was considered. Imports nothing."""
        lines: list[str] = []
        for record in self.inventory:
            offers = [item["name"] for item in record.provides() if item["kind"] == kind]
            if not any(name in (offer, f"{record.id}/{offer}") for offer in offers):
                reason = f"provides no {label(kind)} `{name}`" if not record.error else record.error
                lines.append(f"no: {record.title}: {reason}")
            elif record.state != "enabled":
                lines.append(f"no: {record.title}: {record.state}: {record.why}")
            else:
                lines.append(f"yes: {record.title}: {record.summary}")
                lines.extend(f"    {step}" for step in record.trace)
        return lines

    # ---- hooks ----

    def first(self, hook: str, default: Callable[..., Any] | None = None, /, **arguments: Any) -> Any:
        """Call a *first* hook of every plugin that lists it, in the order of ids, until one answers."""
        return self._calls.first(hook, self._implementing(hook, "first"), arguments, default)[1]

    def notify(self, hook: str, /, **arguments: Any) -> None:
        """Call a *notify* hook of every plugin that lists it."""
        self._calls.notify(hook, self._implementing(hook, "notify"), arguments)

    def wrap(self, hook: str, default: Callable[..., Any] | None = None, /, **arguments: Any) -> Any:
        """Call a *wrap* hook: the first answer, with wrappers around it."""
        return self._calls.wrap(hook, self._implementing(hook, "wrap"), arguments, default)

    def select_backend(self, request: BackendRequest, candidates: tuple[str, ...]) -> str:
        """Ask ``select_backend``; the kernel's default is the first candidate. Raises PluginCallError for another name."""
        plugin, answer = self._calls.first(
            "select_backend",
            self._implementing("select_backend", "first"),
            {"request": request, "candidates": candidates},
            lambda request, candidates: candidates[0],
        )
        if answer not in candidates:
            raise PluginCallError(
                f"hook llmasos_select_backend of {plugin} answered {answer!r}, which is not a candidate",
                hint=f"candidates: {', '.join(candidates)}",
            )
        return str(answer)

    def locate_model(self, ref: str, *, fetch: bool = True) -> ResolvedModel:
        """Where a model reference leads, whatever plugins the model needs: pipelines call
        ``llmasos.pipelines.requirements.resolve_model``, which looks at that too.

        Without ``fetch`` only what is here already is looked at. Raises ModelNotFound, PluginCallError for an answer that is none.
        """
        offline, self.offline = self.offline, self.offline or not fetch
        try:
            return self._locate(ref)
        finally:
            self.offline = offline

    def _locate(self, ref: str) -> ResolvedModel:
        plugin: str | None = None
        found: Any = None
        # One by one: a resolver behind the one that answers is not loaded, and so not in the record of a run either.
        for record in self.inventory.enabled():
            if "resolve_model" in record.hooks() and (loaded := self._try_load(record)) is not None:
                plugin, found = self._calls.first("resolve_model", [loaded.hooks], {"ref": ref, "hub": self})
                if found is not None:
                    break
        if found is None:
            hint = "give a folder or file, registry://org/name, hf://org/name, or pypi:package/path"
            if not any("resolve_model" in record.hooks() for record in self.inventory.enabled()):
                hint = "no enabled plugin resolves model references; `llmasos plugin list` shows the plugins"
            raise ModelNotFound(f"no plugin understands the model reference `{ref}`", hint=hint)
        if not isinstance(found, ResolvedModel):
            raise PluginCallError(
                f"hook llmasos_resolve_model of {plugin} answered {found!r:.80}, which is not a ResolvedModel",
                hint=f"report it to the author of {plugin}, or run without it",
            )
        return found

    # ---- plugins ----

    def plugins_used(self) -> Sequence[PluginInfo]:
        """Plugins imported so far by this Hub, sorted by id."""
        return [plugin_info(loaded.record) for loaded in self._loader.loaded()]

    def plugins_here(self, ids: Iterable[str]) -> Sequence[PluginInfo]:
        """Of these plugins, those that are installed and enabled, sorted by id. Imports nothing."""
        wanted = set(ids)
        return [plugin_info(record) for record in self.inventory.enabled() if record.id in wanted]

    def plugin_settings(self, plugin_id: str) -> Mapping[str, Any]:
        """Values of the settings that a plugin's manifest declares: environment > config.toml > default.

        Raises UnknownName for a plugin that is not installed, ConfigError for a value of the wrong type.
        """
        return plugin_settings(self.inventory.get(plugin_id), self.config)

    def _load(self, record: PluginRecord) -> LoadedPlugin:
        if record.id in self._failed:
            raise self._failed[record.id].with_traceback(None)
        try:
            return self._loader.load(record)
        except LlmasosError as error:
            self._failed[record.id] = error
            raise

    def _try_load(self, record: PluginRecord) -> LoadedPlugin | None:
        """Load a plugin the user did not name: a failure is one warning line, once. Local plugins are named by the user."""
        hard = self.config.strict or record.local
        if record.id in self._failed and not hard:
            return None
        try:
            return self._load(record)
        except LlmasosError as error:
            if hard:
                raise
            self.warn(error.message)
            return None

    def _implementing(self, hook: str, policy: str) -> list[HookPlugin]:
        if HOOKS[hook].policy != policy:
            raise ValueError(f"hook {hook} has the policy {HOOKS[hook].policy}, not {policy}")
        records = [record for record in self.inventory.enabled() if hook in record.hooks()]
        return [loaded.hooks for record in records if (loaded := self._try_load(record)) is not None]

    @staticmethod
    def _providers(records: Iterable[PluginRecord]) -> list[PluginRecord]:
        return [record for _, record in sorted({record.id: record for record in records}.items())]

    def _factory(self, entry: Entry, path: str) -> Any:
        module, _, attribute = path.partition(":")
        what = f"{label(entry.kind)} {entry.full_name} {entry.record.version}".strip()
        try:
            value: Any = importlib.import_module(module)
            for part in attribute.split("."):
                value = getattr(value, part)
            return value
        except LlmasosError:
            raise
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing and missing != module.partition(".")[0]:
                requires = entry.record.manifest.get("requires", {})
                hint = requires.get("extras_hint") or f"pip install {missing}"
                raise MissingDependency(
                    f"{what} needs the package `{missing}`, which is not installed", hint=hint
                ) from error
            raise _broken(what, path, error, entry.record) from error
        except (Exception, SystemExit) as error:
            raise _broken(what, path, error, entry.record) from error

    def _data_file(self, entry: Entry, path: str) -> Path:
        """``package:path/inside``, where the package is the one the manifest lies in or one of its parents' names."""
        package, _, inside = path.partition(":")
        what = f"{label(entry.kind)} {entry.full_name} {entry.record.version}".strip()
        module = importlib.import_module(package)
        for folder in getattr(module, "__path__", []):
            file = Path(folder, inside)
            # A plugin names files of its own package only, so that a record can say which plugin a task came from.
            if file.is_file() and file.resolve().is_relative_to(Path(folder).resolve()):
                return file
        raise PluginLoadError(
            f"{what} names the file {path}, which does not exist", hint="reinstall the plugin"
        )


def _broken(what: str, path: str, error: BaseException, record: PluginRecord) -> PluginLoadError:
    return PluginLoadError(
        f"{what} cannot be loaded from {path}: {cause(error)}",
        hint="LLMASOS_STRICT=1 shows the traceback" + ("" if record.local else "; report it to the author"),
    )


def plugin_info(record: PluginRecord) -> PluginInfo:
    """A plugin as records name it."""
    return PluginInfo(record.id, record.version, record.distribution, record.path)


def _provided(entry: Entry) -> Provided:
    return Provided(
        kind=entry.kind,
        name=entry.name,
        full_name=entry.full_name,
        plugin=plugin_info(entry.record),
        summary=str(entry.table.get("summary", "")),
        matches={key: tuple(values) for key, values in entry.table.get("matches", {}).items()},
        capabilities=dict(entry.table.get("capabilities", {})),
    )
