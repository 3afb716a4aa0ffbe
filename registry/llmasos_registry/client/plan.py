"""What would change, shown before it happens: every step, who signed it, what it may do, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmasos.errors import PluginError
from llmasos.sizes import size_text
from llmasos_registry.client.environment import Environment, Installed, applies, fits
from llmasos_registry.client.locked import LockedModel, LockedWheel
from llmasos_registry.client.resolver import RequirementsConflict
from llmasos_registry.client.sources import NO_SIGNATURES, Signatures
from llmasos_registry.wheel.archive import WheelFacts

#: A key's id as a person compares it: the first digits.
_KEY_SHOWN = len("sha256:") + 16


class Signer(NamedTuple):
    """Who answers for a wheel or model. ``state``: ``pinned``, ``new`` (pinned when the plan is carried out), ``unsigned``, or
    ``index`` (a library of the index behind the registry: only its digest is known)."""

    publisher: str | None
    keyid: str | None
    state: Literal["pinned", "new", "unsigned", "index"]

    def __str__(self) -> str:
        if self.state == "index":
            return "the package index (not signed)"
        if self.keyid is None:
            return f"{self.publisher} (not signed)"
        trust = "key pinned" if self.state == "pinned" else "NEW key, will be pinned"
        return f"{self.publisher} ({self.keyid[:_KEY_SHOWN]}, {trust})"


@dataclass(frozen=True, slots=True)
class Step:
    """One distribution that is added, changed or removed. ``permissions`` are None for what is no plugin."""

    action: Literal["add", "change", "remove"]
    name: str
    before: str | None = None
    after: str | None = None
    wheel: LockedWheel | None = None
    signatures: Signatures = NO_SIGNATURES
    signer: Signer | None = None
    locked_keyid: str | None = None
    plugin_id: str | None = None
    summary: str | None = None
    permissions: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelStep:
    """One model or dataset that is fetched."""

    model: LockedModel
    signer: Signer
    size: int
    #: The request that it answers, for the store to remember; None for a lock, which names commits.
    asked: str | None = None
    #: The signature, read when the plan was made.
    bundle: bytes | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, and what should be known before saying yes."""

    steps: tuple[Step, ...] = ()
    models: tuple[ModelStep, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing would happen."""
        return not self.steps and not self.models

    def to_json(self) -> dict[str, Any]:
        """The plan as ``--json`` prints it."""
        return {
            "steps": [_step_json(step) for step in self.steps],
            "models": [
                {
                    "action": "fetch",
                    "kind": step.model.kind,
                    "id": step.model.id,
                    "version": step.model.version,
                    "commit": step.model.commit,
                    "bytes": step.size,
                    "signer": step.signer._asdict(),
                }
                for step in self.models
            ],
            "warnings": list(self.warnings),
        }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "action": step.action,
        "name": step.name,
        "before": step.before,
        "after": step.after,
        "plugin": step.plugin_id,
        "summary": step.summary,
        "permissions": None if step.permissions is None else dict(step.permissions),
        "sha256": None if step.wheel is None else step.wheel.sha256,
        "bytes": None if step.wheel is None else step.wheel.size,
        "signer": None if step.signer is None else step.signer._asdict(),
    }


def describe(plan: Plan) -> str:
    """The plan for people, a paragraph a plugin, a line a library."""
    lines: list[str] = []
    for step in plan.steps:
        change = {
            "add": f"add     {step.name} {step.after}",
            "change": f"change  {step.name} {step.before} -> {step.after}",
            "remove": f"remove  {step.name} {step.before}",
        }[step.action]
        size = f"  ({size_text(step.wheel.size)})" if step.wheel is not None and step.wheel.size else ""
        lines.append(change + size)
        if step.signer is not None:
            lines.append(f"          from {step.signer}")
        if step.permissions is not None:
            lines.append(f"          may  {permissions_text(step.permissions)}")
    for item in plan.models:
        title = f"{item.model.kind} {item.model.id} {item.model.version or item.model.commit[:12]}"
        lines += [f"fetch   {title}  ({size_text(item.size)})", f"          from {item.signer}"]
    # One line each, whatever a stranger wrote into a reason.
    lines += [f"warning: {' '.join(text.split())}" for text in plan.warnings]
    return "\n".join(lines) or "nothing to do"


def permissions_text(permissions: Mapping[str, Any]) -> str:
    """A manifest's ``[permissions]`` in words. A declaration, not a sandbox."""
    network = [str(host) for host in permissions.get("network") or ()]
    files = {
        "none": "read no files",
        "read": "read the files you name",
        "cache": "write below the cache folder",
        "user": "write where it likes",
    }.get(str(permissions.get("filesystem", "cache")), "?")
    parts = [files, f"talk to {', '.join(network)}" if network else "not use the network"]
    if permissions.get("subprocess"):
        parts.append("start other programs")
    if permissions.get("runs_remote_code"):
        parts.append("RUN CODE THAT IT FETCHED")
    return "; ".join(parts) + " (as it declares; it runs with your rights)"


def consent_text(permissions: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Permissions in a form that two can be compared in: defaults filled in, order gone."""
    return (
        ("network", "\n".join(sorted(str(host) for host in permissions.get("network") or ()))),
        ("filesystem", str(permissions.get("filesystem", "cache"))),
        ("subprocess", str(bool(permissions.get("subprocess")))),
        ("runs_remote_code", str(bool(permissions.get("runs_remote_code")))),
    )


def check_consistency(
    environment: Environment, arriving: Iterable[WheelFacts], leaving: Iterable[str] = ()
) -> None:
    """After the plan, everything that arrives has what it requires, and nothing that worked before is broken.

    Decided from metadata alone. Raises RequirementsConflict naming who requires what and what would be there.
    """
    new = {facts.name: facts for facts in arriving}
    gone = set(leaving)
    after: dict[str, str] = {
        name: one.version for name, one in environment.installed.items() if name not in gone
    }
    after.update({name: facts.version for name, facts in new.items()})
    problems: list[str] = []
    for facts in new.values():
        title = f"{facts.name} {facts.version}"
        problems += _broken(title, [Requirement(line) for line in facts.requires_dist], after)
    for one in environment.installed.values():
        if one.name in after and one.name not in new:
            problems += _newly_broken(one, environment, after)
    if problems:
        shown = "\n".join(f"  {line}" for line in problems[:12])
        raise RequirementsConflict(
            f"this would leave requirements unmet:\n{shown}",
            hint="ask for other versions, or use an environment of its own",
        )


def _newly_broken(one: Installed, environment: Environment, after: Mapping[str, str]) -> list[str]:
    before = {name: item.version for name, item in environment.installed.items()}
    requires = [line for line in one.requires if applies(line)]
    worked = [line for line in requires if not _broken("", [line], before)]
    return _broken(f"{one.name} {one.version}, which is installed,", worked, after)


def _broken(title: str, requires: Sequence[Requirement], after: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for line in requires:
        if not applies(line):
            continue
        version = after.get(canonicalize_name(line.name))
        if version is None:
            found.append(f"{title} requires {line}, which would not be there")
        elif not fits(line, version):
            found.append(f"{title} requires {line}, there would be {version}")
    return found


class PermissionsDiffer(PluginError):
    """A wheel declares other permissions than the plan showed."""
