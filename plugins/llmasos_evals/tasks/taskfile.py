"""Reading a task file: YAML, ``!function`` and ``include``, as lm-evaluation-harness 0.4 reads them.

Nothing here runs code: ``!function`` becomes a :class:`FunctionRef`, which ``functions.py`` turns into a callable only
when the user allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmasos.api import InputError
from llmasos_evals.tasks.nesting import check_nesting

#: A task file is prose and templates; the largest in use is under 1 MB.
MAX_BYTES = 8 * 2**20

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """``!function module.name``: a function in ``module.py`` beside the file that names it."""

    spec: str
    folder: Path

    @property
    def file(self) -> Path:
        """The Python file, whether or not it exists."""
        module = self.spec.rpartition(".")[0]
        return self.folder / f"{module.replace('.', '/')}.py"

    @property
    def name(self) -> str:
        """The function within the file."""
        return self.spec.rpartition(".")[2]

    def __str__(self) -> str:
        return f"!function {self.spec}"


def read_taskfile(path: Path) -> dict[str, Any]:
    """The keys of a task or group file with its includes merged in.

    ``include`` is a path or a list of paths relative to the file that has it; later ones override earlier ones and the
    file's own keys override all. ``!function`` and relative ``data_files`` belong to the file that states them.
    Raises InputError for a file that is missing, is not a YAML mapping, or includes itself.
    """
    return _read(path, (), {})


def _read(path: Path, parents: tuple[Path, ...], known: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """``known`` are files that were read: files that include one twice, each of many in a row, must not take for ever."""
    try:
        path = path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, or no path at all
        raise InputError(f"cannot read task file {path}: {error}") from error
    if path in known:
        return dict(known[path])
    if path in parents:
        chain = " -> ".join(str(p) for p in (*parents[parents.index(path) :], path))
        raise InputError(f"task files include each other in a circle: {chain}", hint="remove one `include:`")
    own = _parse(path, included_by=parents[-1] if parents else None)
    includes = own.pop("include", None)
    if includes is None:
        return own
    if isinstance(includes, str):
        includes = [includes]
    if not isinstance(includes, list) or not all(isinstance(item, str) for item in includes):
        raise InputError(f"{path}: `include` must be a path or a list of paths")
    merged: dict[str, Any] = {}
    for item in includes:
        inherited = _read(path.parent / item, (*parents, path), known)
        inherited.pop("task_list", None)  # lists the tasks of the included file only
        merged.update(inherited)
    merged.update(own)
    known[path] = merged
    return dict(merged)


def _parse(path: Path, included_by: Path | None) -> dict[str, Any]:
    where = f" (included by {included_by})" if included_by else ""
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"no task file {path}{where}", hint="check the path") from error
    except OSError as error:
        raise InputError(f"cannot read task file {path}{where}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise InputError(
            f"{path}: larger than {MAX_BYTES // 2**20} MiB, which no task file is",
            hint="TASK is a name that `llmasos eval ls` lists, or the path of a task file",
        )
    return parse_text(raw, path)


def parse_text(raw: bytes, path: Path) -> dict[str, Any]:
    """The keys of YAML text that stands in the file ``path``, includes left as they are. Raises InputError."""
    check_nesting(raw, path)
    try:
        value = yaml.load(raw, Loader=_loader(path.parent))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(
            f"{path}: not valid YAML: {_one_line(error)}",
            hint="text with `: `, `#`, `{` or `[` in it stands between quotes; indent with spaces",
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: a task file is a mapping of fields, this is {type(value).__name__}",
            hint="it begins with a line such as `task: my_task`",
        )
    value = {str(key): item for key, item in value.items()}
    anchor_data_files(value, path.parent)
    return value


def _loader(folder: Path) -> Any:
    loader_class: Any = type(
        "Loader", (_Base,), {}
    )  # one a folder: constructors are class attributes in PyYAML

    def construct(loader: Any, node: Any) -> FunctionRef:
        spec = str(loader.construct_scalar(node)).strip()
        if "." not in spec.strip("."):
            raise InputError(
                f"{folder}: `!function {spec}` names no module; write `!function module.function`"
            )
        return FunctionRef(spec, folder)

    loader_class.add_constructor("!function", construct)
    return loader_class


class AnchoredPath(str):
    """An absolute path, and what the task file says: which of them is meant depends on where the data lies."""

    stated: str

    @classmethod
    def of(cls, stated: str, folder: Path) -> AnchoredPath:
        """The path of a file or pattern that is relative to ``folder``."""
        path = cls(folder / Path(stated).expanduser())
        path.stated = stated
        return path


def anchor_data_files(value: dict[str, Any], folder: Path) -> None:
    """Relative data files and data folders are relative to the file that states them."""
    options = value.get("dataset_kwargs")
    if not isinstance(options, dict):
        return

    def anchor(item: Any) -> Any:
        if isinstance(item, list):
            return [anchor(entry) for entry in item]
        if isinstance(item, str) and "://" not in item and not isinstance(item, AnchoredPath):
            return AnchoredPath.of(item, folder)
        return item

    made = dict(options)
    if "data_files" in options:
        files = options["data_files"]
        made["data_files"] = (
            {key: anchor(item) for key, item in files.items()} if isinstance(files, dict) else anchor(files)
        )
    if "data_dir" in options:
        made["data_dir"] = anchor(options["data_dir"])
    value["dataset_kwargs"] = made


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace(' in "<byte string>",', " at").split())
