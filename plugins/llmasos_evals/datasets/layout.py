"""Which files of a data set belong to which configuration and split.

The rules are those of the ``datasets`` library: the card (``README.md``) may say it under ``configs``; without that, names
of folders and files do. A loading script says nothing here: it is code, and is never run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from llmasos.api import InputError
from llmasos_evals.datasets.readers import ENDINGS

CARD = "README.md"
STANDALONE_CARD = ".huggingface.yaml"

_SEPARATORS = "-._ 0-9"
_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"data/([^/]*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_NO_DATA = frozenset(
    {CARD, "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"}
)
_MAGIC = re.compile(r"[*?[]")
_PACKED = frozenset({"gz", "bz2", "xz", "zst"})
#: Keys of a configuration that are no options of its reader.
_OWN_KEYS = frozenset(
    {"config_name", "data_files", "data_dir", "default", "description", "version", "drop_labels", "features"}
)
_CARD_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Layout:
    """One configuration: the files of each split, how they are read, and what the card says about columns."""

    config: str | None
    splits: Mapping[str, tuple[str, ...]]
    #: Of all files, or None: each split by the endings of its files.
    format: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Column types as the card states them, unread; None when it says nothing.
    features: Any = None


def find_layout(
    names: Sequence[str],
    card: Mapping[str, Any],
    config: str | None,
    *,
    what: str,
    data_files: Any = None,
    data_dir: str | None = None,
    whole: bool = True,
) -> Layout:
    """The configuration of a data set whose files have these ``names`` (relative, with ``/``).

    ``data_files`` and ``data_dir`` of the task stand in for what the card says. ``whole`` False: there may be more files than
    these, so that splits without any are left out. Raises InputError naming the configurations
    there are, a pattern that fits no file, or files of a kind that cannot be read.
    """
    configs = _configs(card, what)
    chosen: Mapping[str, Any] = {}
    if data_files is None and data_dir is None:
        chosen = _choose(configs, config, what)
        if chosen:
            config = str(chosen["config_name"])
        data_files, data_dir = chosen.get("data_files"), chosen.get("data_dir")
    base = f"{data_dir.strip('/')}/" if data_dir else ""
    known = [name.removeprefix(base) for name in names if name.startswith(base)]
    patterns = _patterns(data_files, what) if data_files is not None else _default_patterns(known)
    splits: dict[str, tuple[str, ...]] = {}
    for split, wanted in patterns.items():
        found: dict[str, None] = {}
        for pattern in wanted:
            matched = match(known, pattern)
            if not matched and not whole and not _MAGIC.search(pattern):
                matched = [pattern]  # whoever asks for it will say that it is not here
            if not matched and whole and data_files is not None:
                raise InputError(f"{what} has no file {pattern!r}, which split {split!r} needs")
            found.update(dict.fromkeys(matched))
        splits[split] = tuple(found)
    formats = {
        split: _common_format(files, f"{what}, split {split!r},") for split, files in splits.items() if files
    }
    if not formats:
        raise InputError(f"{what} has no files")
    same = len({name for name, _ in formats.values()}) == 1
    format_name, options = next(iter(formats.values())) if same else (None, {})
    return Layout(
        config,
        {
            split: tuple(base + name for name in splits[split] if _kind(name) == kind)
            for split, (kind, _) in formats.items()
        },
        format_name,
        {**options, **{key: value for key, value in chosen.items() if key not in _OWN_KEYS}},
        chosen.get("features") or _stated_features(card, config),
    )


def read_card(text: str) -> Mapping[str, Any]:
    """The YAML at the head of a card; empty when there is none or it cannot be read."""
    lines = text[:_CARD_BYTES].splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    return read_yaml("\n".join(lines[1 : lines[1:].index("---") + 1]))


def read_yaml(text: str) -> Mapping[str, Any]:
    """A YAML mapping from a data set; empty when it is none."""
    from llmasos_evals.tasks.nesting import check_nesting

    try:
        check_nesting(text.encode(), "card")
        value = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, InputError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, Mapping) else {}


def match(names: Iterable[str], pattern: str) -> list[str]:
    """Names that a pattern fits, sorted. ``*`` stays within a folder, ``**`` does not; hidden files and folders whose names
    begin with two underscores have to be named."""
    regex = _regex(pattern.removeprefix("./"))
    hidden, special = _unusual(pattern)
    return sorted(
        name
        for name in names
        if regex.fullmatch(name)
        and _unusual(name) == (hidden, special)
        and name.rpartition("/")[2] not in _NO_DATA
    )


def _unusual(path: str) -> tuple[int, int]:
    parts = path.split("/")
    return (
        sum(part.startswith(".") and part not in (".", "..") for part in parts),
        sum(part.startswith("__") for part in parts[:-1]),
    )


@lru_cache(maxsize=512)
def _regex(pattern: str) -> re.Pattern[str]:
    out = []
    parts = pattern.split("/")
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            out.append(".+" if last else "(?:.+/)?")
            continue
        out.append(_regex_of_part(part) + ("" if last else "/"))
    return re.compile("".join(out), re.DOTALL)


def _regex_of_part(part: str) -> str:
    out, place = [], 0
    while place < len(part):
        char = part[place]
        place += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := part.find("]", place + 1)) > 0:
            body = part[place:end].replace("\\", "\\\\")
            out.append("[" + ("^" + body[1:] if body[0] in "!^" else body) + "]")
            place = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)


# ---- the card ---------------------------------------------------------------------------------------------------------


def _configs(card: Mapping[str, Any], what: str) -> list[Mapping[str, Any]]:
    configs = card.get("configs") or []
    if not isinstance(configs, list) or not all(
        isinstance(item, Mapping) and isinstance(item.get("config_name"), str) for item in configs
    ):
        raise InputError(f"{what}: `configs` of its card is not a list of configurations with names")
    return configs


def _choose(configs: Sequence[Mapping[str, Any]], config: str | None, what: str) -> Mapping[str, Any]:
    names = [str(item["config_name"]) for item in configs]
    hint = (
        f"its configurations: {', '.join(names)}" if names else "leave `dataset_name` out, or set it to null"
    )
    if config is not None:
        if config in names:
            return configs[names.index(config)]
        if not names and config == "default":
            return {}
        raise InputError(f"{what} has no configuration {config!r}", hint=hint)
    if not configs:
        return {}
    default = [
        item
        for item in configs
        if len(configs) == 1 or item["config_name"] == "default" or item.get("default")
    ]
    if len(default) != 1:
        raise InputError(f"{what} has several configurations, and the task names none", hint=hint)
    return default[0]


def _patterns(data_files: Any, what: str) -> dict[str, list[str]]:
    if isinstance(data_files, str):
        return {"train": [data_files]}
    if isinstance(data_files, Mapping):
        entries = [(str(split), paths) for split, paths in data_files.items()]
    elif isinstance(data_files, list) and all(isinstance(item, Mapping) for item in data_files):
        entries = [(str(item.get("split")), item.get("path")) for item in data_files]
    else:
        entries = [("train", data_files)]
    patterns: dict[str, list[str]] = {}
    for split, paths in entries:
        listed = [paths] if isinstance(paths, str) else paths
        if not isinstance(listed, list) or not all(isinstance(path, str) for path in listed):
            raise InputError(
                f"{what}: data files of split {split!r} are not a path or a list of paths: {paths!r}"
            )
        if split in patterns:
            raise InputError(f"{what}: split {split!r} is listed twice")
        patterns[split] = listed
    return patterns


def _stated_features(card: Mapping[str, Any], config: str | None) -> Any:
    stated = card.get("dataset_info")
    infos = [stated] if isinstance(stated, Mapping) else stated if isinstance(stated, list) else []
    for info in infos:
        if isinstance(info, Mapping) and (
            info.get("config_name") == config or ("config_name" not in info and len(infos) == 1)
        ):
            return info.get("features")
    return None


# ---- without a card ---------------------------------------------------------------------------------------------------


def _default_patterns(names: Sequence[str]) -> dict[str, list[str]]:
    """The first rule that finds files: shards under ``data/``, folders named like splits, files named like splits, all."""
    shards = {shard[1] for name in names if (shard := _SHARD.fullmatch(name))}
    if shards:
        ordered = [split for split in _KEYWORDS if split in shards] + sorted(shards - set(_KEYWORDS))
        return {
            split: [f"data/{split}-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]*.*"]
            for split in ordered
        }
    for forms in (
        ("**/{0}/**", "**/{0}[{1}]*/**", "**/*[{1}]{0}/**", "**/*[{1}]{0}[{1}]*/**"),
        ("**/{0}[{1}]*", "**/*[{1}]{0}[{1}]*"),
    ):
        found = {
            split: [form.format(word, _SEPARATORS) for word in words for form in forms]
            for split, words in _KEYWORDS.items()
        }
        found = {
            split: patterns
            for split, patterns in found.items()
            if any(match(names, pattern) for pattern in patterns)
        }
        if found:
            return found
    return {"train": ["**"]}


def _kind(name: str) -> str | None:
    for suffix in reversed(name.rpartition("/")[2].split(".")[1:]):
        if suffix.lower() not in _PACKED:
            known = ENDINGS.get("." + suffix.lower())
            return known[0] if known else None
    return None


def _common_format(files: Sequence[str], what: str) -> tuple[str, Mapping[str, Any]]:
    """The format of most files; a draw goes to the one whose values need no guessing."""
    endings = Counter(
        "." + suffix.lower() for name in files for suffix in name.rpartition("/")[2].split(".")[1:]
    )
    known = {ending: count for ending, count in endings.items() if ending in ENDINGS}
    if not known:
        raise InputError(
            f"{what} has no data files that can be read",
            hint=f"formats: {', '.join(sorted(ending[1:] for ending in ENDINGS))}",
        )
    order = (".parquet", ".arrow", ".jsonl", ".json", ".csv")
    best = min(
        known,
        key=lambda ending: (-known[ending], order.index(ending) if ending in order else len(order), ending),
    )
    return ENDINGS[best]
