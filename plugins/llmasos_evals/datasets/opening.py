"""Opening the data a task names: files, the shelf, a folder, or the Hub, in that order."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmasos.api import HubAPI, InputError, LlmasosError, NotFound
from llmasos_evals.datasets.features import features_of
from llmasos_evals.datasets.layout import CARD, find_layout, match, read_card
from llmasos_evals.datasets.places import FilesPlace, Place
from llmasos_evals.datasets.readers import FORMATS, format_of, reader
from llmasos_evals.datasets.repository import ADDRESS, Repository, RepositoryPlace
from llmasos_evals.datasets.rows import Rows
from llmasos_evals.datasets.shelf import Shelf, ShelfPlace

#: Settings of ``datasets.load_dataset`` that do not change rows.
_IDLE = frozenset(
    {
        "trust_remote_code",
        "streaming",
        "verification_mode",
        "download_mode",
        "num_proc",
        "keep_in_memory",
        "save_infos",
        "cache_dir",
    }
)


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What a task says about its data."""

    task: str
    path: str | None
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The task file, for messages and for relative folders.
    source: Path = Path()
    #: Splits that the task may read, for hints.
    splits: Sequence[str] = ()
    #: Whose data it is, for messages. None: the task's.
    of: str | None = None

    @property
    def what(self) -> str:
        """Whose data it is, for messages."""
        return self.of or f"task {self.task}"


class Data:
    """The splits of one task, each read when it is first asked for.

    ``lenient``: the data is the user's choice and may lack splits that the task names; what needs them does without.
    """

    def __init__(self, request: DataRequest, hub: HubAPI | None, place: Place | None = None) -> None:
        self.request = request
        self._hub = hub
        self._given = place
        self._splits: dict[str, Rows] = {}

    @cached_property
    def place(self) -> Place:
        """Where the data lies. Raises InputError and NotFound."""
        return self._given or _find(self.request, self._hub)

    @property
    def names(self) -> Sequence[str]:
        """Names of the splits."""
        return self.place.splits

    @property
    def lenient(self) -> bool:
        """Whether splits that are not there count as null."""
        return isinstance(self.place, ShelfPlace)

    @property
    def origin(self) -> Mapping[str, str | None]:
        """For the record: kind, name, configuration and revision."""
        return self.place.origin

    def has(self, split: str | None) -> bool:
        """Whether there are files for a split."""
        return split in self.place.splits

    def split(self, name: str) -> Rows:
        """The rows of a split. Raises InputError when it has no file, or for a malformed file, naming the line."""
        if name not in self._splits:
            self._splits[name] = self._read(name)
        return self._splits[name]

    def _read(self, name: str) -> Rows:
        place, request = self.place, self.request
        if name not in place.splits:
            known = ", ".join(sorted(place.splits)) or "none"
            raise InputError(
                f"{request.what} reads split {name!r}, for which it has no data file (it has: {known})",
                hint=_add_hint(request, [name], place)
                or f"add it: `dataset_kwargs: {{data_files: {{{name}: FILE.jsonl}}}}`, or set the split to null",
            )
        paths = place.paths(name)
        format_name, options = _format(paths, place, f"{request.what}, split {name!r}")
        rows = reader(format_name)(paths, options, request.what)
        stated = place.features
        if stated is not None and format_name not in ("parquet", "arrow"):
            try:
                rows = rows.cast(features_of(stated))
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise InputError(
                    f"{request.what}: its data are not of the types that are stated: {error}"
                ) from error
        return rows


def open_data(
    task: str,
    dataset_path: str | None,
    dataset_kwargs: Mapping[str, Any] | None,
    source: Path,
    *,
    dataset_name: str | None = None,
    hub: HubAPI | None = None,
    splits: Sequence[str] = (),
) -> Data:
    """The data a task file names. Nothing is fetched and no rows are read here.

    Raises InputError for files that are not there and for settings without a meaning.
    """
    options = {key: value for key, value in (dataset_kwargs or {}).items() if key not in _IDLE}
    request = DataRequest(task, dataset_path, dataset_name, options, source, splits)
    if not dataset_path:
        raise InputError(
            f"{source}: task {task} names no data set",
            hint="`dataset_path: json` with `dataset_kwargs: {data_files: {SPLIT: FILE.jsonl}}`, or a name that "
            "`llmasos data add` was given",
        )
    if dataset_path in FORMATS and not _on_hub(options.get("data_files")):
        return Data(request, hub, _files(request))
    return Data(request, hub)


