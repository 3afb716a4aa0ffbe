"""Wheels for tests, sound ones and ones that lie, made in milliseconds without a build."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmasos.testing.tmp import manifest, toml_text


def record_row(path: str, data: bytes) -> str:
    """The row of RECORD for a file."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def metadata_text(name: str, version: str, lines: Sequence[str] = ()) -> str:
    """METADATA with further header lines."""
    head = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        f"Summary: {name} for tests",
        *lines,
    ]
    return "\n".join(head) + "\n\nA wheel for tests.\n"


def wheel_members(
    name: str,
    version: str = "1.0",
    files: Mapping[str, str | bytes] | None = None,
    *,
    entry_points: str | None = None,
    metadata: Sequence[str] = (),
    wheel_version: str = "1.0",
) -> dict[str, bytes]:
    """The members of a sound wheel by path, RECORD last."""
    package = name.replace("-", "_").replace(".", "_")
    info = f"{package}-{version}.dist-info"
    given = {f"{package}/__init__.py": f"version = {version!r}\n"} if files is None else files
    members = {path: data.encode() if isinstance(data, str) else data for path, data in given.items()}
    members[f"{info}/METADATA"] = metadata_text(name, version, metadata).encode()
    members[f"{info}/WHEEL"] = (
        f"Wheel-Version: {wheel_version}\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n".encode()
    )
    if entry_points is not None:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    rows = [record_row(path, data) for path, data in members.items()]
    members[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    return members


def zipped(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> bytes:
    """A zip archive with fixed times, so that equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items() if isinstance(members, Mapping) else members:
            entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def wheel_name(name: str, version: str = "1.0", tag: str = "py3-none-any") -> str:
    """The file name of a wheel."""
    return f"{name.replace('-', '_').replace('.', '_')}-{version}-{tag}.whl"


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, str | bytes] | None = None,
    *,
    entry_points: str | None = None,
    metadata: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """Write a sound wheel into a folder; its path."""
    path = folder / wheel_name(name, version, tag)
    path.write_bytes(
        zipped(wheel_members(name, version, files, entry_points=entry_points, metadata=metadata))
    )
    return path


def make_plugin_wheel(
    folder: Path, plugin_id: str, version: str = "1.0", *, metadata: Sequence[str] = (), **changes: object
) -> Path:
    """A wheel with the smallest plugin; ``changes`` go into its manifest."""
    package = plugin_id.replace("-", "_")
    files = {
        f"{package}/__init__.py": "",
        f"{package}/plugin.py": "",
        f"{package}/llmasos.toml": toml_text(manifest(plugin_id, **changes)),
    }
    points = f"[llmasos.plugins]\n{plugin_id} = {package}:llmasos.toml\n"
    return make_wheel(folder, plugin_id, version, files, entry_points=points, metadata=metadata)


def make_sdist(folder: Path, name: str, version: str = "1.0", files: Mapping[str, str] | None = None) -> Path:
    """Write a source distribution into a folder; its path."""
    top = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{top}.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        texts = {"PKG-INFO": metadata_text(name, version), "pyproject.toml": "", **(files or {})}
        for inside, text in texts.items():
            entry = tarfile.TarInfo(f"{top}/{inside}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path
