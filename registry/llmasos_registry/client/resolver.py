"""The graph model -> plugins -> kernel API -> Python and torch, solved in this process before anything is downloaded.

``resolvelib`` (what pip uses) does the search; ``PluginProvider`` is all it sees of us. What is installed and fixed (the
API, Python, torch, numpy, the CUDA stack, llmasos) enters as facts: one candidate each, which no search can change.
Other people's libraries are left to the installer, which knows the whole index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from llmasos.errors import IncompatiblePlugin, UnknownName, UsageError
from llmasos_registry.client.catalogue import Catalogue, File, Release, best_wheel
from llmasos_registry.client.environment import Environment, applies

API = "llmasos API"
PYTHON = "Python"
#: Rounds of the search; a graph of plugins is small, and a hostile one must end too.
MAX_ROUNDS = 20_000
#: Requirements named in an explanation; a conflict is between two, the rest is how they came about.
_SHOWN = 12


class RequirementsConflict(IncompatiblePlugin):
    """No choice of versions meets all requirements; the message has each side and where it comes from."""


class Wish(NamedTuple):
    """A requirement and who has it. ``name`` is canonical, or one of the facts ``llmasos API`` and ``Python``."""

    name: str
    extras: frozenset[str]
    specifier: SpecifierSet
    origin: str

    @property
    def node(self) -> str:
        """What the search chooses a candidate for: a name with extras is a node of its own."""
        return f"{self.name}[{','.join(sorted(self.extras))}]" if self.extras else self.name

    def __str__(self) -> str:
        gap = " " if self.name in (API, PYTHON) and str(self.specifier) else ""
        return f"{self.node}{gap}{self.specifier}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version of a plugin, or a fact. ``file`` is None for what is installed already."""

    name: str
    version: Version
    extras: frozenset[str] = frozenset()
    requires: tuple[Requirement, ...] = ()
    requires_python: str | None = None
    manifest: Mapping[str, Any] | None = None
    file: File | None = None
    owner: str | None = None
    installed: bool = False
    fact: bool = False

    @property
    def title(self) -> str:
        """How messages name it."""
        extras = f"[{','.join(sorted(self.extras))}]" if self.extras else ""
        return f"{self.name}{extras} {self.version}"


@dataclass(frozen=True, slots=True)
class Solution:
    """Chosen plugins by canonical name, and what each requires: other plugins, and lines on libraries that are none."""

    plugins: Mapping[str, Candidate]
    needs: Mapping[str, tuple[str, ...]]
    uses: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = ()

    @property
    def libraries(self) -> tuple[str, ...]:
        """Lines on libraries of all plugins, without repetition."""
        return tuple(dict.fromkeys(line for lines in self.needs.values() for line in lines))

    def part(self, names: Iterable[str]) -> Solution:
        """Only these plugins and those that they use."""
        wanted: set[str] = set()
        waiting = [name for name in names if name in self.plugins]
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += self.uses[name]
        return Solution(
            {name: one for name, one in self.plugins.items() if name in wanted},
            {name: lines for name, lines in self.needs.items() if name in wanted},
            {name: others for name, others in self.uses.items() if name in wanted},
            self.warnings,
        )


