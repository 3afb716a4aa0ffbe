"""Writing down what is here or asked for, and making an environment equal to what was written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from packaging.specifiers import SpecifierSet

from llmasos.config import Config
from llmasos.errors import MissingDependency, UnknownName, UsageError
from llmasos_registry.client.connection import Connection, registry_url
from llmasos_registry.client.credentials import connect, read_token
from llmasos_registry.client.locked import Lock, LockedModel, LockedPackage, LockedPlugin, LockedWheel
from llmasos_registry.client.plan import ModelStep, Plan, Step
from llmasos_registry.client.pull import Reference, ask, plan_model, with_key
from llmasos_registry.client.resolver import RequirementsConflict, Solution, Wish, wish
from llmasos_registry.client.session import Session, Workplace


def installed_wishes(session: Session, names: Sequence[str] = ()) -> list[Wish]:
    """The installed plugins, each at its version."""
    return [
        Wish(one.name, frozenset(), SpecifierSet(f"=={one.version}"), "what is installed")
        for one in session.environment.plugins()
        if not names or one.name in names
    ]


def make_lock(session: Session, wishes: Sequence[Wish], references: Sequence[Reference] = ()) -> Lock:
    """A lock of plugins with their libraries, and of models with the plugins that they require.

    Raises what resolving raises, and UnknownName for an installed plugin that the registry does not have.
    """
    models: list[LockedModel] = []
    wanted = list(wishes)
    for reference in references:
        model, _ = ask(session.connection, reference, session.verifier)
        models.append(_signed(session, model))
        wanted += [
            wish(line, f"{model.kind} {model.id} {model.version or model.commit[:12]}")
            for line in model.requires
        ]
    if not wanted and not models:
        raise UsageError(
            "there is nothing to lock: no plugin is installed and none is named", hint="llmasos lock NAME"
        )
    solution = session.solve(wanted).part([one.name for one in wanted]) if wanted else Solution({}, {}, {})
    own = {name: _release_of(session, name, str(one.version)) for name, one in solution.plugins.items()}
    packages = {name: package for name, (package, _) in own.items()}
    facts: dict[str, str] = {}
    if solution.libraries:
        if not session.tool.locks:
            raise MissingDependency(
                f"{session.tool.name} cannot lock libraries beside what is installed", hint="pip install uv"
            )
        pins = [f"{name}=={package.version}" for name, package in packages.items()]
        found = session.tool.compile([*pins, *solution.libraries], session.environment, session.index)
        for package in found:
            if package.name in packages:
                continue
            if package.wheels and not session.environment.is_fact(package.name):
                packages[package.name] = package
                session.examine(package)
            else:
                facts[package.name] = package.version
    return Lock(
        registry=session.registry,
        packages=tuple(sorted(packages.values())),
        plugins=tuple(_with_key(session, plugin, packages[name]) for name, (_, plugin) in own.items()),
        models=tuple(models),
        requested=tuple(dict.fromkeys([*map(str, wishes), *(f"{one.kind}:{one}" for one in references)])),
        facts={**facts, **session.environment.facts()},
    )


def _release_of(session: Session, name: str, version: str) -> tuple[LockedPackage, LockedPlugin]:
    """The wheels of a plugin at a version, and what its manifest says; also when it is installed already."""
    project = session.catalogue.project(name)
    for release in project.releases if project is not None else ():
        if str(release.version) == version and release.manifest is not None and project is not None:
            wheels = tuple(
                sorted(LockedWheel(*file) for file in release.files if file.filename.endswith(".whl"))
            )
            manifest = release.manifest
            plugin = LockedPlugin(
                name,
                version,
                str(manifest.get("id", name)),
                str(manifest.get("summary") or name),
                project.owner,
                None,
                manifest.get("permissions") or {},
            )
            return LockedPackage(name, version, wheels), plugin
    raise UnknownName(
        f"{name} {version} is installed, but {session.registry} does not have it",
        hint="publish it there (llmasos plugin publish), or name what to lock: llmasos lock NAME...",
    )


def _with_key(session: Session, plugin: LockedPlugin, package: LockedPackage) -> LockedPlugin:
    """The plugin with the key that signed its wheel for this machine. Raises SignatureRefused, TrustChanged."""
    return plugin._replace(keyid=session.examine(package).keyid)


def _signed(session: Session, model: LockedModel) -> LockedModel:
    """The model with the key that signed it, from the store or verified now."""
    kept = session.store.read(model.kind, model.id, model.commit)
    if kept is not None:
        return replace(model, keyid=kept.keyid)
    step = plan_model(model, session.store, session.source, session.examiner)
    return with_key(model, step.model.keyid) if step is not None else model


def plan_sync(workplace: Workplace, lock: Lock, *, exact: bool = True) -> Plan:
    """What makes the environment equal to a lock. ``exact`` also removes plugins that it does not name.

    Raises RequirementsConflict when the lock counts on something that is not here.
    """
    warnings = compare_facts(workplace, lock)
    own = workplace.config.registry
    if own is not None and registry_url(own) != workplace.registry:
        # Trust is pinned for each registry: a lock or bundle that names another one starts without any.
        warnings.append(
            f"this is of the registry {workplace.registry}, not of {own}: keys pinned for that one do not count"
        )
    steps: list[Step] = workplace.steps_for(lock.packages, lock.plugins, locked=True)
    if exact:
        named = {package.name for package in lock.packages}
        steps += workplace.removal(
            one.name for one in workplace.environment.plugins() if one.name not in named
        )
    models: list[ModelStep] = []
    for model in lock.models:
        step = workplace.model_step(model, locked=True)
        if step is not None:
            models.append(replace(step, asked=model.version or model.commit))
    return Plan(tuple(steps), tuple(models), tuple(warnings))


def compare_facts(workplace: Workplace, lock: Lock) -> list[str]:
    """Lines on what was otherwise where the lock was made. Raises RequirementsConflict for a library that only that
    environment had. Whether what is installed fits what is here is checked when the wheels are."""
    warnings: list[str] = []
    for name, version in sorted(lock.facts.items()):
        here = workplace.environment.version(name)
        if here == version:
            continue
        if here is None and not workplace.environment.is_fact(name):
            raise RequirementsConflict(
                f"the lock counts on {name} {version}, which no index had when it was written, and which is not here",
                hint=f"install {name} {version} first",
            )
        if here is not None:
            warnings.append(f"the lock was made beside {name} {version}; here is {here}")
    return warnings


def connect_to(config: Config, address: str) -> Connection:
    """A connection to the registry that a lock names. LLMASOS_TOKEN is for the registry of the settings only: a lock, which
    may come from anywhere, must not lead it elsewhere."""
    url = registry_url(address)
    if config.registry is not None and registry_url(config.registry) == url:
        return connect(config, url)
    connect(config, url).close()  # the checks of the settings
    nothing: Mapping[str, str] = {}
    return Connection(url, read_token(config.config_dir, url, nothing))
