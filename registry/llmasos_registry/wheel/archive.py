"""Reading a wheel without installing it: every byte is looked at once, and what is found agrees with what is claimed.

pip and uv install wheels whose RECORD lies, that hold members twice, or that unpack to a thousand times their size. This
reader refuses what can be read in two ways. Memory stays bounded whatever the archive says: members are unpacked in
pieces, and only the short text files of ``.dist-info`` and the manifests of plugins are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from packaging.metadata import Metadata
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from llmasos.errors import InputError
from llmasos_registry.wheel.dist_info import (
    EntryPoints,
    check_program,
    check_wheel_file,
    parse_entry_points,
    parse_metadata,
)
from llmasos_registry.wheel.framing import Member, member_bytes, read_members
from llmasos_registry.wheel.member_path import check_collisions
from llmasos_registry.wheel.record import Row, check_listed, parse_record
from llmasos_registry.wheel.refusal import LIMITS, Limits, WheelRefused

#: Where ``NAME-VERSION.data/KEY`` goes. purelib and platlib are the root once more.
DATA_KEYS = ("purelib", "platlib", "headers", "scripts", "data")
_FILENAME = re.compile(r"[A-Za-z0-9_.+!-]+\.whl", re.ASCII)
_MANIFEST = "llmasos.toml"
_MAX_MANIFESTS = 64


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """What a wheel is, read and checked. ``name`` is normalised (PEP 503), ``version`` too (PEP 440)."""

    filename: str
    name: str
    version: str
    tags: tuple[str, ...]
    metadata: Metadata
    metadata_bytes: bytes
    entry_points: EntryPoints
    #: Paths of files below the folder they are installed to (``site-packages`` for the root, purelib and platlib).
    site_paths: tuple[str, ...]
    #: Paths of files below the environment's folder: programs, headers, data.
    other_paths: tuple[str, ...]
    #: ``package/llmasos.toml`` files by the path they are installed to below ``site-packages``.
    manifests: Mapping[str, bytes]
    #: Names that setuptools says it installs, from ``top_level.txt``; empty where there is none.
    declared_top_level: tuple[str, ...]
    size: int
    expanded: int

    @property
    def top_level(self) -> tuple[str, ...]:
        """First parts of the installed paths, without ``.dist-info``: packages, modules, and whatever else is there."""
        heads = {path.partition("/")[0] for path in self.site_paths}
        return tuple(sorted(head for head in heads if not head.endswith(".dist-info")))

    @property
    def requires_python(self) -> str | None:
        """The range of Python versions, as text."""
        text = str(self.metadata.requires_python) if self.metadata.requires_python is not None else ""
        return text or None

    @property
    def requires_dist(self) -> tuple[str, ...]:
        """Requirement lines, normalised."""
        return tuple(str(requirement) for requirement in self.metadata.requires_dist or ())


def read_wheel(
    source: str | os.PathLike[str] | BinaryIO, *, filename: str | None = None, limits: Limits = LIMITS
) -> WheelFacts:
    """Read and check a wheel. ``filename`` is its name where ``source`` is a stream or is stored under another name.

    Raises WheelRefused naming the member and the rule; InputError when the file cannot be opened.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            opened = path.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        with opened as file:
            return _read(file, filename or path.name, limits)
    if filename is None:
        raise ValueError("a stream needs the wheel's file name")
    with nullcontext(source) as file:
        return _read(file, filename, limits)


def _read(file: BinaryIO, filename: str, limits: Limits) -> WheelFacts:
    if not _FILENAME.fullmatch(filename):
        raise WheelRefused("file name", f"{filename[:200]!a} is not the name of a wheel")
    try:
        name, version, _build, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise WheelRefused("file name", f"{filename[:200]!r} is not the name of a wheel: {error}") from error
    members = {member.name: member for member in read_members(file, limits)}
    files = [path for path, member in members.items() if not member.is_folder]
    info = _only_folder(members, ".dist-info", filename)
    if info is None:
        raise WheelRefused("dist-info", "there is no .dist-info folder: this is no wheel")
    data = _only_folder(members, ".data", filename)

    def text(inside: str, *, limit: int = limits.text) -> bytes:
        member = members.get(f"{info}/{inside}")
        if member is None or member.is_folder:
            raise WheelRefused("dist-info", f"{inside} is missing", member=f"{info}/{inside}")
        return _short(file, member, limit)

    record = f"{info}/RECORD"
    rows = parse_record(text("RECORD", limit=limits.record), record)
    check_listed(rows, files, record)
    kept = _kept(members, info)
    contents = {
        path: _check_content(file, members[path], rows.get(path), limits, path in kept) for path in files
    }
    metadata_bytes = contents.get(f"{info}/METADATA")
    if metadata_bytes is None or f"{info}/WHEEL" not in contents:
        raise WheelRefused("dist-info", "METADATA or WHEEL is missing", member=info)
    check_wheel_file(contents[f"{info}/WHEEL"] or b"", f"{info}/WHEEL")
    points = f"{info}/entry_points.txt"
    site, other = _destinations(files, data)
    return WheelFacts(
        filename=filename,
        name=str(name),
        version=str(version),
        tags=tuple(sorted(str(tag) for tag in tags)),
        metadata=parse_metadata(metadata_bytes, name, version, f"{info}/METADATA"),
        metadata_bytes=metadata_bytes,
        entry_points=parse_entry_points(contents.get(points) or b"", points),
        site_paths=tuple(sorted(site)),
        other_paths=other,
        manifests={
            place: body
            for place, path in site.items()
            if place.endswith(f"/{_MANIFEST}") and (body := contents[path]) is not None
        },
        declared_top_level=tuple(
            (contents.get(f"{info}/top_level.txt") or b"").decode("utf-8", "replace").split()
        ),
        size=file.seek(0, 2),
        expanded=sum(member.size for member in members.values()),
    )


