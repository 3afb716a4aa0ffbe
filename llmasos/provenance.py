"""Where a number comes from: digests of weight files and plugin code, the machine and its libraries.

Digests of documents and prompts are computed where those are made, with ``llmasos.contracts.fingerprint``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.contracts.fingerprint import canonical_digest
from llmasos.contracts.hub import PluginInfo
from llmasos.errors import WeightsError

#: Read size when hashing: large enough that the system calls do not count.
_BLOCK = 1 << 20

#: Distributions whose version can change a number, listed in every record when they are installed.
LIBRARIES = (
    "gguf",
    "jinja2",
    "llmasos",
    "numpy",
    "rouge-score",
    "sacrebleu",
    "safetensors",
    "tokenizers",
    "torch",
)


def file_digest(path: Path) -> str:
    """sha256 of a file. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_digests(
    paths: Iterable[Path], *, cache_dir: Path, known: Mapping[Path, str] | None = None
) -> dict[str, str]:
    """sha256 of each file, by its path relative to the folder they share.

    A digest is remembered under ``cache_dir`` for as long as path, size and modification time (ns) stay the same.
    ``known`` holds what the source of the model vouches for. Raises WeightsError when a file is not what its source
    says, or cannot be read.
    """
    files = sorted({Path(os.path.abspath(path)) for path in paths})
    if not files:
        return {}
    vouched = {Path(os.path.abspath(path)): digest for path, digest in (known or {}).items()}
    root = Path(os.path.commonpath([file.parent for file in files]))
    result: dict[str, str] = {}
    for file in files:
        try:
            digest = _remembered_digest(file, cache_dir)
        except OSError as error:
            raise WeightsError(
                f"cannot read {file}: {error.strerror}", hint="check the path and its permissions"
            ) from None
        expected = vouched.get(file)
        if expected is not None and expected.lower() != digest:
            raise WeightsError(
                f"{file} has sha256 {digest}, but its source vouches for {expected}",
                hint="the file was changed or damaged after it was fetched; delete it and fetch it again",
            )
        result[file.relative_to(root).as_posix()] = digest
    return result


def _remembered_digest(path: Path, cache_dir: Path) -> str:
    """The digest from the cache when the file has not changed since, else computed and remembered."""
    status = path.stat()
    stamp = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    entry = cache_dir / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
    try:
        stored = json.loads(entry.read_text(encoding="utf-8"))
        if {key: stored[key] for key in stamp} == stamp and isinstance(stored["sha256"], str):
            return str(stored["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no entry, or one that another version wrote: compute it
    digest = file_digest(path)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(stamp | {"sha256": digest}), encoding="utf-8")
        os.replace(temporary, entry)
    except OSError:
        pass  # a cache that cannot be written costs time, not correctness
    return digest


def tree_digest(folder: Path) -> str:
    """sha256 over the names and contents of the files below a folder, byte code left out.

    What a plugin's version number cannot say: whether its code is the code of that version.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    )
    return canonical_digest([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])


def plugin_lock(plugins: Sequence[PluginInfo]) -> list[dict[str, str]]:
    """Id, version, distribution and code digest of each plugin, sorted by id."""
    return [
        {
            "id": plugin.id,
            "version": plugin.version,
            "distribution": plugin.distribution,
            "digest": tree_digest(plugin.path),
        }
        for plugin in sorted(plugins, key=lambda plugin: plugin.id)
    ]


def environment() -> dict[str, Any]:
    """The machine and the versions of the libraries that compute. Imports none of them."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": _torch("get_num_threads"),
        "accelerators": _accelerators(),
        "libraries": _versions(),
    }


def _versions() -> dict[str, str]:
    import importlib.metadata as metadata

    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name; ``platform.processor()`` says only ``x86_64`` on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _torch(function: str) -> Any:
    """``torch.FUNCTION()`` when torch is already imported: asking about it must not cost its import."""
    torch = sys.modules.get("torch")
    return getattr(torch, function)() if torch is not None else None


def _accelerators() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
