"""Compiles the native library of the CPU back end: one plain shared library, without Python or PyTorch headers.

A file's name decides the instructions it may use: `gemm_avx2.cpp` is compiled for AVX2, `gemm.cpp` for every
processor of the architecture. Files for one instruction set must not define anything that another file could
link to by accident: include only C headers, and keep helpers `static` or in an anonymous namespace, else the
linker may keep the AVX-512 copy of an inline function and run it on a processor that lacks AVX-512.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent

COMMON = [
    "-std=c++17", "-O3", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden",
    "-fvisibility-inlines-hidden", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-pthread",
    "-Wall", "-Wextra",
]  # fmt: skip

AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512 = [
    *AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512cd",
    "-mavx512dq",
    "-mavx512vl",
    "-mprefer-vector-width=512",
]
# Suffix of a file name -> flags. Files with a suffix are left out on other architectures.
X86_FLAGS = {
    "_avx2": AVX2,
    "_avxvnni": [*AVX2, "-mavxvnni"],
    "_avx512": AVX512,
    "_avx512vnni": [*AVX512, "-mavx512vnni"],
    "_avx512bf16": [*AVX512, "-mavx512bf16"],
    "_amx": [*AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


def compiler() -> list[str]:
    """Command of the C++ compiler: $CXX, else the first of c++, g++, clang++ found."""
    named = os.environ.get("CXX")
    if named:
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler found (looked for $CXX, c++, g++, clang++)")


def sources() -> list[tuple[Path, list[str]]]:
    """Every source with its own flags, in a fixed order."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    chosen = []
    for path in sorted(HERE.glob("*.cpp")):
        suffix = next((s for s in sorted(X86_FLAGS, key=len, reverse=True) if path.stem.endswith(s)), None)
        if suffix is None:
            chosen.append((path, []))
        elif x86:
            chosen.append((path, X86_FLAGS[suffix]))
    return chosen


def build(output: Path, work: Path, jobs: int = 2) -> Path:
    """Compiles what changed into `work` and links `output`. Raises BuildError with the compiler's words."""
    if sys.platform == "win32":
        raise BuildError("the native library is not built on Windows")
    cxx = compiler()
    work.mkdir(parents=True, exist_ok=True)
    headers = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HERE.glob("*.h")))).hexdigest()

    def compiled(item: tuple[Path, list[str]]) -> Path:
        source, flags = item
        command = [*cxx, *COMMON, *flags]
        key = hashlib.sha256(source.read_bytes() + headers.encode() + " ".join(command).encode()).hexdigest()[
            :16
        ]
        target = work / f"{source.stem}-{key}.o"
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}.o")
            run([*command, "-c", str(source), "-o", str(partial)])
            partial.replace(target)
        return target

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        objects = list(pool.map(compiled, sources()))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(f".{os.getpid()}.tmp")
    static = (
        ["-static-libstdc++", "-static-libgcc", "-Wl,-z,noexecstack"]
        if sys.platform.startswith("linux")
        else []
    )
    run([*cxx, "-shared", "-pthread", "-o", str(partial), *map(str, objects), *static])
    partial.replace(output)
    return output


def run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr.strip()}")
    if done.stderr.strip():
        print(done.stderr, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=HERE.parent / "_native.so")
    parser.add_argument(
        "--work", type=Path, default=HERE.parents[2] / "build" / "native", help="object files"
    )
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    try:
        print(build(arguments.output, arguments.work, arguments.jobs))
    except BuildError as error:
        print(f"not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
