"""A model's folder before it is published: which files go up, what must not, the card, the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from llmasos.errors import InputError
from llmasos.kernel.atomic import write_atomic
from llmasos.kernel.model_manifest import MANIFEST_FILE, parse_model_manifest
from llmasos_registry.signatures.model_files import UNSIGNED, list_files
from llmasos_registry.weights import MAX_CONFIG, WeightsRefused, check_file

CARD = "README.md"
#: What tools leave behind in a folder; never part of a model, wherever it lies.
LEFT_BEHIND = frozenset({".git", ".cache", ".DS_Store", ".ipynb_checkpoints", "__pycache__", "Thumbs.db"})
_MAX_CARD = 4 << 20
_MAX_FRONT_MATTER = 256 << 10
_MAX_DEPTH = 32
_SHOWN = 5
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class ModelFolder(NamedTuple):
    """The files to publish, and what was left out; relative paths. ``size`` is the sum in bytes."""

    root: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    size: int


def read_folder(root: Path) -> ModelFolder:
    """List a folder. Raises InputError for a folder that is missing, empty or holds links."""
    everything = list_files(root, UNSIGNED)
    left_out = sorted({_left_behind(path) for path in everything} - {""})
    files = tuple(path for path in everything if not _left_behind(path))
    if not files:
        raise InputError(f"{root} holds no files")
    return ModelFolder(root, files, tuple(left_out), sum((root / path).stat().st_size for path in files))


def check_folder(folder: ModelFolder, kind: str) -> None:
    """Refuse what the registry would refuse, all of it at once. Raises InputError naming files and what to do."""
    problems: list[InputError] = []
    for path in folder.files:
        try:
            _check_file(folder.root / path, path, kind)
        except InputError as error:
            problems.append(error)
    if kind == "model":
        problems += _missing_shards(folder)
    if problems:
        raise _together(problems, folder.root)
    check_card(folder, kind)
    if kind == "model" and MANIFEST_FILE in folder.files:
        manifest = folder.root / MANIFEST_FILE
        parse_model_manifest(manifest.read_bytes(), source=str(manifest))


def check_card(folder: ModelFolder, kind: str) -> dict[str, Any]:
    """The front matter of the card. Raises InputError when there is none, or it does not name a licence."""
    flag = " --dataset" if kind == "dataset" else ""
    advice = f"`llmasos model publish {folder.root} ORG/NAME{flag} --write-card` writes a template"
    path = folder.root / CARD
    if CARD not in folder.files:
        raise InputError(f"{path} is missing: a {kind} needs a card that says what it is", hint=advice)
    text = _card_text(path)
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise InputError(
            f"{path} has no front matter: the lines between two lines of --- at its top",
            hint=f"{advice} above your text",
        )
    table = parse_front_matter(match["yaml"], path)
    if not table.get("license"):
        raise InputError(
            f"{path} does not state a licence in its front matter",
            hint="write `license: apache-2.0`, or the SPDX name of yours, or `other` with `license_name`",
        )
    if not text[match.end() :].strip():
        raise InputError(
            f"{path} has no text below its front matter", hint="say what it is and what it is for"
        )
    return table


def parse_front_matter(text: str, path: Path) -> dict[str, Any]:
    """A small YAML mapping without aliases, which could unfold to any size. Raises InputError."""
    if len(text) > _MAX_FRONT_MATTER:
        raise InputError(f"the front matter of {path} has more than {_MAX_FRONT_MATTER} characters")
    try:
        _check_events(text, path)
        table = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 2})" if mark is not None else ""
        raise InputError(f"the front matter of {path} is not valid YAML{line}: {first}") from error
    if not isinstance(table, dict):
        raise InputError(f"the front matter of {path} is not a list of `key: value` lines")
    return table


def _check_events(text: str, path: Path) -> None:
    """Refuse aliases and deep nesting before anything is built; stops reading where it refuses."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"the front matter of {path} uses YAML aliases", hint="write the value out")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise InputError(f"the front matter of {path} is nested more than {_MAX_DEPTH} deep")


def write_card(root: Path, repo_id: str, kind: str) -> Path:
    """Write a card to fill in, or put front matter above the text that is there. Raises InputError when both are there."""
    path = root / CARD
    text = _card_text(path) if path.is_file() else ""
    if _FRONT_MATTER.match(text):
        raise InputError(f"{path} has front matter already, and is not overwritten")
    body = text if text.strip() else _body(repo_id, kind)
    try:
        write_atomic(path, (_front_matter(kind) + "\n" + body).encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _front_matter(kind: str) -> str:
    # An empty licence is refused, so that a template cannot be published by accident.
    more = "pipeline_tag: text-generation\n" if kind == "model" else ""
    return f"---\nlicense: # an SPDX name such as apache-2.0 or mit\nlanguage:\n  - en\ntags:\n  - llmasos\n{more}---\n"


def _body(repo_id: str, kind: str) -> str:
    use = (
        f'```console\n$ llmasos generate registry://{repo_id} "Once upon a time"\n$ llmasos eval registry://{repo_id} TASK\n```\n'
        if kind == "model"
        else "Say how it is read, and what one record looks like.\n"
    )
    return f"""# {repo_id.split("/")[-1]}

One paragraph: what this {kind} is, who made it, and from what.

## Use

{use}
## Intended for, and not

What it was made for. What it must not be used for.

## Data

Where the data comes from, its licence, its languages, how it was cleaned.

## Results

Numbers, and how to run them again.

## Limits

Known errors, biases and gaps.
"""


def _left_behind(path: str) -> str:
    """The part of a path up to the name that a tool left behind; empty when there is none."""
    parts = path.split("/")
    for position, part in enumerate(parts):
        if part in LEFT_BEHIND:
            return "/".join(parts[: position + 1])
    return ""


def _check_file(file: Path, path: str, kind: str) -> None:
    try:
        check_file(path, file.stat().st_size, lambda: file.open("rb"), kind)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def _missing_shards(folder: ModelFolder) -> Iterable[InputError]:
    for path in folder.files:
        if not path.endswith(".safetensors.index.json"):
            continue
        table = _json(folder.root / path, path)
        weights = table.get("weight_map") if isinstance(table, dict) else None
        parent = path.rpartition("/")[0]
        shards = {str(name) for name in weights.values()} if isinstance(weights, dict) else set()
        for name in sorted(shards):
            if (f"{parent}/{name}" if parent else name) not in folder.files:
                yield WeightsRefused(f"{path} names {name}, which is not in the folder")


def _json(file: Path, path: str) -> Any:
    with file.open("rb") as opened:
        data = opened.read(MAX_CONFIG + 1)
    if len(data) > MAX_CONFIG:
        raise WeightsRefused(f"{path} has more than {MAX_CONFIG} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WeightsRefused(f"{path} is not valid JSON: {error}") from error


def _together(problems: list[InputError], root: Path) -> InputError:
    if len(problems) == 1:
        return problems[0]
    lines = [f"  {problem.message}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN} more")
    hints = list(dict.fromkeys(problem.hint for problem in problems if problem.hint))
    return InputError(
        f"{len(problems)} files in {root} cannot be published:\n" + "\n".join(lines),
        hint="; ".join(hints) or None,
    )


def _card_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _MAX_CARD:
            raise InputError(f"{path} has more than {_MAX_CARD} bytes")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as UTF-8 text: {error}") from error
