"""Builds the native library of the CPU back end with the wheel. All else is in pyproject.toml.

The library is plain C++ behind a C interface, neither a Python extension nor tied to a Python or PyTorch version: the
wheel is `py3-none-<platform>`. It is optional. Without a compiler the build goes on, says why, and makes a pure wheel.
LLMASOS_BUILD_NATIVE=0 leaves it out, LLMASOS_BUILD_NATIVE=1 makes its absence an error.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
NATIVE = Path("plugins", "llmasos_cpu", "native")


def compile_script() -> ModuleType:
    """The script that knows sources, flags and compilers."""
    spec = importlib.util.spec_from_file_location("llmasos_native_build", ROOT / NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildNative(build_ext):
    """Compiles the library through its own script: a shared library without Python's name or flags."""

    built = False

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        script = compile_script()
        wish = os.environ.get("LLMASOS_BUILD_NATIVE")
        try:
            if wish == "0":
                raise script.BuildError("LLMASOS_BUILD_NATIVE=0 is set")
            script.build(
                Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp) / "native", os.cpu_count() or 1
            )
        except script.BuildError as error:
            if wish == "1":
                raise
            # setuptools prints this and goes on, for the extension is optional.
            raise CompileError(f"llmasos is built without native CPU kernels: {error}") from error
        self.built = True


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3 of the platform, or as pure when nothing was compiled."""

    def run(self) -> None:
        self.run_command("build_ext")
        self.root_is_pure = not self.get_finalized_command("build_ext").built
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        if self.root_is_pure:
            return "py3", "none", "any"
        return "py3", "none", super().get_tag()[2]


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / NATIVE).glob(pattern))


commands: dict[str, Any] = {"build_ext": BuildNative, "bdist_wheel": PlatformWheel}
setup(
    ext_modules=[
        Extension(
            "llmasos_cpu._native",
            sources("*.cpp"),
            depends=[*sources("*.h"), *sources("build.py")],
            language="c++",
            optional=True,
        )
    ],
    cmdclass=commands,
)
