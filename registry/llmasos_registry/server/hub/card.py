"""What the registry reads out of a repository's own files: the card in README.md, llmasos.toml, evaluation results."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmasos_registry.server.failures import bad_request
from llmasos_registry.server.hub.yaml_text import YamlRefused, load_yaml, plain_values

CARD = "README.md"
MANIFEST = "llmasos.toml"
RESULTS = ".eval_results/"
#: Files longer than this are stored and not read.
MAX_READ = 1 << 20
MAX_SUMMARY = 300
MAX_TAGS = 200
#: Keys of a card whose values become tags, with what stands before the value; Hub clients filter by these.
_TAGGED = {
    "tags": "",
    "pipeline_tag": "",
    "library_name": "",
    "language": "",
    "license": "license:",
    "datasets": "dataset:",
    "base_model": "base_model:",
}
_TAGGED_DATASET = {
    "tags": "",
    "language": "language:",
    "license": "license:",
    "task_categories": "task_categories:",
    "task_ids": "task_ids:",
    "size_categories": "size_categories:",
    "multilinguality": "multilinguality:",
    "language_creators": "language_creators:",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One number of ``.eval_results/*.yaml``."""

    dataset: str
    task: str
    value: float
    filename: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the changed files of one commit say. ``card`` and ``manifest`` are None where those files were not among them."""

    card: Mapping[str, Any] | None = None
    summary: str = ""
    #: The whole card, for the full-text search.
    text: str = ""
    manifest: Mapping[str, Any] | None = None
    results: Mapping[str, tuple[Result, ...]] = field(default_factory=dict)


def is_read(path: str) -> bool:
    """Whether the registry looks into the file at this path (when it is no larger than MAX_READ and not in LFS)."""
    return path in (CARD, MANIFEST) or (
        path.startswith(RESULTS) and path.count("/") == 1 and path.endswith((".yaml", ".yml"))
    )


def read_facts(contents: Mapping[str, bytes]) -> Facts:
    """Facts out of the new contents of the paths that ``is_read`` names. Raises Failure 400 naming file and line."""
    card: Mapping[str, Any] | None = None
    manifest: Mapping[str, Any] | None = None
    summary = card_text = ""
    results: dict[str, tuple[Result, ...]] = {}
    for path, data in contents.items():
        if not is_read(path) or len(data) > MAX_READ:
            continue
        text = _text(path, data)
        if path == CARD:
            errors, card = check_card(text)
            if errors:
                raise bad_request(f"{CARD}: {errors[0]}", hint="correct the block between the `---` lines")
            summary, card_text = first_paragraph(text), text
        elif path == MANIFEST:
            manifest = _manifest(text)
        else:
            results[path] = _results(path, text)
    return Facts(card, summary, card_text, manifest, results)


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise bad_request(f"{path} is not UTF-8 text") from None


def _manifest(text: str) -> Mapping[str, Any]:
    try:
        value: Mapping[str, Any] = plain_values(tomllib.loads(text))
    except (ValueError, RecursionError, YamlRefused) as error:
        raise bad_request(f"{MANIFEST}: {error}") from None
    return value


def front_matter(text: str) -> str | None:
    """The block between ``---`` lines at the beginning; None without one."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for number, line in enumerate(lines[1:], 1):
        if line.strip() == "---":
            return "\n".join(lines[1:number])
    return None


def check_card(text: str) -> tuple[list[str], Mapping[str, Any]]:
    """(what is wrong with the front matter, its values). A card without front matter has nothing wrong."""
    block = front_matter(text)
    if block is None:
        return [], {}
    try:
        value = load_yaml(block)
    except YamlRefused as refused:
        return [f"the metadata is not valid YAML: {refused}"], {}
    if value is None:
        return [], {}
    if not isinstance(value, dict):
        return ["the metadata is not a list of `key: value` lines"], {}
    errors = []
    for key in ("license", "pipeline_tag", "library_name"):
        item = value.get(key)
        allowed = item is None or isinstance(item, str) or (key == "license" and _strings(item))
        if not allowed:
            errors.append(f'"{key}" must be a string')
    for key in ("tags", "language", "datasets", "metrics", "base_model"):
        item = value.get(key)
        # `no` is Norwegian to its author and a truth value to YAML.
        if isinstance(item, bool) or (isinstance(item, list) and any(isinstance(i, bool) for i in item)):
            errors.append(f'"{key}" holds a truth value: put quotes around words such as no, yes, on')
        elif not (item is None or isinstance(item, str) or _strings(item)):
            errors.append(f'"{key}" must be a string or a list of strings')
    index = value.get("model-index")
    if index is not None and not (isinstance(index, list) and all(isinstance(i, dict) for i in index)):
        errors.append('"model-index" must be a list of entries')
    return errors, value


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def card_warnings(card: Mapping[str, Any], text: str) -> list[str]:
    """What readers of this card will miss."""
    if front_matter(text) is None:
        return ["there is no metadata: begin the file with `---`, `license: ...`, `---`"]
    return [] if card.get("license") else ['"license" is missing: readers cannot tell what they may do']


def card_tags(card: Mapping[str, Any] | None, kind: str) -> list[str]:
    """Tags of listings, from the card of a model or dataset, without repeats."""
    found: dict[str, None] = {}
    for key, prefix in (_TAGGED_DATASET if kind == "dataset" else _TAGGED).items():
        value = (card or {}).get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and 0 < len(item) <= 150:
                found[prefix + item] = None
    return list(found)[:MAX_TAGS]


def first_paragraph(text: str) -> str:
    """The first lines of prose of a card: what lists show of a repository."""
    block = front_matter(text)
    body = text if block is None else text.lstrip("\ufeff").split("---", 2)[-1]
    prose: list[str] = []
    for line in body.splitlines():
        bare = line.strip()
        if bare.startswith(("#", "<", "!", "[!", "|", "```", "---", "===")):
            if prose:
                break
            continue
        if bare:
            prose.append(bare)
        elif prose:
            break
    return " ".join(prose).replace("\0", "")[:MAX_SUMMARY]


def _results(path: str, text: str) -> tuple[Result, ...]:
    """The numbers of one file: a list of entries with ``dataset.id``, ``dataset.task_id`` and ``value``."""
    try:
        value = load_yaml(text)
    except YamlRefused as refused:
        raise bad_request(f"{path}: {refused}") from None
    entries = value if isinstance(value, list) else [value]
    found = []
    for number, entry in enumerate(entries, 1):
        dataset = entry.get("dataset") if isinstance(entry, dict) else None
        score = entry.get("value") if isinstance(entry, dict) else None
        if (
            not isinstance(dataset, dict)
            or not isinstance(dataset.get("id"), str)
            or isinstance(score, bool)
            or not isinstance(score, int | float)
        ):
            raise bad_request(
                f"{path}: entry {number} needs `dataset: {{id: ..., task_id: ...}}` and a number as `value`"
            )
        found.append(
            Result(dataset["id"][:200], str(dataset.get("task_id") or "")[:200], float(score), path, entry)
        )
    return tuple(found)
