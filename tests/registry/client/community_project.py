"""A plugin's project that builds without any index: its build backend is in its own folder and needs nothing."""

from __future__ import annotations

from pathlib import Path

_PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "{name}"
version = "{version}"
"""

_BACKEND = '''\
import base64, hashlib, os, zipfile

NAME, VERSION, PACKAGE, TEXT = {name!r}, {version!r}, {package!r}, {text!r}
METADATA = f"""\\
Metadata-Version: 2.1
Name: {{NAME}}
Version: {{VERSION}}
Summary: A test plugin
Requires-Python: >=3.11
Requires-Dist: packaging>=24
Requires-Dist: tomli; python_version < "3.11"
Classifier: Private :: Do Not Upload
Classifier: Typing :: Typed
Project-URL: Home, https://acme.example
"""


def build_wheel(folder, config_settings=None, metadata_directory=None):
    if {record}:
        with open("environment.txt", "w") as file:
            file.write("\\n".join(f"{{key}}={{value}}" for key, value in os.environ.items()))
    stem = f"{{NAME.replace('-', '_')}}-{{VERSION}}"
    info = f"{{stem}}.dist-info"
    files = {{
        f"{{PACKAGE}}/__init__.py": open(f"{{PACKAGE}}/__init__.py", "rb").read(),
        f"{{PACKAGE}}/llmasos.toml": open(f"{{PACKAGE}}/llmasos.toml", "rb").read(),
        f"{{PACKAGE}}/text.txt": TEXT.encode(),
        f"{{info}}/METADATA": METADATA.encode(),
        f"{{info}}/WHEEL": b"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{{info}}/entry_points.txt": f"[llmasos.plugins]\\n{{NAME}} = {{PACKAGE}}:llmasos.toml\\n".encode(),
    }}
    rows = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{{path}},sha256={{digest}},{{len(data)}}")
    files[f"{{info}}/RECORD"] = "\\n".join([*rows, f"{{info}}/RECORD,,", ""]).encode()
    name = f"{{stem}}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            wheel.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
    return name
'''

_MANIFEST = """\
manifest = 1
id = "{name}"
summary = "A test plugin"
module = "{package}"
api = ">=1.0,<2"
license = "Apache-2.0"

[[provides]]
kind = "metric"
name = "{short}_share"
summary = "A share"
"""

_MODULE = """\
from llmasos.api import MetricDef, hookimpl

raise RuntimeError("publishing must not import the plugin")
"""


def write_project(
    folder: Path,
    version: str,
    name: str = "llmasos-acme",
    *,
    text: str = "",
    record_environment: bool = False,
) -> Path:
    """A project folder; ``text`` makes its wheel differ. Importing its package fails."""
    package = name.replace("-", "_")
    inside = folder / package
    inside.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_PYPROJECT.format(name=name, version=version))
    backend = _BACKEND.format(
        name=name, version=version, package=package, text=text, record=record_environment
    )
    (folder / "backend.py").write_text(backend)
    manifest = _MANIFEST.format(name=name, package=package, short=name.rpartition("-")[2])
    (inside / "llmasos.toml").write_text(manifest)
    (inside / "__init__.py").write_text(_MODULE)
    return folder
