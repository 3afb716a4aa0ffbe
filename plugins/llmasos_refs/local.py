"""Models on this machine's disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmasos.api import ModelNotFound, ResolvedModel
from llmasos_refs.near import listed, near_misses


def resolve_path(ref: str) -> ResolvedModel:
    """A file or directory; ``~`` is the home directory. Raises ModelNotFound with what is there instead."""
    if not ref.strip():
        raise ModelNotFound(
            "the model reference is empty", hint="give a path, hf://org/name or pypi:package/path"
        )
    if "\0" in ref:
        raise ModelNotFound("the model reference holds a NUL character", hint="check how it was written")
    path = Path(ref).expanduser()
    try:
        if path.exists():
            return ResolvedModel(ref=ref, path=path.resolve(), source="path")
    except OSError as error:
        raise ModelNotFound(
            f"{ref} cannot be opened: {error.strerror}", hint="check the path and its permissions"
        ) from None
    hints = _hints(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", ref):
        hints.append(
            f"for a Hugging Face repository write hf://{ref}, for one of a registry registry://{ref}"
        )
    raise ModelNotFound(f"there is no file or directory {ref}", hint="; ".join(hints) or "check the path")


def _hints(path: Path) -> list[str]:
    """What the nearest directory that does exist offers."""
    absolute = Path(os.path.abspath(path))
    parent = next((folder for folder in absolute.parents if folder.is_dir()), None)
    if parent is None:
        return []
    missing = absolute.relative_to(parent).parts[0]
    try:
        names = sorted(entry.name for entry in os.scandir(parent))
    except OSError:
        return []
    near = near_misses(missing, names)
    if near:
        return [f"in {parent} there is {listed(near)}"]
    if parent != absolute.parent:
        return [f"{parent} has no {missing}"]
    return []
