"""What enabled plugins offer, asked one by one: a plugin the user did not name never stops a run, a named one says why.

Used by the pipelines that choose among contributions (formats, back ends, ops).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llmasos.contracts.base import Contribution
from llmasos.errors import AmbiguousName, LlmasosError, MissingDependency, PluginCallError, PluginError

if TYPE_CHECKING:
    from llmasos.kernel.hub import KernelHub

Offer = TypeVar("Offer", bound=Contribution)
Chosen = TypeVar("Chosen")
Answer = TypeVar("Answer")


def offers(hub: KernelHub, kind: str, form: type[Offer]) -> Iterator[tuple[str, Offer]]:
    """(full name, descriptor) of a kind from every enabled plugin; a plugin that fails is one warning and left out."""
    for collected in hub.collect(kind):
        yield f"{collected.plugin}/{collected.item.name}", cast(Offer, collected.item)


def usable(hub: KernelHub, kind: str, name: str) -> Any | None:
    """The object behind a contribution the user did not name, or None with one warning when it cannot be loaded."""
    try:
        return hub.get(kind, name)
    except (PluginError, MissingDependency) as error:
        hub.warn(error.message)
        return None


def accepting(hub: KernelHub, kind: str, name: str, path: Path) -> Any | None:
    """The format behind a contribution, when it accepts ``path``."""
    factory = usable(hub, kind, name)
    if factory is None:
        return None

    def ask() -> Any | None:
        form = factory()
        return form if form.accepts(path) else None

    return asked(hub, kind, name, ask)


def asked(hub: KernelHub, kind: str, name: str, question: Callable[[], Answer]) -> Answer | None:
    """The answer of a contribution the user did not name, or None with one warning when it raises.

    What it says in the errors of llmasos.api is about the user's files and passes.
    """
    try:
        return question()
    except LlmasosError:
        raise
    except Exception as error:
        hub.warn(
            f"{kind} {name}{_version(hub, kind, name)} was left out: it raised {type(error).__name__}: {error}"
        )
        return None


def best(accepting: Sequence[tuple[int, str, Chosen]], what: str) -> tuple[Chosen, str]:
    """The entry of the highest priority. Raises AmbiguousName when two share it: nothing is chosen silently."""
    highest = max(priority for priority, _, _ in accepting)
    best = sorted((name, item) for priority, name, item in accepting if priority == highest)
    if len(best) > 1:
        raise ambiguous(what, [name for name, _ in best])
    return best[0][1], best[0][0]


def ambiguous(what: str, names: Sequence[str]) -> AmbiguousName:
    return AmbiguousName(
        f"{what} is claimed by {' and '.join(names)}",
        hint="disable all but one with `llmasos plugin disable`, or run with --only",
    )


def chosen(hub: KernelHub, kind: str, name: str, work: Callable[[], Answer]) -> Answer:
    """The result of work that a chosen contribution does. What it raises besides the errors of llmasos.api becomes a
    PluginCallError that names plugin, version and cause."""
    try:
        return work()
    except LlmasosError:
        raise
    except Exception as error:
        raise PluginCallError(
            f"{kind} {name}{_version(hub, kind, name)} raised {type(error).__name__}: {error}",
            hint=f"report it to the plugin's author; `llmasos plugin info {name.partition('/')[0]}` shows where it comes from",
        ) from error


def _version(hub: KernelHub, kind: str, name: str) -> str:
    plugin = next((p.plugin for p in hub.names(kind) if p.full_name == name), None)
    return f" {plugin.version}" if plugin else ""
