"""The files of a ``.dist-info`` folder that say what a wheel is: METADATA, WHEEL, entry_points.txt."""

from __future__ import annotations

import configparser
import re
from email.parser import HeaderParser

from packaging.metadata import InvalidMetadata, Metadata, parse_email
from packaging.utils import canonicalize_name
from packaging.version import Version

from llmasos_registry.wheel.refusal import WheelRefused

EntryPoints = dict[str, dict[str, str]]

_REFERENCE = re.compile(
    r"(?P<module>[A-Za-z_][\w.]*)(\s*:\s*(?P<attr>[A-Za-z_][\w.]*))?\s*(\[[^\]]*\])?", re.ASCII
)
_GROUP = re.compile(r"[\w.-]+", re.ASCII)
#: These become files in the environment's folder of programs.
_PROGRAM = re.compile(r"[A-Za-z0-9_][\w.+-]*", re.ASCII)
#: Programs that nobody may replace: the interpreter and what activates an environment.
_TAKEN = re.compile(r"(pythonw?[0-9.]*|pypy[0-9.]*|activate|deactivate)([._-].*)?", re.IGNORECASE)


def parse_metadata(data: bytes, name: str, version: Version, member: str) -> Metadata:
    """METADATA or PKG-INFO, valid and of the distribution that the file name promises. Raises WheelRefused."""
    raw, unknown = parse_email(data)
    if unknown:
        raise WheelRefused(
            "metadata", f"has unknown or repeated fields: {', '.join(sorted(unknown))[:200]}", member=member
        )
    # Not validated as a whole: many wheels name License-File in a version of the format that did not have it yet.
    metadata = Metadata.from_raw(raw, validate=False)
    try:
        for field in ("metadata_version", "name", "version", *raw):
            getattr(metadata, field)
    except (InvalidMetadata, ValueError) as error:
        raise WheelRefused("metadata", f"is not valid: {str(error)[:300]}", member=member) from error
    if metadata.name is None or canonicalize_name(metadata.name) != name:
        raise WheelRefused(
            "metadata", f"is of {metadata.name!r}, and the file name is of {name!r}", member=member
        )
    if metadata.version != version:
        raise WheelRefused(
            "metadata", f"is of version {metadata.version}, and the file name is of {version}", member=member
        )
    return metadata


def check_wheel_file(data: bytes, member: str) -> None:
    """WHEEL: a Wheel-Version of the one format there is. Raises WheelRefused."""
    try:
        headers = HeaderParser().parsestr(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise WheelRefused("WHEEL", "is not UTF-8", member=member) from error
    versions = headers.get_all("Wheel-Version", [])
    if len(versions) != 1 or not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", versions[0].strip()):
        raise WheelRefused("WHEEL", "does not have one Wheel-Version such as 1.0", member=member)
    if versions[0].strip().partition(".")[0] != "1":
        raise WheelRefused(
            "WHEEL", f"Wheel-Version {versions[0].strip()} is not known; 1.x is", member=member
        )
    pure = headers.get_all("Root-Is-Purelib", [])
    if len(pure) != 1 or pure[0].strip().lower() not in ("true", "false"):
        raise WheelRefused("WHEEL", "does not say once whether Root-Is-Purelib", member=member)


def parse_entry_points(data: bytes, member: str) -> EntryPoints:
    """{group: {name: reference}}. Raises WheelRefused for what is no entry point or would replace the interpreter."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True, default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(data.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise WheelRefused(
            "entry points", f"cannot be parsed: {str(error).splitlines()[0]}", member=member
        ) from error
    found: EntryPoints = {}
    for group in parser.sections():
        if not _GROUP.fullmatch(group):
            raise WheelRefused("entry points", f"group {group[:80]!r} is not a dotted name", member=member)
        for name, value in parser.items(group):
            if not name.isprintable() or not _REFERENCE.fullmatch(value.strip()):
                raise WheelRefused(
                    "entry points", f"{name[:80]!r} = {value[:80]!r} does not name an object", member=member
                )
            if group in ("console_scripts", "gui_scripts"):
                check_program(name, member)
            found.setdefault(group, {})[name] = value.strip()
    return found


def check_program(name: str, member: str) -> None:
    """The name of a program that a wheel installs. Raises WheelRefused."""
    if not _PROGRAM.fullmatch(name):
        raise WheelRefused("program name", f"{name[:80]!r} is not the name of a program", member=member)
    if _TAKEN.fullmatch(name):
        raise WheelRefused(
            "program name", f"{name[:80]!r} would replace a program of the environment", member=member
        )
