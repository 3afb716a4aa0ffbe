"""Putting data on the shelf: which files belong to which split, whether they can be read, and what is in them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmasos.api import InputError, Progress, UsageError
from llmasos_evals.datasets.layout import find_layout
from llmasos_evals.datasets.opening import Data, DataRequest, open_folder
from llmasos_evals.datasets.places import FilesPlace
from llmasos_evals.datasets.readers import FORMATS, format_of
from llmasos_evals.datasets.shelf import NAME, SPLIT, Shelf, ShelfEntry, ShelfFile, file_digest


def shelve(
    shelf: Shelf,
    name: str,
    *,
    config: str | None,
    paths: Sequence[Path],
    splits: Sequence[tuple[str, Path]],
    format_name: str | None,
    options: Mapping[str, Any],
    copy: bool,
    again: bool,
    progress: Progress,
) -> ShelfEntry:
    """Read the files, and put them on the shelf under a name. Splits that are there already stay as they are.

    ``paths``: folders, whose files are laid out as a repository's are, or files, whose names say their split; ``splits``:
    files whose split is given. ``again`` takes a split that is there in its new form. Raises InputError for files that
    cannot be read, UsageError for a name that cannot be one or for a split that is there and differs.
    """
    if not NAME.fullmatch(name) or name in FORMATS:
        raise UsageError(f"{name!r} cannot name data", hint="a name such as mine or org/name")
    place = _collected(name, config, paths, splits, format_name, options)
    what = f"the data {name}"
    data = Data(DataRequest(name, name, config, options, of=what), None, place)
    progress.phase(f"reading {name}", len(place.splits))
    rows: dict[str, int] = {}
    columns: dict[str, tuple[str, ...]] = {}
    files: dict[str, tuple[ShelfFile, ...]] = {}
    for split in place.splits:
        read = data.split(split)
        if not len(read):
            progress.warn(f"split {split} of {name} is empty")
        rows[split], columns[split] = len(read), tuple(read.column_names)
        files[split] = tuple(_noted(path, what) for path in place.paths(split))
        progress.advance()
    if not any(rows.values()):
        raise InputError(
            f"there are no rows in {', '.join(str(path) for split in place.splits for path in place.paths(split))}",
            hint="nothing was added; look at the files, and at --format and --option",
        )
    entry = ShelfEntry(
        name=name,
        config=config,
        files=files,
        format=place.format,
        options=dict(place.options),
        rows=rows,
        columns=columns,
        added=datetime.now(UTC).isoformat(timespec="seconds"),
        copied=copy,
        features=place.features,
    )
    known = shelf.find(name, config)
    return shelf.put(entry if known is None else _merged(known, entry, again=again))


def _collected(
    name: str,
    config: str | None,
    paths: Sequence[Path],
    splits: Sequence[tuple[str, Path]],
    format_name: str | None,
    options: Mapping[str, Any],
) -> FilesPlace:
    files: dict[str, list[Path]] = {}
    place = FilesPlace({}, format_name, dict(options))
    for split, _ in splits:
        if not SPLIT.fullmatch(split):
            raise UsageError(f"{split!r} cannot name a split", hint="a name such as test or validation")
    for path in (*paths, *(path for _, path in splits)):
        if not path.exists():
            split, equals, file = str(path).partition("=")
            meant = equals and SPLIT.fullmatch(split) and Path(file).exists()
            raise InputError(
                f"no file or folder {path}",
                hint=f"did you mean --split {path}?" if meant else _beside(path),
            )
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is neither a file nor a folder", hint="write what it gives to a file")
    folders = [path for path in paths if path.is_dir()]
    if folders and (len(folders) > 1 or len(paths) > 1 or splits):
        raise UsageError("a folder is added alone", hint="name the files: --split SPLIT=FILE")
    if folders:
        # A card may name the configuration of the task, or the folder is that configuration.
        place = open_folder(folders[0].absolute(), config, name, options)
        return place if format_name is None else replace(place, format=format_name)
    named = {path.name: path.absolute() for path in paths}
    if len(named) != len(paths):
        raise UsageError("two files have the same name", hint="name their splits: --split SPLIT=FILE")
    if named:
        laid = find_layout(list(named), {}, None, what=f"the data {name}")
        for split, found in laid.splits.items():
            files.setdefault(split, []).extend(named[file] for file in found)
        lost = set(named) - {file for found in laid.splits.values() for file in found}
        if lost:
            raise UsageError(f"which split is {sorted(lost)[0]}?", hint=f"--split SPLIT={sorted(lost)[0]}")
    for split, path in splits:
        if path.is_dir():
            raise UsageError(f"--split {split}={path} names a folder", hint="name its files")
        files.setdefault(split, []).append(path.absolute())
    if not files:
        raise UsageError("no files were given", hint="llmasos data add NAME FILE, or --split SPLIT=FILE")
    if format_name is None:
        for path in (path for found in files.values() for path in found):
            if format_of(path.name) is None:
                raise InputError(
                    f"{path} has no ending of a known format", hint=f"--format {' | '.join(FORMATS)}"
                )
    return replace(place, files={split: tuple(found) for split, found in files.items()})


def _beside(path: Path) -> str:
    """A hint for a path that leads nowhere: names like it in its folder, or where it was looked for."""
    folder = path.parent
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.8)
    if near:
        return f"did you mean {', '.join(str(folder / name) for name in near)}?"
    return f"it was looked for in {folder.absolute()}"


def _noted(path: Path, what: str) -> ShelfFile:
    try:
        return ShelfFile(path, path.stat().st_size, file_digest(path))
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror}") from error


def _merged(known: ShelfEntry, new: ShelfEntry, *, again: bool) -> ShelfEntry:
    """What is there and what comes. Both are read with the same options, so these have to be the same."""
    for split, files in new.files.items():
        before = known.files.get(split)
        if before is not None and [f.sha256 for f in before] != [f.sha256 for f in files] and not again:
            raise UsageError(
                f"the data {known.title} has other files for split {split!r}",
                hint="--replace takes the new ones",
            )
    kept = {split: files for split, files in known.files.items() if split not in new.files}
    if kept and (known.format, dict(known.options)) != (new.format, dict(new.options)):
        raise UsageError(
            f"the data {known.title} is read with other options ({_told(known)})",
            hint="give all its splits again, with the options they need",
        )
    return replace(
        new,
        files={**kept, **new.files},
        rows={**known.rows, **new.rows},
        columns={**known.columns, **new.columns},
        copied=new.copied or known.copied,
        features=new.features if new.features is not None else known.features,
    )


def _told(entry: ShelfEntry) -> str:
    told = {"format": entry.format or "by ending", **entry.options}
    return ", ".join(f"{key}: {value}" for key, value in told.items())
