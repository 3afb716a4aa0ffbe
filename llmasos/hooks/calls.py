"""The four ways to call a hook: collect, first, notify, wrap.

pluggy validates signatures and passes arguments; what it does not do is done here: a deterministic order (plugin id),
isolation of one plugin's failure from the others, attribution of every failure to a plugin and its version, timing and
tracing. Collect, first and notify call plugin by plugin; wrap is one pluggy call over all of them, because wrappers of one
plugin go around another's implementation.

Errors: a LlmasosError raised inside a first or wrap hook passes unchanged, because it already says what the user needs;
anything else becomes PluginCallError naming plugin, version, hook and cause. KeyboardInterrupt always propagates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, TracebackType
from typing import Any, NamedTuple

import pluggy

from llmasos.contracts.base import Contribution
from llmasos.errors import LlmasosError, PluginCallError
from llmasos.hooks import specs
from llmasos.hooks.markers import PROJECT

#: A hook slower than this is pointed out in the trace: hooks choose objects, they do no work. Seconds.
SLOW_HOOK = 0.5
#: Hooks that do the work of a whole run are not slow by taking long.
LONG_HOOKS = frozenset({"run_evaluation", "resolve_model"})


class HookPlugin(NamedTuple):
    """A loaded plugin as the calls see it: ``module`` is the object registered with pluggy."""

    id: str
    version: str
    module: Any
    #: A folder given with ``--plugin``, not an installed distribution.
    local: bool = False

    @property
    def title(self) -> str:
        """``id version``, as errors name it."""
        return f"{self.id} {self.version}".strip()


class Collected(NamedTuple):
    """One descriptor and the plugin that delivered it."""

    plugin: str
    item: Contribution


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the specifications and nothing else."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(specs)
    return manager


class HookCalls:
    """Calls hooks of the plugins registered with one manager.

    ``warn`` gets one line for each isolated failure, ``trace`` one line for each call when tracing is on. With ``strict``
    isolated failures are raised instead.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        *,
        warn: Callable[[str], None],
        trace: Callable[[str], None] | None = None,
        strict: bool = False,
    ) -> None:
        self._manager = manager
        self._warn = warn
        self._trace = trace
        self._strict = strict

    def collect_one(self, hook: str, plugin: HookPlugin) -> list[Contribution]:
        """Everything one plugin's collect hook yields. Raises PluginCallError, also when it yields something else."""
        info = specs.HOOKS[hook]
        results = self._call_one(hook, plugin, {}, lambda value: [list(part) for part in value])
        items = [item for part in results for item in part]
        for item in items:
            if not isinstance(item, Contribution) or item.kind != info.kind:
                raise PluginCallError(
                    f"hook llmasos_{hook} of {plugin.title} yielded {item!r}, which is not a {info.kind} descriptor",
                    hint="yield the descriptor class that the hook's reference page names",
                )
        return items

    def collect(self, hook: str, plugins: Iterable[HookPlugin]) -> list[Collected]:
        """Ask every plugin; a failure is one warning line and the others go on. Sorted by plugin id, then name."""
        found: list[Collected] = []
        for plugin in _ordered(plugins):
            try:
                found.extend(Collected(plugin.id, item) for item in self.collect_one(hook, plugin))
            except LlmasosError as error:
                self._isolate(error)
        return sorted(found, key=lambda entry: (entry.plugin, entry.item.name))

    def first(
        self,
        hook: str,
        plugins: Iterable[HookPlugin],
        arguments: Mapping[str, Any],
        default: Callable[..., Any] | None = None,
    ) -> tuple[str | None, Any]:
        """Ask plugins in the order of their ids until one does not answer None; then the kernel's ``default``.

        Returns (plugin id or None for the default, answer). A failure ends the search: going on to another plugin would
        silently replace the one that should have answered.
        """
        for plugin in _ordered(plugins):
            answer = self._call_one(hook, plugin, arguments)
            if answer is not None:
                return plugin.id, answer
        return None, default(**arguments) if default is not None else None

    def notify(self, hook: str, plugins: Iterable[HookPlugin], arguments: Mapping[str, Any]) -> None:
        """Tell every plugin; return values are ignored, each failure is one warning line."""
        for plugin in _ordered(plugins):
            try:
                self._call_one(hook, plugin, arguments)
            except LlmasosError as error:
                self._isolate(error)

    def wrap(
        self,
        hook: str,
        plugins: Iterable[HookPlugin],
        arguments: Mapping[str, Any],
        default: Callable[..., Any] | None = None,
    ) -> Any:
        """The first answer that is not None, with every plugin's wrappers around it: lower ids are further out."""
        ordered = _ordered(plugins)
        # pluggy calls in reverse order of registration, and plugins were registered in the order of first use. A fresh
        # manager makes the order a function of the ids alone; a wrap hook is called once in a run, so the cost is nothing.
        manager = new_manager()
        for plugin in reversed(ordered):
            manager.register(plugin.module, name=plugin.id)
        started = time.perf_counter()
        caller = getattr(manager.hook, f"llmasos_{hook}")
        try:
            answer = caller(**arguments)
        except LlmasosError:
            raise
        except (Exception, SystemExit) as error:
            raise self._attribute(hook, ordered, error) from error
        finally:
            self._note(hook, ", ".join(plugin.id for plugin in ordered) or "no plugin", started)
        return default(**arguments) if answer is None and default is not None else answer

    def _call_one(
        self,
        hook: str,
        plugin: HookPlugin,
        arguments: Mapping[str, Any],
        consume: Callable[[Any], Any] | None = None,
    ) -> Any:
        others = [other for other in self._manager.get_plugins() if other is not plugin.module]
        caller = self._manager.subset_hook_caller(f"llmasos_{hook}", others)
        started = time.perf_counter()
        try:
            answer = caller(**arguments)
            # Collect hooks are generators: their bodies run here, inside the guard.
            return consume(answer) if consume is not None else answer
        except LlmasosError:
            raise
        except (Exception, SystemExit) as error:
            raise call_error(hook, plugin, error) from error
        finally:
            self._note(hook, plugin.title, started)

    def _isolate(self, error: LlmasosError) -> None:
        if self._strict:
            raise error
        self._warn(error.message)

    def _note(self, hook: str, who: str, started: float) -> None:
        if self._trace is None:
            return
        seconds = time.perf_counter() - started
        slow = "  SLOW" if seconds > SLOW_HOOK and hook not in LONG_HOOKS else ""
        self._trace(f"hook llmasos_{hook} {who} {seconds * 1000:.1f} ms{slow}")

    @staticmethod
    def _attribute(hook: str, plugins: Sequence[HookPlugin], error: BaseException) -> PluginCallError:
        owner = blame(error, plugins)
        if owner is not None:
            return call_error(hook, owner, error)
        names = ", ".join(plugin.title for plugin in plugins)
        return PluginCallError(
            f"hook llmasos_{hook} failed in one of {names}: {_cause(error)}",
            hint="--trace-plugins shows which was running; --only leaves plugins out",
        )


def call_error(hook: str, plugin: HookPlugin, error: BaseException) -> PluginCallError:
    """The error that names plugin, version, hook and cause."""
    without = "leave its --plugin out" if plugin.local else f"run `llmasos plugin disable {plugin.id}`"
    return PluginCallError(
        f"hook llmasos_{hook} of {plugin.title} failed: {_cause(error)}",
        hint=f"LLMASOS_STRICT=1 shows the traceback; report it to the author of {plugin.id}, or {without}",
    )


def blame(error: BaseException, plugins: Sequence[HookPlugin]) -> HookPlugin | None:
    """The plugin whose implementation is innermost in the traceback: the one the error came from."""
    owners: dict[CodeType, HookPlugin] = {}
    for plugin in plugins:
        for value in vars(plugin.module).values():
            code = getattr(value, "__code__", None)
            if isinstance(code, CodeType):
                owners[code] = plugin
    found: HookPlugin | None = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        found = owners.get(step.tb_frame.f_code, found)
        step = step.tb_next
    return found


def _ordered(plugins: Iterable[HookPlugin]) -> list[HookPlugin]:
    return sorted(plugins, key=lambda plugin: plugin.id)


def _cause(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
