"""The one way from a model reference to a model's files: the plugins that the model names are there, or nothing goes on.

Evaluation, generation, descriptions, tokenizers, data pipelines and the Python methods of the Hub all come through
``resolve_model``; a test holds every entry point to it. Nothing is installed without consent: that is the business of
``Hub.provision``, which the command line sets and which is None otherwise.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmasos.errors import PluginRequired
from llmasos.kernel.model_manifest import ModelManifest, read_model_manifest

if TYPE_CHECKING:
    from llmasos.contracts.model import ResolvedModel
    from llmasos.kernel.hub import KernelHub
    from llmasos.kernel.record import PluginRecord


def resolve_model(hub: KernelHub, ref: str, *, fetch: bool = True) -> ResolvedModel:
    """Where a model reference leads, when every plugin that the model requires can be used.

    Without ``fetch`` only a model that is here already is found. What is missing is offered to ``hub.provision``. Raises ModelNotFound, ManifestError for a malformed ``llmasos.toml``,
    PluginRequired with the command to run when the user did not consent, and what provisioning raises.
    """
    resolved = hub.locate_model(ref, fetch=fetch)
    meet(hub, model_manifest(resolved.path).requires, ref)
    return resolved


def meet(hub: KernelHub, requires: Sequence[str], ref: str) -> None:
    """The plugins that the model ``ref`` requires can be used, perhaps since just now. Raises as ``resolve_model``."""
    missing = unmet(hub, requires)
    if not missing:
        return
    wanted = [requirement for requirement, _, _ in missing]
    provision = hub.provision if all(installable for _, _, installable in missing) else None
    if provision is not None and provision(wanted, f"model {ref}"):
        hub.refresh()
        missing = unmet(hub, requires)
    if missing:
        raise _required(ref, missing)


def model_manifest(path: Path) -> ModelManifest:
    """The model's own ``llmasos.toml``: in its folder, or beside a single weight file. Empty when there is none."""
    folder = path if path.is_dir() else path.parent
    return read_model_manifest(folder) or ModelManifest()


def unmet(hub: KernelHub, requires: Sequence[str]) -> list[tuple[str, str, bool]]:
    """(requirement, why it is not met, whether installing something could help), for each that is not met."""
    found: list[tuple[str, str, bool]] = []
    for line in requires:
        problem = _problem(hub, Requirement(line))
        if problem is not None:
            found.append((line, *problem))
    return found


def _problem(hub: KernelHub, requirement: Requirement) -> tuple[str, bool] | None:
    name = canonicalize_name(requirement.name)
    records = [record for record in hub.inventory if _distribution(record) == name]
    if not records:
        if hub.inventory.no_plugins:
            return "installed plugins are switched off; leave out --no-plugins", False
        return "is not installed", True
    for record in records:
        if not record.local and not _fits(requirement, record.version):
            return f"installed is {record.version}", True
        if record.state != "enabled":
            # An incompatible plugin may have a version that fits; the others need the user's decision.
            return f"is {record.state}: {record.why}", record.state == "incompatible"
    return None


def _distribution(record: PluginRecord) -> str:
    """The name a requirement would use. A local plugin has no distribution; the user named its folder, so its id counts."""
    return canonicalize_name(record.id if record.local else record.distribution)


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _required(ref: str, missing: Sequence[tuple[str, str, bool]]) -> PluginRequired:
    reasons = "; ".join(f"`{line}` {why}" for line, why, _ in missing)
    wanted = [line for line, _, _ in missing]
    hint = "llmasos install " + " ".join(shlex.quote(line) for line in wanted)
    if not all(installable for _, _, installable in missing):
        hint = (
            "`llmasos plugin info NAME` says more, `llmasos plugin enable NAME` uses a disabled plugin again"
        )
    return PluginRequired(f"{ref} requires plugins that cannot be used here: {reasons}", wanted, hint=hint)
