"""Wheels made on the spot, honest and hostile."""

from __future__ import annotations

import base64
import hashlib
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n\nText\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    record: Callable[[str], str] | None = None,
    metadata: str = METADATA,
    drop: str = "",
    twice: str = "",
    link: str = "",
    method: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """A wheel with the given data files. The other arguments spoil it: a changed RECORD, another METADATA, a member left out,
    named twice, made a symbolic link, or packed in another way."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    members = {
        **files,
        f"{info}/METADATA": metadata.format(name=name, version=version).encode(),
        f"{info}/WHEEL": WHEEL.encode(),
    }
    lines = "".join(record_line(member, content) for member, content in members.items())
    lines += f"{info}/RECORD,,\n"
    members[f"{info}/RECORD"] = (record(lines) if record is not None else lines).encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in members.items():
            if drop and member.endswith(drop):
                continue
            entry = zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0))
            entry.compress_type = method
            mode = stat.S_IFLNK if member == link else stat.S_IFREG
            entry.external_attr = (mode | 0o644) << 16
            archive.writestr(entry, content)
            if member == twice:
                archive.writestr(member.upper(), content)
    return path
