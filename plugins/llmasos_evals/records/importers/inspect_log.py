"""Logs of Inspect (inspect_ai), format 2: ``.eval`` archives and ``.json``.

A score of a scorer becomes ``metric (scorer)``, for example accuracy (match). Values C, I, P and N count 1, 0, 0.5 and 0, as there.
A sample that ran in several epochs becomes a document an epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.records.importers.archive import Archive
from llmasos_evals.records.importers.result import Imported, line, number, score, table, text, whole
from llmasos_evals.records.samples import pack
from llmasos_evals.records.untrusted import file_digest, foreign_json, regular_file

#: Bytes of a JSON log, of the header and of one sample of an archive.
MAX_LOG, MAX_HEADER, MAX_SAMPLE = 1 << 30, 256 << 20, 256 << 20
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_SAMPLE = re.compile(r"samples/.+_epoch_\d+\.json")


def recognise(found: Any) -> bool:
    """Whether a JSON value is a log."""
    return isinstance(found, dict) and isinstance(found.get("eval"), dict) and "task" in found["eval"]


def read(path: Path) -> Imported:
    """The run in a log. Raises InputError; MissingDependency for an archive that needs a package that is not here."""
    regular_file(path)
    if _is_archive(path):
        with Archive(path) as archive:
            header: Any = _object(archive.read("header.json", MAX_HEADER), f"{path}: header.json")
            names = [name for name in archive.names() if _SAMPLE.fullmatch(name)]
        samples = _archived(path, names)
    else:
        header = foreign_json(path, MAX_LOG)
        listed = table(header).get("samples")
        samples = iter([table(entry) for entry in listed] if isinstance(listed, list) else [])
    if not recognise(header):
        raise InputError(f"{path} is no log of inspect_ai: it has no `eval` with a task")
    return _imported(path, header, samples)


def _imported(path: Path, header: Mapping[str, Any], samples: Iterator[Mapping[str, Any]]) -> Imported:
    described, results = table(header["eval"]), table(header.get("results"))
    plan, stats = table(header.get("plan")), table(header.get("stats"))
    generation = table(plan.get("config")) or table(described.get("model_generate_config"))
    name = text(described.get("task")) or "task"
    dataset = table(described.get("dataset"))
    version = described.get("task_version")
    status = text(header.get("status"))
    limit = table(described.get("config")).get("limit")
    record = {
        "imported": {
            "tool": "inspect_ai",
            "version": text(table(described.get("packages")).get("inspect_ai")),
            "format": "inspect-log",
            "files": {path.name: file_digest(path)},
        },
        "model": {"ref": text(described.get("model"))},
        "tokenizer": {},
        "settings": {
            "tasks": [name],
            "limit": whole(limit),
            "seed": whole(generation.get("seed")),
            "system_instruction": text(generation.get("system_message")),
            "gen_kwargs": dict(generation) or None,
        },
        "scorer": {"name": "inspect"},
        "tasks": [
            {
                "name": name,
                "alias": text(described.get("task_display_name")) or name,
                "version": None if version is None else str(version),
                "output_type": "generate_until",
                "documents": whole(dataset.get("samples")),
                "data": _data(dataset) if dataset.get("name") else None,
                "generation": dict(generation) or None,
                "scores": [entry for part in results.get("scores") or [] for entry in _scores(table(part))],
            }
        ],
        "groups": [],
        "environment": {
            "packages": dict(table(described.get("packages"))),
            "revision": described.get("revision"),
        },
        "timings": {"started": text(stats.get("started_at")) or text(described.get("created"))},
    }
    remarks = [] if status == "success" else [f"the log's status is {status}: it may be incomplete"]
    return Imported(
        f"inspect-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}", record, {name: _lines(path, samples)}, remarks
    )


def _scores(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The metrics of a scorer; its standard error belongs to the first of the others."""
    metrics = {key: table(entry).get("value") for key, entry in table(part.get("metrics")).items()}
    scorer = text(part.get("name")) or text(part.get("scorer")) or "score"
    stderr = metrics.pop("stderr", None)
    for place, (metric, value) in enumerate(metrics.items()):
        yield score(
            metric,
            scorer,
            value,
            stderr if place == 0 else None,
            n=whole(part.get("scored_samples")),
            higher_is_better=True if metric == "accuracy" else None,
        )


def _data(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "other",
        "name": text(dataset.get("name")),
        "config": None,
        "revision": None,
        "split": None,
        "fewshot_split": None,
    }


# ---- samples --------------------------------------------------------------------------------------------------------


def _archived(path: Path, names: list[str]) -> Iterator[Mapping[str, Any]]:
    """Samples of an archive, one at a time."""
    with Archive(path) as archive:
        for name in names:
            yield _object(archive.read(name, MAX_SAMPLE), f"{path}: {name}")


def _lines(path: Path, samples: Iterator[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for index, sample in enumerate(samples):
        try:
            yield _line(index, sample)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}, sample {index} cannot be read: {error}") from None


def _line(index: int, sample: Mapping[str, Any]) -> dict[str, Any]:
    attached = table(sample.get("attachments"))
    prompt = _text(sample.get("input"), attached)
    output = table(sample.get("output"))
    choices = sample.get("choices")
    document = {"input": prompt, "target": sample.get("target"), **({"choices": choices} if choices else {})}
    items = []
    answered, explained = {}, {}
    for scorer, entry in table(sample.get("scores")).items():
        found = table(entry)
        items += _items(scorer, found.get("value"))
        answered[scorer], explained[scorer] = found.get("answer"), found.get("explanation")
    return line(
        index,
        document,
        prompts=[prompt],
        requests=[{"kind": "generate_until", "prompt": 0, "continuation": ""}],
        responses=[
            {
                "text": _text(output.get("completion"), attached),
                "tokens": whole(table(output.get("usage")).get("output_tokens")),
            }
        ],
        target=sample.get("target"),
        items=items,
        sample_id=pack(sample.get("id")),
        epoch=whole(sample.get("epoch")),
        answers=pack(answered),
        explanations=pack(explained),
    )


def _items(scorer: str, value: Any) -> list[list[Any]]:
    """What a score contributes: to accuracy, and each part of a score that has several under its own name."""
    if isinstance(value, Mapping):
        return [[str(name), scorer, _value(part)] for name, part in value.items()]
    return [["accuracy", scorer, _value(value)]]


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        return _VALUES.get(value, value)
    return pack(value) if number(value) is not None else None


def _text(value: Any, attached: Mapping[str, Any]) -> str:
    """Text of an input or output: a string, messages, or an attachment that either names."""
    if isinstance(value, list):
        return "\n".join(
            f"{table(message).get('role', '')}: {_text(table(message).get('content'), attached)}"
            if "role" in table(message)
            else _text(table(message).get("text"), attached)
            for message in value
        )
    if isinstance(value, str) and value.startswith("attachment://"):
        found = attached.get(value.removeprefix("attachment://"))
        return found if isinstance(found, str) else value
    return value if isinstance(value, str) else ""


# ---- files ----------------------------------------------------------------------------------------------------------


def _is_archive(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        # Scores that are NaN are written as such.
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where} is no JSON object")
    return found
