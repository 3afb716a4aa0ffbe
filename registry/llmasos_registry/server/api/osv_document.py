"""The OSV format of advisories, as far as this registry stores and answers it: checked strictly when it comes in.

Source: https://ossf.github.io/osv-schema/ (version 1.7). Ecosystems: ``PyPI`` for packages of the index, names as in
PEP 503; ``llmasos`` for models and datasets, names ``models/owner/name`` and ``datasets/owner/name``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmasos_registry.server.api.moments import Moment
from llmasos_registry.server.api.operation import Body, Text
from llmasos_registry.server.api.osv_versions import PYPI, readable

SCHEMA_VERSION = "1.7.0"
#: Bytes of one advisory.
MAX_DOCUMENT = 1 << 20

Name = Annotated[Text, Field(min_length=1, max_length=200)]
Words = Annotated[Text, Field(max_length=100_000)]
Version = Annotated[Text, Field(min_length=1, max_length=200)]
#: Prefix of the database and a number: GHSA-..., PYSEC-2026-1; ``x_`` before the prefix of a database of one's own.
AdvisoryId = Annotated[Text, Field(pattern=r"^(x_)?[A-Za-z][A-Za-z0-9]*-[A-Za-z0-9._-]+$", max_length=80)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Severity(_Part):
    """How bad it is."""

    type: Literal["CVSS_V2", "CVSS_V3", "CVSS_V4", "Ubuntu"]
    score: Name


class Package(_Part):
    """What is affected."""

    ecosystem: Annotated[Text, Field(pattern=r"^[A-Za-z][A-Za-z0-9 .:_-]*$", max_length=40)]
    name: Name
    purl: Annotated[Text, Field(pattern=r"^pkg:", max_length=500)] | None = None


class Event(_Part):
    """One point on the line of versions; exactly one key."""

    introduced: Version | None = None
    fixed: Version | None = None
    last_affected: Version | None = None
    limit: Version | None = None

    @model_validator(mode="after")
    def _one(self) -> Event:
        if len(self.model_fields_set) != 1 or not all(getattr(self, name) for name in self.model_fields_set):
            raise ValueError("an event has exactly one of introduced, fixed, last_affected, limit")
        return self


class Range(_Part):
    """Versions between events."""

    type: Literal["SEMVER", "ECOSYSTEM", "GIT"]
    repo: Annotated[Text, Field(max_length=500)] | None = None
    events: Annotated[list[Event], Field(min_length=1, max_length=1000)]
    database_specific: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Range:
        kinds = {name for event in self.events for name in event.model_fields_set}
        if "introduced" not in kinds:
            raise ValueError('a range needs an `introduced` event; "0" stands for the beginning')
        if {"fixed", "last_affected"} <= kinds:
            raise ValueError("a range has `fixed` or `last_affected` events, not both")
        if (self.type == "GIT") != (self.repo is not None):
            raise ValueError("a GIT range names its `repo`, and only a GIT range")
        return self


class Affected(_Part):
    """A package and its versions that are affected: listed, or between events, or both."""

    package: Package
    severity: Annotated[list[Severity], Field(max_length=20)] | None = None
    ranges: Annotated[list[Range], Field(max_length=100)] | None = None
    versions: Annotated[list[Version], Field(max_length=10_000)] | None = None
    ecosystem_specific: dict[str, Any] | None = None
    database_specific: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _readable(self) -> Affected:
        if not self.ranges and not self.versions:
            raise ValueError("name `versions` or `ranges`; without either nothing is affected")
        for found in self.ranges or ():
            for event in found.events:
                for name in event.model_fields_set:
                    text = str(getattr(event, name))
                    if not readable(found.type, self.package.ecosystem, text):
                        raise ValueError(f"`{text}` is no version of {self.package.ecosystem}")
        return self


class Reference(_Part):
    """Where to read more."""

    type: Literal[
        "ADVISORY",
        "ARTICLE",
        "DETECTION",
        "DISCUSSION",
        "EVIDENCE",
        "FIX",
        "GIT",
        "INTRODUCED",
        "PACKAGE",
        "REPORT",
        "WEB",
    ]
    url: Annotated[Text, Field(pattern=r"^[a-z]+://", max_length=2000)]


class Credit(_Part):
    """Who found it."""

    name: Name
    contact: Annotated[list[Name], Field(max_length=20)] | None = None
    type: (
        Literal[
            "FINDER",
            "REPORTER",
            "ANALYST",
            "COORDINATOR",
            "REMEDIATION_DEVELOPER",
            "REMEDIATION_REVIEWER",
            "REMEDIATION_VERIFIER",
            "TOOL",
            "SPONSOR",
            "OTHER",
        ]
        | None
    ) = None


class Advisory(Body):
    """An advisory. ``modified`` is set by the registry: what is sent does not count."""

    schema_version: Annotated[Text, Field(pattern=r"^1\.[0-9]+\.[0-9]+$")] = SCHEMA_VERSION
    id: AdvisoryId
    modified: Moment | None = None
    published: Moment | None = None
    withdrawn: Moment | None = None
    aliases: Annotated[list[AdvisoryId], Field(max_length=100)] | None = None
    related: Annotated[list[Name], Field(max_length=100)] | None = None
    upstream: Annotated[list[Name], Field(max_length=100)] | None = None
    summary: Annotated[Text, Field(max_length=1000)] | None = None
    details: Words | None = None
    severity: Annotated[list[Severity], Field(max_length=20)] | None = None
    affected: Annotated[list[Affected], Field(min_length=1, max_length=200)]
    references: Annotated[list[Reference], Field(max_length=200)] | None = None
    credits: Annotated[list[Credit], Field(max_length=100)] | None = None
    database_specific: dict[str, Any] | None = None

    def packages(self) -> set[tuple[str, str]]:
        """(ecosystem, name as it is looked up) of everything affected."""
        return {package_key(part.package.ecosystem, part.package.name) for part in self.affected}


def package_key(ecosystem: str, name: str) -> tuple[str, str]:
    """The ecosystem without its release (``Debian:12``), and the name as that ecosystem compares it."""
    base = ecosystem.partition(":")[0]
    return base, canonicalize_name(name) if base == PYPI else name.lower() if base == "llmasos" else name