# ---- finding ----------------------------------------------------------------------------------------------------------


def _find(request: DataRequest, hub: HubAPI | None) -> Place:
    path = str(request.path)
    if path in FORMATS:
        return _remote_files(request, _needed(hub, request))
    if path.startswith((".", "/", "~")):
        return _folder(request)
    hub = _needed(hub, request)
    shelf = Shelf(hub.data_dir)
    entry = shelf.find(path, request.name) or (shelf.find(path, "default") if request.name is None else None)
    if entry is not None:
        return ShelfPlace(entry)
    options = dict(request.options)
    data_files, data_dir = options.pop("data_files", None), options.pop("data_dir", None)
    revision = options.pop("revision", None)
    features = options.pop("features", None)
    repository = Repository(path, revision, hub, request.what)
    try:
        place = RepositoryPlace(
            repository,
            request.name,
            data_files=None if data_files is None else _as_stated(data_files),
            data_dir=None if data_dir is None else str(_as_stated(data_dir)),
        )
    except NotFound as error:
        raise _with_hint(error, request, shelf) from error
    if options:
        place.options = {**place.options, **options}
    if features is not None:
        place.features = features
    return place


def _needed(hub: HubAPI | None, request: DataRequest) -> HubAPI:
    if hub is None:
        raise InputError(f"{request.what}: the data set {request.path!r} is not local")
    return hub


def _with_hint(error: LlmasosError, request: DataRequest, shelf: Shelf) -> LlmasosError:
    """The error with the way to give data that is not on the Hub, or cannot be fetched."""
    hint = _add_hint(request, request.splits, None)
    there = [config or "none" for config in shelf.configs(str(request.path))]
    if there:
        hint = f"the shelf has it with configuration {', '.join(there)}; {hint}"
    elif error.hint:
        hint = f"{error.hint}; or {hint}"
    return type(error)(error.message, hint=hint)


def _add_hint(request: DataRequest, splits: Sequence[str], place: Place | None) -> str | None:
    if place is not None and place.origin.get("kind") not in ("shelf", "hub"):
        return None
    config = f" --config {request.name}" if request.name else ""
    wanted = " ".join(f"--split {split}=FILE" for split in splits) or "--split SPLIT=FILE"
    return f"add files you have: llmasos data add {request.path}{config} {wanted}"


def _on_hub(files: Any) -> bool:
    return any(text.startswith("hf://") for text in _texts(files))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]


def _as_stated(value: Any) -> Any:
    """Paths as the task file has them: they are relative to the repository, not to the file."""
    if isinstance(value, Mapping):
        return {key: _as_stated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_stated(item) for item in value]
    return getattr(value, "stated", value)


# ---- files that a task names ------------------------------------------------------------------------------------------


def _files(request: DataRequest) -> FilesPlace:
    options = dict(request.options)
    given, folder = options.pop("data_files", None), options.pop("data_dir", None)
    features = options.pop("features", None)
    options.pop("revision", None)
    if not given and folder:
        given = str(Path(folder) / "**")
    if not given:
        raise InputError(
            f"{request.source}: task {request.task} has `dataset_path: {request.path}` but no data files",
            hint="add `dataset_kwargs: {data_files: {SPLIT: FILE.jsonl}}`",
        )
    if not isinstance(given, Mapping):
        given = {"train": given}  # what the datasets library calls a lone file
    files: dict[str, list[Path]] = {}
    for split, value in given.items():
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str):
                raise InputError(
                    f"{request.source}: data_files.{split} must be a path or a list of paths, not {name!r}"
                )
            if "://" in name:
                raise InputError(
                    f"{request.source}: data_files.{split} is a URL: {name}",
                    hint="download it and give the path",
                )
            if folder is not None and not Path(name).is_absolute():
                name = str(Path(folder) / name)
            files.setdefault(str(split), []).extend(_expanded(name, request))
    return FilesPlace(
        {split: tuple(paths) for split, paths in files.items()},
        request.path,
        options,
        features,
        {"kind": "files", "name": None, "config": None, "revision": None},
    )


