"""What tests of installing need: wheels made in milliseconds, environments of their own, publishers with keys."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmasos.pipelines.evaluate import Silence
from llmasos.testing.checkpoints import write_checkpoint
from llmasos.testing.tmp import manifest, toml_text
from llmasos_registry.client.connection import Connection, RegistryNotFound
from llmasos_registry.client.publish_plugin import PublishedPlugin, publish_plugin
from llmasos_registry.signatures.keys import PrivateKey, generate, prove, public_pem


def build_wheel(
    folder: Path,
    name: str,
    version: str = "1.0.0",
    *,
    requires: Sequence[str] = (),
    plugin: bool = True,
    files: Mapping[str, bytes] | None = None,
    scripts: Mapping[str, str] | None = None,
    **keys: Any,
) -> Path:
    """A wheel of a plugin (or, with ``plugin`` False, a library); ``keys`` go into its manifest. Same arguments, same bytes.

    The plugin's code ends the process that imports it: nothing here may.
    """
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: for a test\n"]
    metadata += [f"Requires-Dist: {line}\n" for line in requires]
    contents: dict[str, bytes] = {f"{package}/__init__.py": f'__version__ = "{version}"\n'.encode()}
    points = ""
    if plugin:
        contents[f"{package}/plugin.py"] = b"raise SystemExit('a plugin was imported')\n"
        contents[f"{package}/llmasos.toml"] = toml_text(manifest(name, **keys)).encode()
        points = f"[llmasos.plugins]\n{name} = {package}:llmasos.toml\n"
    if scripts:
        points += "[console_scripts]\n" + "".join(f"{key} = {value}\n" for key, value in scripts.items())
    contents.update(files or {})
    contents[f"{info}/METADATA"] = "".join(metadata).encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    if points:
        contents[f"{info}/entry_points.txt"] = points.encode()
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in contents.items()
    ]
    contents[f"{info}/RECORD"] = ("".join(rows) + f"{info}/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in contents.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), data)
    return wheel


def publish(url: str, token: str, wheel: Path, key: PrivateKey | None = None) -> PublishedPlugin:
    """Upload a plugin's wheel as `llmasos plugin publish` does."""
    with Connection(url, token) as connection:
        return publish_plugin(connection, wheel, key=key, progress=Silence())


def upload(url: str, token: str, wheel: Path) -> None:
    """Upload any wheel, as twine does."""
    from llmasos_registry.client.publish_plugin import upload_form
    from llmasos_registry.wheel.archive import read_wheel

    content = wheel.read_bytes()
    with Connection(url, token) as connection:
        files = {"content": (wheel.name, content, "application/octet-stream")}
        connection.post_form("/legacy/", upload_form(read_wheel(wheel), content), files)


def key_for(url: str, token: str, account: str, path: Path) -> PrivateKey:
    """A publisher's key in a new file, registered for an account."""
    key = generate(path)
    with Connection(url, token) as connection:
        body = {"pem": public_pem(key.public_key()), "comment": "", "proof": prove(key, account)}
        connection.post(f"/v1/publishers/{account}/keys", body)
    return key


def publish_tiny(
    url: str,
    token: str,
    folder: Path,
    name: str,
    *,
    requires: Sequence[str] = (),
    version: str | None = "1.0.0",
    key: Path | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Any:
    """Publish a tiny Llama that requires plugins, with the command: Hub clients of this process are offline. Its JSON."""
    if not folder.exists():
        write_checkpoint(folder, "llama")
        (folder / "README.md").write_text(
            "---\nlicense: apache-2.0\n---\n# Tiny\n\nRandom weights, for tests. " + "It says nothing. " * 20
        )
    (folder / "llmasos.toml").write_text(f"manifest = 1\nrequires = {json.dumps(list(requires))}\n")
    for path, data in (files or {}).items():
        (folder / path).write_bytes(data)
    command = [
        sys.executable,
        "-m",
        "llmasos",
        "model",
        "publish",
        str(folder),
        name,
        "--registry",
        url,
        "--json",
    ]
    command += ["--version", version] if version else []
    command += ["--key", str(key)] if key else ["--no-sign"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLMASOS_"))}
    home = folder.with_name(folder.name + "-publisher")
    environ |= {
        "LLMASOS_TOKEN": token,
        "LLMASOS_CACHE": str(home),
        "LLMASOS_CONFIG": str(home),
        "HF_HOME": str(home),
    }
    done = subprocess.run(command, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def requests_so_far(registry: Any) -> list[str]:
    """The registry's requests, without those that this makes to know that its log has come this far."""
    mark = f"/v1/mark-{os.urandom(6).hex()}"
    with Connection(registry.url) as connection, suppress(RegistryNotFound):
        connection.get(mark)
    deadline = time.monotonic() + 30
    while not any(mark in line for line in registry.requests()):
        assert time.monotonic() < deadline, "the registry's log has no line for a request that it answered"
        time.sleep(0.01)
    return [line for line in registry.requests() if "/v1/mark-" not in line]


class Place:
    """A Python environment with a user of its own: installs go there; llmasos and what it needs are seen from here."""

    def __init__(self, root: Path, registry: str | None = None, token: str | None = None) -> None:
        self.root = root
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(root / "venv")],
            check=True,
            capture_output=True,
        )
        self.python = root / "venv" / "bin" / "python"
        (self.site,) = (root / "venv" / "lib").glob("python*/site-packages")
        # Processed as a site folder: editable installs there work here too.
        here = sysconfig.get_paths()["purelib"]
        (self.site / "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        self.cache = root / "cache"
        self.config = root / "config"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMASOS_", "HF_", "UV_", "PIP_"))}
        self.environ = {
            **kept,
            "LLMASOS_CACHE": str(self.cache),
            "LLMASOS_CONFIG": str(self.config),
            "UV_CACHE_DIR": str(root / "uv"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if registry:
            self.environ["LLMASOS_REGISTRY"] = registry
        if token:
            self.environ["LLMASOS_TOKEN"] = token

    def run(self, *arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``llmasos arguments``; fails unless it ends with ``code``."""
        done = subprocess.run(
            [str(self.python), "-m", "llmasos", *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.root,
        )
        assert done.returncode == code, (
            f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def json(self, *arguments: str, **environ: str) -> Any:
        """What the command prints with ``--json``."""
        return json.loads(self.run(*arguments, "--json", **environ).stdout)

    def installed(self) -> dict[str, str]:
        """Distributions in this environment itself."""
        found = {}
        for info in self.site.glob("*.dist-info"):
            name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
            found[name.replace("_", "-")] = version
        return dict(sorted(found.items()))

    def tree(self) -> dict[str, bytes]:
        """Every file of this environment's site-packages and programs."""
        folders = [self.site, self.python.parent]
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
        }