def wish(line: str, origin: str) -> Wish:
    """What a user or a model asked for. Raises UsageError for anything but a name, extras and a range."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        hint = "write NAME or NAME==1.2 or 'NAME>=1.2,<2'"
        if re.fullmatch(r"(registry://)?[\w-][\w.-]*/[\w.-]+(@\S+)?", line):
            hint = f"if it is a model: llmasos model pull '{line}'"
        raise UsageError(f"{line!r} does not name a plugin", hint=hint) from error
    if requirement.url is not None or requirement.marker is not None:
        raise UsageError(
            f"{line!r} holds {'an address' if requirement.url else 'a marker'}",
            hint="plugins are installed by name from the registry; a wheel of your own is installed with uv or pip",
        )
    return _wish(requirement, origin)


def resolve(
    wishes: Sequence[Wish],
    environment: Environment,
    catalogue: Catalogue,
    *,
    upgrade: Iterable[str] = (),
) -> Solution:
    """Choose versions for what is wished, keeping installed plugins usable.

    An installed version that fits is kept, except for the names in ``upgrade``. Raises RequirementsConflict, UnknownName
    for a plugin that nobody has, and what the catalogue raises.
    """
    provider = PluginProvider(environment, catalogue, frozenset(upgrade))
    for asked in wishes:
        provider.check_known(asked)
    kept = [
        Wish(one.name, frozenset(), SpecifierSet(), f"{one.name} {one.version}, which is installed,")
        for one in environment.plugins()
        if one.name not in {asked.name for asked in wishes}
    ]
    reporter: BaseReporter[Wish, Candidate, str] = BaseReporter()
    try:
        result = Resolver(provider, reporter).resolve([*wishes, *kept], max_rounds=MAX_ROUNDS)
    except ResolutionImpossible as error:
        raise provider.explain([cause.requirement for cause in error.causes]) from None
    except ResolutionTooDeep:
        raise RequirementsConflict(
            f"no answer after {MAX_ROUNDS} steps", hint="ask for narrower ranges"
        ) from None
    chosen: dict[str, Candidate] = {}
    for candidate in result.mapping.values():
        if not candidate.fact and (not candidate.extras or candidate.name not in chosen):
            chosen[candidate.name] = candidate
    needs: dict[str, dict[str, None]] = {name: {} for name in chosen}
    uses: dict[str, dict[str, None]] = {name: {} for name in chosen}
    for candidate in result.mapping.values():
        if not candidate.fact:
            needs[candidate.name].update(dict.fromkeys(provider.libraries(candidate)))
            others = [one.name for one in provider.get_dependencies(candidate) if one.name in chosen]
            uses[candidate.name].update(dict.fromkeys(others))
    return Solution(
        dict(sorted(chosen.items())),
        {name: tuple(lines) for name, lines in sorted(needs.items())},
        {name: tuple(others) for name, others in sorted(uses.items())},
        tuple(provider.warnings(chosen.values())),
    )


def _wish(requirement: Requirement, origin: str) -> Wish:
    return Wish(
        canonicalize_name(requirement.name), frozenset(requirement.extras), requirement.specifier, origin
    )


class PluginProvider(AbstractProvider[Wish, Candidate, str]):
    """What the search may ask: candidates of a name, and what each requires."""

    def __init__(self, environment: Environment, catalogue: Catalogue, upgrade: frozenset[str]) -> None:
        self._environment = environment
        self._catalogue = catalogue
        self._upgrade = upgrade
        self._plugins: dict[str, bool] = {}

    # ---- what resolvelib calls ----

    def identify(self, requirement_or_candidate: Wish | Candidate) -> str:
        """The node a wish or a candidate belongs to."""
        one = requirement_or_candidate
        return f"{one.name}[{','.join(sorted(one.extras))}]" if one.extras else one.name

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[Any]],
        backtrack_causes: Sequence[Any],
    ) -> tuple[bool, bool, int, str]:
        """Facts first, then what conflicted, then what most things require: conflicts show early, order is stable."""
        known = list(information[identifier])
        trouble = any(self.identify(cause.requirement) == identifier for cause in backtrack_causes)
        return not self._is_fact(identifier.partition("[")[0]), not trouble, -len(known), identifier

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Wish]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> Callable[[], Iterator[Candidate]]:
        """Candidates of a node, the best first, found as they are asked for."""
        wishes = list(requirements[identifier])
        excluded = {candidate.version for candidate in incompatibilities[identifier]}
        name, extras = wishes[0].name, wishes[0].extras
        ranges = [one.specifier for one in wishes]
        # What is asked of the name without extras counts here too.
        if name != identifier and name in requirements:
            ranges += [one.specifier for one in requirements[name]]

        def candidates() -> Iterator[Candidate]:
            for one in self._candidates(name, extras, ranges):
                if one.version not in excluded:
                    yield one

        return candidates

    def is_satisfied_by(self, requirement: Wish, candidate: Candidate) -> bool:
        """Whether a candidate is in a wish's range."""
        return requirement.specifier.contains(candidate.version, prereleases=True)

    def get_dependencies(self, candidate: Candidate) -> list[Wish]:
        """What a candidate requires of other plugins and of the facts; libraries are not the search's business."""
        if candidate.fact:
            return []
        title = candidate.title
        found: list[Wish] = []
        if candidate.extras:
            same = SpecifierSet(f"==={candidate.version}")
            found.append(Wish(candidate.name, frozenset(), same, title))
        found += [_wish(one, title) for one in self._requirements(candidate) if self._in_graph(one)]
        if candidate.requires_python:
            found.append(Wish(PYTHON, frozenset(), SpecifierSet(candidate.requires_python), title))
        if candidate.manifest is not None and not candidate.extras:
            found += self._promises(candidate.manifest, title)
        return found

    # ---- candidates ----

    def _candidates(
        self, name: str, extras: frozenset[str], ranges: Sequence[SpecifierSet]
    ) -> Iterator[Candidate]:
        if self._is_fact(name):
            version = self._fact(name)
            if version is not None and _in_all(ranges, version):
                yield Candidate(name, version, extras, fact=True)
            return
        kept = self._installed(name, extras) if name not in self._upgrade else None
        if kept is not None and _in_all(ranges, kept.version):
            # The registry is not asked about what can stay as it is, until that turns out not to work.
            yield kept
        else:
            kept = None
        yield from self._published(name, extras, ranges, without=kept.version if kept is not None else None)

    def _published(
        self,
        name: str,
        extras: frozenset[str],
        ranges: Sequence[SpecifierSet],
        without: Version | None = None,
    ) -> list[Candidate]:
        project = self._catalogue.project(name)
        if project is None or project.status == "quarantined":
            return []
        found = [
            self._candidate(name, extras, release, project.owner)
            for release in project.releases
            if release.version != without
            and _in_all(ranges, release.version)
            and (not release.yanked or _pinned(ranges, release.version))
            and best_wheel(release.files) is not None
        ]
        final = [one for one in found if not one.version.is_prerelease]
        # Pre-releases only where a range names one, or where there is nothing else.
        if final and not any(one.prereleases for one in ranges):
            found = final
        here = self._environment.version(name)
        # The same bytes need not be fetched again when the newest version is the one that is here.
        return [
            one if here != str(one.version) or (kept := self._installed(name, extras)) is None else kept
            for one in found
        ]

    def _candidate(self, name: str, extras: frozenset[str], release: Release, owner: str) -> Candidate:
        return Candidate(
            name,
            release.version,
            extras,
            requires=release.requires,
            requires_python=release.requires_python,
            manifest=release.manifest,
            file=best_wheel(release.files),
            owner=owner,
        )

    def _installed(self, name: str, extras: frozenset[str]) -> Candidate | None:
        one = self._environment.installed.get(name)
        if one is None or one.parsed is None:
            return None
        return Candidate(name, one.parsed, extras, requires=one.requires, installed=True)

    # ---- requirements ----

    def _requirements(self, candidate: Candidate) -> Iterator[Requirement]:
        """Requirements that hold here; of a node with extras, those that the extras add."""
        for one in candidate.requires:
            if candidate.extras:
                if applies(one, candidate.extras) and not applies(one):
                    yield one
            elif applies(one):
                yield one

    def _promises(self, manifest: Mapping[str, Any], title: str) -> Iterator[Wish]:
        """``api`` and ``[requires]`` of a manifest."""
        requires = manifest.get("requires") or {}
        yield Wish(API, frozenset(), _range(str(manifest.get("api", ""))), title)
        if requires.get("python"):
            yield Wish(PYTHON, frozenset(), _range(requires["python"]), title)
        if requires.get("torch"):
            yield Wish("torch", frozenset(), _range(requires["torch"]), title)
        for line in requires.get("packages") or ():
            requirement = Requirement(line)
            if applies(requirement) and self._in_graph(requirement):
                yield _wish(requirement, title)

    def _in_graph(self, requirement: Requirement) -> bool:
        name = canonicalize_name(requirement.name)
        return self._environment.is_fact(name) or self._is_plugin(name)

    def _is_plugin(self, name: str) -> bool:
        if name not in self._plugins:
            here = self._environment.installed.get(name)
            if here is not None:
                self._plugins[name] = bool(here.plugins)
            else:
                project = self._catalogue.project(name)
                self._plugins[name] = project is not None and any(one.manifest for one in project.releases)
        return self._plugins[name]

    def _is_fact(self, name: str) -> bool:
        return name in (API, PYTHON) or self._environment.is_fact(name)

    def _fact(self, name: str) -> Version | None:
        if name == API:
            return Version(self._environment.api)
        if name == PYTHON:
            return Version(self._environment.python)
        one = self._environment.installed.get(name)
        return None if one is None else one.parsed

    # ---- afterwards ----

    def check_known(self, asked: Wish) -> None:
        """Raises UnknownName, or UsageError for what is no plugin, before a search says less clearly that nothing fits."""
        if asked.name == "llmasos":
            raise UsageError(
                "llmasos does not install itself", hint="use the tool that installed it, for example pip"
            )
        if self._environment.is_fact(asked.name):
            raise UsageError(
                f"{asked.name} is chosen for the machine and never changed by this command",
                hint=f"install it with uv or pip: pip install {asked.name}",
            )
        here = self._environment.version(asked.name)
        if here is not None and asked.name not in self._upgrade and Version(here) in asked.specifier:
            return
        project = self._catalogue.project(asked.name)
        if project is None:
            raise UnknownName(
                f"there is no plugin `{asked.name}` at {self._catalogue.title}",
                hint=f"llmasos search {asked.name}",
            )
        if not any(release.manifest for release in project.releases):
            raise UsageError(
                f"{asked.name} is no plugin: no version of it has an llmasos.toml",
                hint="libraries are installed with the plugins that need them, or with uv or pip",
            )
        if project.status == "quarantined":
            raise RequirementsConflict(
                f"{asked.name} is in quarantine at {self._catalogue.title}: its files are not served",
                hint="ask whoever runs the registry",
            )

    def libraries(self, candidate: Candidate) -> Iterator[str]:
        """Requirement lines on libraries of one candidate."""
        promised = candidate.manifest.get("requires") or {} if candidate.manifest is not None else {}
        lines = list(self._requirements(candidate))
        lines += [one for one in map(Requirement, promised.get("packages") or ()) if applies(one)]
        for one in lines:
            if not self._in_graph(one):
                extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
                yield f"{canonicalize_name(one.name)}{extras}{one.specifier}"

    def warnings(self, chosen: Iterable[Candidate]) -> Iterator[str]:
        """What does not keep a plan from being carried out, and should be known first."""
        from llmasos.kernel.compat import Rejected, check

        for candidate in chosen:
            if candidate.installed or candidate.manifest is None:
                continue
            devices = (candidate.manifest.get("requires") or {}).get("devices")
            if devices:
                wanted = {"api": str(candidate.manifest.get("api", "")), "requires": {"devices": devices}}
                verdict = check(wanted, devices=True)
                if isinstance(verdict, Rejected):
                    yield f"{candidate.title} {verdict.reason}"
            project = self._catalogue.project(candidate.name)
            for release in project.releases if project is not None else ():
                if release.version == candidate.version and release.yanked:
                    yield f"{candidate.title} was yanked: {release.yanked_reason or 'no reason given'}"

    def explain(self, wishes: Sequence[Wish]) -> RequirementsConflict:
        """Both sides of a conflict, each with its origin, and what is there instead."""
        lines = list(dict.fromkeys(_sentence(one) for one in wishes))
        there: list[str] = []
        for name in dict.fromkeys(one.name for one in wishes):
            there.append(self._what_is_there(name))
        shown = lines[:_SHOWN] + ([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])
        body = "\n".join(f"  {line}" for line in [*shown, *there])
        return RequirementsConflict(
            f"these requirements cannot be met together:\n{body}", hint=_advice(wishes)
        )

    def _what_is_there(self, name: str) -> str:
        if name == API:
            return f"this kernel has API {self._environment.api}"
        if name == PYTHON:
            return f"this is Python {self._environment.python}"
        version = self._environment.version(name)
        here = f"{name} installed is {version}" if version else f"{name} is not installed"
        if self._environment.is_fact(name):
            return f"{here}, and is never changed as a side effect"
        project = self._catalogue.project(name)
        if project is None:
            return f"{here}; {self._catalogue.title} does not have it"
        offered = [self._offer(release) for release in project.releases]
        more = f" and {len(offered) - 8} older" if len(offered) > 8 else ""
        return f"{here}; {self._catalogue.title} has {', '.join(offered[:8]) or 'no version'}{more}"

    @staticmethod
    def _offer(release: Release) -> str:
        if release.yanked:
            return f"{release.version} (yanked)"
        if best_wheel(release.files) is None:
            return f"{release.version} (no wheel for this machine)"
        return str(release.version)


def _sentence(one: Wish) -> str:
    if one.origin.endswith(","):  # an installed plugin that should stay
        return f"{one.origin} should stay usable"
    return f"{one.origin} requires {one}"


def _advice(wishes: Sequence[Wish]) -> str:
    names = {one.name for one in wishes}
    if "torch" in names:
        return "ask for another version of the plugin, or use an environment with the torch that it needs"
    if API in names:
        return "ask for another version of the plugin, or upgrade llmasos"
    return "ask for other versions, or use an environment of its own for one side"


def _in_all(ranges: Sequence[SpecifierSet], version: Version) -> bool:
    return all(one.contains(version, prereleases=True) for one in ranges)


def _pinned(ranges: Sequence[SpecifierSet], version: Version) -> bool:
    """Whether a range names exactly this version: only then is one that was yanked taken (PEP 592)."""
    return any(
        part.operator in ("==", "===") and not part.version.endswith(".*") and part.contains(version)
        for one in ranges
        for part in one
    )


def _range(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text)
    except (
        InvalidSpecifier
    ):  # the registry checked the manifest; an old one may know more operators than this
        raise RequirementsConflict(f"{text!r} is not a version range", hint="upgrade llmasos") from None