def _expanded(name: str, request: DataRequest) -> list[Path]:
    if glob.has_magic(name) and not Path(name).exists():
        found = sorted(Path(path) for path in glob.glob(name, recursive=True) if Path(path).is_file())
        usable = [path for path in found if format_of(path.name) is not None] or found
        if usable:
            return usable
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"{request.source}: task {request.task}: no data file {path}",
            hint="relative paths are taken from the folder of the task file",
        )
    return [path]


def _remote_files(request: DataRequest, hub: HubAPI) -> Place:
    """Files named as ``hf://datasets/org/name/path``, all of one repository."""
    options = dict(request.options)
    given = options.pop("data_files")
    features = options.pop("features", None)
    options.pop("data_dir", None)
    splits = {
        split: _texts(value)
        for split, value in (given if isinstance(given, Mapping) else {"train": given}).items()
    }
    found = {text: ADDRESS.fullmatch(text) for texts in splits.values() for text in texts}
    addresses = [address for address in found.values() if address is not None and address["path"]]
    if len(addresses) != len(found) or len({(one["repo"], one["revision"]) for one in addresses}) != 1:
        raise InputError(
            f"{request.source}: data_files of task {request.task} are not files of one repository: {', '.join(found)}",
            hint="hf://datasets/org/name/path/in/it.jsonl",
        )
    repository = Repository(addresses[0]["repo"], addresses[0]["revision"], hub, request.what)
    place = _RemoteFiles(
        repository,
        {split: [str(found[text]["path"]) for text in texts] for split, texts in splits.items()},  # type: ignore[index]
    )
    place.format, place.options, place.features = request.path, options, features
    return place


class _RemoteFiles:
    """Files of a repository that a task names one by one."""

    def __init__(self, repository: Repository, patterns: Mapping[str, Sequence[str]]) -> None:
        self.repository = repository
        self.patterns = patterns
        self.splits: Sequence[str] = list(patterns)
        self.format: str | None = None
        self.options: Mapping[str, Any] = {}
        self.features: Any = None

    @property
    def origin(self) -> Mapping[str, str | None]:
        """For the record."""
        listing = self.repository.listing
        return {"kind": "hub", "name": listing.repo, "config": None, "revision": listing.commit}

    def paths(self, split: str) -> Sequence[Path]:
        """The files of a split, fetched where they are not in the cache."""
        names: list[str] = []
        for pattern in self.patterns[split]:
            found = match(self.repository.listing.names, pattern)
            if not found:
                raise InputError(
                    f"{self.repository.what}: the data set {self.repository.repo} has no file {pattern!r}"
                )
            names += found
        return self.repository.fetch(names)


def _folder(request: DataRequest) -> Place:
    """A folder with data files, and perhaps a card, as a repository has them."""
    folder = request.source.parent / Path(str(request.path)).expanduser()
    if not folder.is_dir():
        raise InputError(f"{request.source}: task {request.task}: no folder {folder} with data")
    return open_folder(folder, request.name, request.what, request.options)


def open_folder(folder: Path, config: str | None, what: str, options: Mapping[str, Any]) -> FilesPlace:
    """The data files of a folder, laid out as a repository's are. Raises InputError."""
    own = dict(options)
    data_files, data_dir = own.pop("data_files", None), own.pop("data_dir", None)
    features = own.pop("features", None)
    own.pop("revision", None)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    card = folder / CARD
    layout = find_layout(
        names,
        read_card(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {},
        config,
        what=f"{what}: the folder {folder}",
        data_files=None if data_files is None else _as_stated(data_files),
        data_dir=None if data_dir is None else str(_as_stated(data_dir)),
    )
    return FilesPlace(
        {split: tuple(folder / name for name in found) for split, found in layout.splits.items()},
        layout.format,
        {**layout.options, **own},
        features if features is not None else layout.features,
        {"kind": "files", "name": None, "config": layout.config, "revision": None},
    )


def _format(paths: Sequence[Path], place: Place, what: str) -> tuple[str, Mapping[str, Any]]:
    if place.format is not None:
        return place.format, place.options
    known = [format_of(path.name) for path in paths]
    names = {found[0] for found in known if found is not None}
    if None in known or len(names) != 1:
        raise InputError(
            f"{what}: its files are not of one known format: {', '.join(path.name for path in paths)}",
            hint=f"formats: {', '.join(FORMATS)}",
        )
    return names.pop(), {**(known[0] or ("", {}))[1], **place.options}
