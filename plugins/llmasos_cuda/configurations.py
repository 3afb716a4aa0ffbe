"""Sizes of blocks and numbers of warps, per architecture, as data: ``configurations.toml``, and what was tuned on this machine.

A table is looked up by architecture, kernel and variant. The variant ``few.half.128`` falls back to ``few.half`` and ``few``; an
architecture falls back to the lower ones that the file has, nearest first, and all to ``base``.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from llmasos.api import ConfigError
from llmasos_cuda.launching import INTERPRETER, architecture

#: Where ``llmasos backend tune`` keeps what it found, below a back end's folder in the cache.
TUNED = "tuned.toml"
#: More is no configuration but a mistake.
_LARGEST = 4096

Table = Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]

#: What was tuned on this machine; kernels are launched from functions without an owner, so it is kept for the process.
_tuned: dict[str, Any] = {}


def configuration(tensor: Tensor, kernel: str, variant: str) -> Mapping[str, int]:
    """The sizes for ``kernel`` on the device of ``tensor``. Raises KeyError for a kernel without any."""
    return settings(architecture(tensor), kernel, variant)


@functools.cache
def settings(architecture: str, kernel: str, variant: str) -> Mapping[str, int]:
    """The sizes for a kernel on an architecture: what is nearest to it for each size."""
    found: dict[str, int] = {}
    for name in reversed(list(_fallbacks(architecture))):
        for table in (shipped(), _tuned):
            of_kernel = table.get(name, {}).get(kernel, {})
            for part in reversed(list(_shorter(variant))):
                found.update(of_kernel.get(part, {}))
    if not found:
        raise KeyError(f"no configuration of {kernel} {variant} for {architecture}")
    return found


def _fallbacks(architecture: str) -> Iterator[str]:
    """The architecture itself, the lower ones that have tables, nearest first, and ``base``."""
    yield architecture
    if architecture != INTERPRETER:
        lower = [
            name for name in shipped() if name.startswith("sm_") and _number(name) < _number(architecture)
        ]
        yield from sorted(lower, key=_number, reverse=True)
    yield "base"


def _number(architecture: str) -> int:
    return int(architecture.removeprefix("sm_"))


def _shorter(variant: str) -> Iterator[str]:
    yield variant
    while "." in variant:
        variant = variant.rpartition(".")[0]
        yield variant


@functools.cache
def shipped() -> Table:
    """The table that comes with the plugin."""
    return read(Path(__file__).with_name("configurations.toml"))


def adopt(folder: Path) -> Path | None:
    """Use what was tuned on this machine from now on, if anything was; returns its file. Raises ConfigError for a bad one."""
    path = folder / TUNED
    _tuned.clear()
    if path.is_file():
        _tuned.update(read(path))
    settings.cache_clear()
    return path if _tuned else None


@contextmanager
def trying(architecture: str, kernel: str, variant: str, sizes: Mapping[str, int]) -> Iterator[None]:
    """Within it a variant of a kernel has other sizes, as far as they are given."""
    held = _tuned.setdefault(architecture, {}).setdefault(kernel, {})
    before = held.get(variant)
    held[variant] = {**settings(architecture, kernel, variant), **sizes}
    settings.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del held[variant]
        else:
            held[variant] = before
        settings.cache_clear()


def read(path: Path) -> Table:
    """A table of configurations. Raises ConfigError for a file that is none."""
    hint = f"remove {path}, or write it again with `llmasos backend tune`"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint=hint) from None
    for place, value in _leaves(table, ()):
        if len(place) != 4 or type(value) is not int or not 1 <= value <= _LARGEST:
            raise ConfigError(f"{path}: {'.'.join(place)} = {value!r} is no size of a kernel", hint=hint)
    return table


def _leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    else:
        yield place, value
