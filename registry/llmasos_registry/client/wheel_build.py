"""Building a project's wheel in an environment of its own: with uv, else with `build`, else with pip."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from llmasos.errors import InputError, MissingDependency, RunError

#: A wheel built twice from the same files has the same bytes: the times in it are this one unless somebody says otherwise.
EPOCH = "1577836800"
_SHOWN_LINES = 30


def build_wheel(project: Path, target: Path) -> Path:
    """The one wheel of a project folder, built into ``target``. The project's own build code runs.

    Raises InputError when the folder is no project or its build fails, MissingDependency when nothing can build.
    """
    if not (project / "pyproject.toml").is_file():
        raise InputError(
            f"{project} has no pyproject.toml", hint="name a project folder, or a wheel (dist/NAME.whl)"
        )
    environ = {"SOURCE_DATE_EPOCH": EPOCH, **os.environ}
    # A token has no business in a build.
    environ.pop("LLMASOS_TOKEN", None)
    command = [*_builder(), str(target), str(project)]
    done = subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(f"  {line}" for line in done.stdout.strip().splitlines()[-_SHOWN_LINES:])
        raise InputError(
            f"the wheel of {project} cannot be built:\n{tail}",
            hint=f"try it yourself: {' '.join(command[:-2])} DIR",
        )
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise RunError(f"building {project} gave {len(wheels)} wheels, expected one")
    return wheels[0]


def _builder() -> list[str]:
    """The command up to the folder to write to."""
    if uv := _uv():
        return [uv, "build", "--wheel", "--no-create-gitignore", "--out-dir"]
    if importlib.util.find_spec("build") is not None:
        return [sys.executable, "-m", "build", "--wheel", "--outdir"]
    if importlib.util.find_spec("pip") is not None:
        return [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--disable-pip-version-check",
            "--wheel-dir",
        ]
    raise MissingDependency("nothing is installed that builds wheels", hint="pip install 'llmasos[install]'")


def _uv() -> str | None:
    if importlib.util.find_spec("uv") is not None:
        import uv

        try:
            return str(uv.find_uv_bin())
        except FileNotFoundError:
            pass
    import shutil

    return shutil.which("uv")
