"""Machines of people who use a registry: a Python environment with llmasos from this checkout, a home, a configuration.

llmasos is installed from a wheel built here, as a user would have it; what it needs besides (torch and so on) is borrowed from
the environment of the tests through a path, so that no test downloads it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from registries import Server

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = CHECKOUT / "examples" / "llmasos-ngram"
PLUGIN, MODEL, TASK = "llmasos-ngram", "acme/ngram-demo", "ngram_weather"
REFERENCE = f"registry://{MODEL}"
_FOREIGN = ("LLMASOS_", "HF_", "UV_", "PIP_", "PYTHON", "VIRTUAL_ENV")

#: Makes every connection of a Python program fail; for machines where a network namespace cannot be made.
_NO_SOCKETS = """
import socket

def refuse(*arguments, **named):
    raise OSError("the network is blocked")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def build_wheel(source: Path, folder: Path) -> Path:
    """The wheel of a project, built from a copy of its sources with the setuptools that are here."""
    copy = folder / "source"
    ignored = shutil.ignore_patterns(
        "__pycache__", "*.egg-info", "build", ".*", "tests", "docs", "benchmarks", "examples"
    )
    shutil.copytree(source, copy, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(copy)
    (wheel,) = folder.glob("*.whl")
    return wheel


def uv() -> str:
    """The uv program."""
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "uv is part of the extra `install`"
    return found


class Machine:
    """One person's machine. ``run`` runs ``llmasos``; with ``online`` False no connection can be made."""

    def __init__(
        self, root: Path, wheel: Path, registry: str | None = None, token: str | None = None
    ) -> None:
        self.root = root
        self.work = root / "work"
        self.work.mkdir(parents=True)
        self.online = True
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        self.environ = kept | {
            "HOME": str(root),
            "PATH": f"{root / 'venv' / 'bin'}{os.pathsep}{Path(uv()).parent}{os.pathsep}{os.environ['PATH']}",
            "LLMASOS_CACHE": str(root / "cache"),
            "LLMASOS_CONFIG": str(root / "config"),
            "UV_CACHE_DIR": str(root / "uv"),
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if registry is not None:
            self.environ["LLMASOS_REGISTRY"] = registry
        if token is not None:
            self.environ["LLMASOS_TOKEN"] = token
        self._call(uv(), "venv", "-q", "-p", sys.executable, str(root / "venv"))
        self.python = root / "venv" / "bin" / "python"
        self._call(uv(), "pip", "install", "-q", "--offline", "--no-deps", "-p", str(self.python), str(wheel))
        (self.site,) = (root / "venv" / "lib").glob("python*/site-packages")
        # A plain path: llmasos itself, which is an editable install there, is not seen through it.
        (self.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def _call(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *words: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``llmasos`` in ``work``; it must end with ``code``."""
        command = [str(self.root / "venv" / "bin" / "llmasos"), *map(str, words)]
        environ = self.environ | variables
        if not self.online:
            command, environ = _cut_off(command, environ, self.root)
        done = subprocess.run(
            command,
            env=environ,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str | Path, **variables: str) -> Any:
        """What a command answers with ``--json``."""
        return json.loads(self.run(*words, "--json", **variables).stdout)

    def refused(self, *words: str | Path, code: int = 1) -> str:
        """What a command that must fail says, in one line of text."""
        return " ".join(self.run(*words, code=code).stderr.split())

    def packages(self) -> dict[str, bytes]:
        """Every file of installed packages, besides those of llmasos itself."""
        return {
            path.relative_to(self.site).as_posix(): path.read_bytes()
            for path in sorted(self.site.rglob("*"))
            if path.is_file()
            and path.parent != self.site
            and not path.relative_to(self.site).parts[0].startswith(("llmasos-0", "llmasos_registry"))
        }


def _cut_off(command: list[str], environ: dict[str, str], root: Path) -> tuple[list[str], dict[str, str]]:
    """The command in a network namespace that has nothing in it, or, where that cannot be made, without sockets."""
    if shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], check=False).returncode == 0:
        return ["unshare", "-rn", *command], environ
    guard = root / "guard"
    guard.mkdir(exist_ok=True)
    (guard / "sitecustomize.py").write_text(_NO_SOCKETS, encoding="utf-8")
    return command, environ | {"PYTHONPATH": str(guard), "UV_OFFLINE": "1"}


@pytest.fixture(scope="session")
def llmasos_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llmasos as it would be released from this checkout."""
    return build_wheel(CHECKOUT, tmp_path_factory.mktemp("llmasos-wheel"))


class Published(NamedTuple):
    """What the author put into the registry, and the number that he saw."""

    registry: Server
    author: Machine
    wheel: Path
    keyid: str
    value: float


@pytest.fixture(scope="session")
def published(
    start_server: Callable[..., Server], llmasos_wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    """An author of the organisation acme publishes the example plugin and a model that was trained with it."""
    registry = start_server()
    token = registry.user("ada", ("write", "publish"))
    registry.org("acme", {"ada": "owner"})
    author = Machine(tmp_path_factory.mktemp("author"), llmasos_wheel, registry.url, token)
    author.run("registry", "key", "new", "--register")
    author.run("registry", "key", "register", "--account", "acme")
    wheel = build_wheel(EXAMPLE, tmp_path_factory.mktemp("ngram-wheel"))
    keyid = author.json("plugin", "publish", wheel)["keyid"]
    author.run("install", PLUGIN, "--yes")
    corpus = (CHECKOUT / "docs" / "explanation" / "evaluation.md").read_text(encoding="utf-8")
    (author.work / "corpus.txt").write_text(corpus, encoding="utf-8")
    author.run("ngram", "train", "corpus.txt", "-o", "ngram-demo", "--order", "3", "--license", "Apache-2.0")
    done = author.json("model", "publish", "ngram-demo", MODEL, "--version", "1.0.0")
    assert done["version"] == "1.0.0"
    return Published(registry, author, wheel, keyid, score(author, "ngram-demo"))


@pytest.fixture
def machine(published: Published, llmasos_wheel: Path, tmp_path: Path) -> Machine:
    """A new machine that knows the registry's address and nothing else."""
    return Machine(tmp_path / "reader", llmasos_wheel, published.registry.url)


def score(machine: Machine, model: str) -> float:
    """Bits a character."""
    (task,) = machine.json("eval", model, TASK)["tasks"]
    (value,) = [s["value"] for s in task["scores"] if s["metric"] == f"{PLUGIN}/bits_per_character"]
    return float(value)
