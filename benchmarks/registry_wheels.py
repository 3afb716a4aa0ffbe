"""Wheels for the registry's benchmark: small, valid, and the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Sequence

MANIFEST = """manifest = 1
id = "{name}"
summary = "Plugin {name} of the benchmark"
module = "{package}.plugin"
api = ">=1.0,<2"
license = "Apache-2.0"

[[provides]]
kind = "metric"
name = "{package}"
summary = "Always the same"
"""

PLUGIN = """from llmasos.api import MetricDef, hookimpl


@hookimpl
def llmasos_metrics():
    yield MetricDef(name="{package}", factory="{package}.plugin:Always", higher_is_better=True)
"""


def filename(name: str, version: str) -> str:
    """The file name of a wheel."""
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def metadata(name: str, version: str, requires: Sequence[str] = ()) -> bytes:
    """METADATA of a wheel."""
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        f"Summary: {name} of the benchmark",
    ]
    lines += ["Requires-Python: >=3.11", *(f"Requires-Dist: {line}" for line in requires)]
    return ("\n".join(lines) + "\n\n").encode()


def wheel(name: str, version: str, *, requires: Sequence[str] = (), plugin: bool = True) -> bytes:
    """A wheel of a few kilobytes. With ``plugin`` it is one for LLMasOS."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    members = {
        f"{package}/__init__.py": b"",
        f"{package}/data.txt": hashlib.sha256(f"{name} {version}".encode()).hexdigest().encode() * 30,
        f"{info}/METADATA": metadata(name, version, requires),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: benchmark\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if plugin:
        members[f"{package}/llmasos.toml"] = MANIFEST.format(name=name, package=package).encode()
        members[f"{package}/plugin.py"] = PLUGIN.format(package=package).encode()
        members[f"{info}/entry_points.txt"] = f"[llmasos.plugins]\n{name} = {package}:llmasos.toml\n".encode()
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            entry = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(entry, data)
    return made.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