def _only_folder(members: Iterable[str], suffix: str, filename: str) -> str | None:
    """The one top folder with that suffix, which must be ``NAME-VERSION`` as the file name has them."""
    found = sorted(
        {path.partition("/")[0] for path in members if path.partition("/")[0].casefold().endswith(suffix)}
    )
    if not found:
        return None
    if len(found) > 1:
        raise WheelRefused(
            "dist-info", f"there are several {suffix} folders: {', '.join(found[:3])}", member=found[1]
        )
    stem = found[0].removesuffix(suffix)
    try:
        claimed = parse_wheel_filename(f"{stem}-py3-none-any.whl")[:2]
    except InvalidWheelFilename as error:
        raise WheelRefused("dist-info", "the folder is not named NAME-VERSION", member=found[0]) from error
    if claimed != parse_wheel_filename(filename)[:2]:
        raise WheelRefused("dist-info", f"the folder does not belong to {filename}", member=found[0])
    return found[0]


def _kept(members: Mapping[str, Member], info: str) -> frozenset[str]:
    """The files whose bytes are needed later."""
    named = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "top_level.txt")}
    manifests = [path for path in members if path.endswith(f"/{_MANIFEST}") and path.count("/") <= 3]
    return frozenset(named & members.keys()) | frozenset(
        sorted(manifests, key=lambda p: (p.count("/"), p))[:_MAX_MANIFESTS]
    )


def _short(file: BinaryIO, member: Member, limit: int) -> bytes:
    if member.size > limit:
        raise WheelRefused(
            "member size", f"{member.size} bytes are more than the {limit} allowed", member=member.name
        )
    return b"".join(member_bytes(file, member))


def _check_content(
    file: BinaryIO, member: Member, row: Row | None, limits: Limits, keep: bool
) -> bytes | None:
    """Unpack a file, compare it with its row of RECORD, and give it back when it is to be kept."""
    if keep and member.size > limits.text:
        raise WheelRefused(
            "member size", f"{member.size} bytes are more than the {limits.text} allowed", member=member.name
        )
    pieces: list[bytes] = []
    digest = hashlib.new(row.algorithm) if row is not None else None
    for piece in member_bytes(file, member):
        if digest is not None:
            digest.update(piece)
        if keep:
            pieces.append(piece)
    if row is not None and digest is not None:
        if row.size is not None and row.size != member.size:
            raise WheelRefused(
                "RECORD", f"RECORD says {row.size} bytes, there are {member.size}", member=member.name
            )
        if digest.digest() != row.digest:
            raise WheelRefused(
                "RECORD",
                f"RECORD says {row.algorithm} {row.digest.hex()}, the file has {digest.hexdigest()}",
                member=member.name,
            )
    return b"".join(pieces) if keep else None


def _destinations(files: list[str], data: str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """({path below site-packages: member}, paths elsewhere). Raises WheelRefused where two members have one destination."""
    site: dict[str, str] = {}
    other: list[str] = []
    for path in files:
        place = path
        if data is not None and path.startswith(f"{data}/"):
            key, _, inside = path.removeprefix(f"{data}/").partition("/")
            if key not in DATA_KEYS or not inside:
                raise WheelRefused(
                    "data folder", f"has a folder that is none of {', '.join(DATA_KEYS)}", member=path
                )
            if key == "scripts":
                check_program(inside, path)
            if key not in ("purelib", "platlib"):
                other.append(f"{key}/{inside}")
                continue
            place = inside
        site[place] = path
    # The root, purelib and platlib become one folder.
    check_collisions(list(site))
    if len(site) + len(other) != len(files):
        raise WheelRefused("data folder", "two members are installed to one place", member=data)
    return site, tuple(sorted(other))
