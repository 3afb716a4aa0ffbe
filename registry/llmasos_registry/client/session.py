"""One run of a command that installs: the environment, the registry or bundle, and what is trusted, held together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmasos.config import Config
from llmasos.contracts.evaluation import Progress
from llmasos.errors import UnknownName, UsageError
from llmasos.near_miss import did_you_mean
from llmasos_registry.client.catalogue import RegistryCatalogue
from llmasos_registry.client.connection import Connection
from llmasos_registry.client.credentials import connect
from llmasos_registry.client.environment import Environment, fits
from llmasos_registry.client.locked import LockedModel, LockedPackage, LockedPlugin, LockedWheel
from llmasos_registry.client.model_store import ModelStore
from llmasos_registry.client.plan import (
    ModelStep,
    PermissionsDiffer,
    Plan,
    Signer,
    Step,
    check_consistency,
    consent_text,
)
from llmasos_registry.client.pull import Reference, ask, fetch, plan_model
from llmasos_registry.client.resolver import Candidate, RequirementsConflict, Solution, Wish, resolve
from llmasos_registry.client.sources import Nowhere, RegistrySource, Signatures, Source
from llmasos_registry.client.tools import Index, Tool, find_tool
from llmasos_registry.client.transaction import Transaction
from llmasos_registry.client.verify import KeySource, Verifier, carried_keys, registry_keys
from llmasos_registry.client.wheelhouse import CheckedWheel, Wheelhouse
from llmasos_registry.signatures.errors import SignatureRefused

if TYPE_CHECKING:
    from collections.abc import Callable


class Workplace:
    """What plans are made and carried out with; where the bytes come from is the ``source``'s affair."""

    def __init__(
        self,
        config: Config,
        registry: str,
        source: Source,
        keys: KeySource,
        *,
        allow_unsigned: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.registry = registry
        self.source = source
        self.environment = Environment.current()
        folder = config.cache_dir / "registry"
        #: Looks, and trusts nothing new; for plans that may still be refused.
        self.examiner = Verifier(registry, config.config_dir, keys, allow_unsigned=allow_unsigned, pin=False)
        self.verifier = Verifier(registry, config.config_dir, keys, allow_unsigned=allow_unsigned, note=note)
        self.store = ModelStore(config.cache_dir, registry)
        self.wheelhouse = Wheelhouse(folder / "wheels", self.verifier)
        self._transactions = folder / "environments"
        self._tool: Tool | None = None

    @property
    def tool(self) -> Tool:
        """uv or pip, looked for when it is needed."""
        if self._tool is None:
            self._tool = find_tool()
        return self._tool

    # ---- plans ----

    def steps_for(
        self, packages: Iterable[LockedPackage], plugins: Iterable[LockedPlugin], *, locked: bool = False
    ) -> list[Step]:
        """What would change so that these packages are there. Raises RequirementsConflict where a wheel does not fit."""
        known = {one.name: one for one in plugins}
        steps = []
        for package in sorted(packages):
            before = self.environment.version(package.name)
            if before == package.version or not package.wheels:
                continue
            steps.append(self._step(package, before, known.get(package.name), locked))
        return steps

    def _step(
        self, package: LockedPackage, before: str | None, plugin: LockedPlugin | None, locked: bool
    ) -> Step:
        wheel = wheel_for_here(package)
        if self.environment.is_fact(package.name):
            raise RequirementsConflict(
                f"{package.name} {package.version} would replace {before or 'nothing'}, and {package.name} is never "
                "changed as a side effect",
                hint="use an environment that has it",
            )
        signatures = self.source.signatures(package.name, wheel.filename)
        if plugin is not None and signatures.publisher is None:
            raise SignatureRefused(
                f"{wheel.filename} is a plugin of {plugin.publisher}, and {self.source.title} names no publisher of it",
                hint="its signature was left out; nothing was installed",
            )
        keyid = plugin.keyid if locked and plugin is not None else None
        return Step(
            action="change" if before else "add",
            name=package.name,
            before=before,
            after=package.version,
            wheel=wheel,
            signatures=signatures,
            signer=self._signer(package, wheel, signatures, keyid),
            locked_keyid=keyid,
            plugin_id=None if plugin is None else plugin.id,
            summary=None if plugin is None else plugin.summary,
            permissions=None if plugin is None else plugin.permissions,
        )

    def examine(self, package: LockedPackage) -> Signer:
        """Who signed the wheel of a package for this machine. Raises SignatureRefused, TrustChanged."""
        wheel = wheel_for_here(package)
        signatures = self.source.signatures(package.name, wheel.filename)
        return self._signer(package, wheel, signatures, None)

    def _signer(
        self, package: LockedPackage, wheel: LockedWheel, signatures: Signatures, keyid: str | None
    ) -> Signer:
        if signatures.publisher is None:
            self.examiner.check_library(package.name, wheel.filename)
            return Signer(None, None, "index")
        known = self.examiner.trust.publisher(signatures.publisher)
        signed = self.examiner.verify_wheel(
            filename=wheel.filename,
            sha256=wheel.sha256,
            project=package.name,
            publisher=signatures.publisher,
            version=package.version,
            envelopes=signatures.envelopes,
            locked_keyid=keyid,
        )
        if signed is None:
            return Signer(signatures.publisher, None, "unsigned")
        return Signer(signatures.publisher, signed.keyid, "pinned" if known and known.keys else "new")

    def distribution_of(self, name: str) -> str:
        """The distribution that a user means: its own name, or the id of a plugin in it. Raises UnknownName, UsageError."""
        plugins = self.environment.plugins()
        wanted = canonicalize_name(name)
        found = next((one for one in plugins if one.name == wanted or name in one.plugins), None)
        if found is not None:
            return found.name
        own = self.environment.installed.get("llmasos")
        if own is not None and (wanted == "llmasos" or name in own.plugins):
            raise UsageError(
                f"{name} is part of llmasos", hint=f"leave it out of use with: llmasos plugin disable {name}"
            )
        known = sorted({one.name for one in plugins})
        raise UnknownName(
            f"no plugin `{name}` is installed{did_you_mean(name, known)}",
            hint=f"installed from elsewhere than llmasos itself: {', '.join(known) or 'none'}",
        )

    def removal(self, names: Iterable[str]) -> list[Step]:
        """Steps that remove installed distributions."""
        found = []
        for name in names:
            one = self.environment.installed[name]
            found.append(
                Step("remove", name, before=one.version, plugin_id=one.plugins[0] if one.plugins else None)
            )
        return found

    def model_step(self, model: LockedModel, *, locked: bool = False) -> ModelStep | None:
        """The step that fetches a model, or None."""
        return plan_model(model, self.store, self.source, self.examiner, locked=locked)

    # ---- carrying out ----

    def apply(self, plan: Plan, progress: Progress) -> list[CheckedWheel]:
        """Fetch and check everything, then change the environment whole or not at all. Returns what was installed.

        Models that were fetched stay when the environment could not be changed: they are complete and harm nobody.
        """
        transaction = Transaction(self._transactions, self.environment, self.tool) if plan.steps else None
        wheels = self._fetch_wheels(plan, progress)
        check_consistency(
            self.environment,
            [one.facts for one in wheels],
            [step.name for step in plan.steps if step.action == "remove"],
        )
        if plan.models:
            progress.phase("fetching models (bytes)", sum(step.size for step in plan.models))
            fetch(plan.models, self.store, self.source, self.verifier, progress.advance)
        if transaction is not None:
            with transaction.lock():
                if transaction.recover():
                    progress.warn("an earlier change was interrupted; what was there before is back")
                progress.phase("installing")
                transaction.apply(plan.steps, wheels)
        return wheels

    def recover(self) -> bool:
        """Put back what an interrupted change left, before a plan is made on it."""
        transaction = Transaction(self._transactions, self.environment, self.tool)
        if not transaction.interrupted():
            return False
        with transaction.lock():
            done = transaction.recover()
        self.environment = Environment.current()
        return done

    def _fetch_wheels(self, plan: Plan, progress: Progress) -> list[CheckedWheel]:
        steps = [step for step in plan.steps if step.wheel is not None]
        if not steps:
            return []
        progress.phase(
            "fetching wheels (bytes)", sum((step.wheel.size or 0) for step in steps if step.wheel) or None
        )
        found = []
        for step in steps:
            assert step.wheel is not None
            assert step.after is not None
            checked = self.wheelhouse.fetch(
                step.name,
                step.after,
                step.wheel,
                self.source,
                step.signatures,
                locked_keyid=step.locked_keyid,
                read=progress.advance,
            )
            self._check_permissions(step, checked)
            found.append(checked)
        return found

    @staticmethod
    def _check_permissions(step: Step, checked: CheckedWheel) -> None:
        """What the user said yes to is what the wheel declares."""
        declared = None if checked.manifest is None else checked.manifest.permissions.model_dump(mode="json")
        if declared is None and step.permissions is None:
            return
        if (
            declared is None
            or step.permissions is None
            or consent_text(declared) != consent_text(step.permissions)
        ):
            raise PermissionsDiffer(
                f"{checked.wheel.filename} declares other permissions than the plan showed: "
                f"{declared if declared is not None else 'it is no plugin'}",
                hint="the registry and the wheel disagree; report it to whoever runs the registry",
            )


def wheel_for_here(package: LockedPackage) -> LockedWheel:
    """The wheel of a package that suits this machine best. Raises RequirementsConflict when none does."""
    wheel = package.best()
    if wheel is None:
        raise RequirementsConflict(
            f"{package.name} {package.version} has no wheel for this machine",
            hint="a lock is made for one kind of machine; write one here: llmasos lock",
        )
    return wheel


def local_workplace(config: Config) -> Workplace:
    """A workplace for plans that fetch nothing."""
    return Workplace(config, config.registry or "http://localhost", Nowhere(), carried_keys({}))


class Session(Workplace):
    """A workplace at a registry. Use as a context manager."""

    def __init__(
        self,
        config: Config,
        url: str | None = None,
        *,
        connection: Connection | None = None,
        allow_unsigned: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.connection: Connection = connection or connect(config, url)
        super().__init__(
            config,
            self.connection.url,
            RegistrySource(self.connection),
            registry_keys(self.connection),
            allow_unsigned=allow_unsigned,
            note=note,
        )
        self.catalogue = RegistryCatalogue(self.connection, self.verifier.check_serial)
        self.index = Index(f"{self.connection.url}/simple/", self.connection.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def solve(self, wishes: Sequence[Wish], upgrade: Iterable[str] = ()) -> Solution:
        """Versions of the plugins that are wished, beside those that are here."""
        return resolve(wishes, self.environment, self.catalogue, upgrade=upgrade)

    def packages(self, solution: Solution) -> list[LockedPackage]:
        """Files of a solution: plugins, and libraries where some are missing."""
        missing = [line for line in solution.libraries if not self._is_met(line)]
        chosen = solution.plugins.values()
        if not missing:
            return [one for candidate in chosen if (one := self._own(candidate)) is not None]
        pins = [f"{name}=={candidate.version}" for name, candidate in solution.plugins.items()]
        return self.tool.compile([*pins, *missing], self.environment, self.index)

    def _own(self, candidate: Candidate) -> LockedPackage | None:
        if candidate.file is None:
            return None
        return LockedPackage(candidate.name, str(candidate.version), (LockedWheel(*candidate.file),))

    def _is_met(self, line: str) -> bool:
        requirement = Requirement(line)
        version = self.environment.version(canonicalize_name(requirement.name))
        # What an extra adds is not looked into here: the installer knows.
        return version is not None and not requirement.extras and fits(requirement, version)

    def known_plugins(self, solution: Solution) -> list[LockedPlugin]:
        """What the registry says of the plugins of a solution: id, summary, permissions."""
        found = []
        for candidate in solution.plugins.values():
            manifest = candidate.manifest
            if manifest is not None:
                found.append(
                    LockedPlugin(
                        candidate.name,
                        str(candidate.version),
                        str(manifest.get("id", candidate.name)),
                        str(manifest.get("summary", "")),
                        candidate.owner or "",
                        None,
                        manifest.get("permissions") or {},
                    )
                )
        return found

    def _with_permissions(self, step: Step) -> Step:
        """A plugin that came in as the library of a library is shown as what it is."""
        if step.permissions is not None or step.signatures.publisher is None:
            return step
        project = self.catalogue.project(step.name)
        for release in project.releases if project is not None else ():
            if str(release.version) == step.after and release.manifest is not None:
                manifest = release.manifest
                return replace(
                    step,
                    plugin_id=str(manifest.get("id")),
                    summary=str(manifest.get("summary", "")),
                    permissions=manifest.get("permissions") or {},
                )
        return step

    def plan(
        self,
        wishes: Sequence[Wish],
        *,
        upgrade: Iterable[str] = (),
        references: Sequence[Reference] = (),
    ) -> Plan:
        """The plan that makes wishes true and fetches models."""
        steps: list[Step] = []
        warnings: list[str] = []
        if wishes:
            solution = self.solve(wishes, upgrade)
            steps = self.steps_for(self.packages(solution), self.known_plugins(solution))
            steps = [self._with_permissions(step) for step in steps]
            warnings += solution.warnings
        models: list[ModelStep] = []
        for reference in references:
            model, said = ask(self.connection, reference, self.verifier)
            warnings += said
            step = self.model_step(model)
            if step is not None:
                models.append(replace(step, asked=reference.asked))
            else:
                self.store.remember(model, reference.asked)
        return Plan(tuple(steps), tuple(models), tuple(warnings))
