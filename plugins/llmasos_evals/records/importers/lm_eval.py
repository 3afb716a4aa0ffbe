"""Results and samples of lm-evaluation-harness, in every shape they have had.

``results_*.json``: scores as ``acc,none`` (0.4) or ``acc`` (0.3 and before). ``samples_TASK_*.jsonl`` beside it, one line a document
and filter; requests as ``gen_args_0: {arg_0, arg_1}`` (from 0.4.4 on) or as lists, answers as text or as numbers. Versions before
0.4.3 wrote all samples of a task as one JSON array in ``*_TASK.jsonl``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.records.importers.result import Imported, line, number, score, table, text, whole
from llmasos_evals.records.samples import pack
from llmasos_evals.records.untrusted import MAX_LINE, file_digest, foreign_json, regular_file

#: Bytes of a results file, or of an old samples file.
MAX_FILE = 1 << 30
#: What a line of samples has besides metrics.
_FIELDS = frozenset(
    {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
        "schema_version",
    }
)
#: What is a table in every results file that has it.
_TABLES = ("config", "configs", "group_subtasks", "higher_is_better", "n-samples", "n-shot", "versions")
#: What the table of a task has besides scores.
_NOT_SCORES = frozenset({"alias", "name", "sample_len", "sample_count"})


def recognise(found: Any) -> bool:
    """Whether a JSON value is a results file."""
    return isinstance(found, dict) and isinstance(found.get("results"), dict) and "eval" not in found


def read(path: Path) -> Imported:
    """The run behind a results file, or the newest one in a folder. Raises InputError."""
    file = _results_file(path)
    found = foreign_json(file, MAX_FILE)
    if not recognise(found):
        raise InputError(f"{file} is no results file of lm-evaluation-harness: it has no `results`")
    for name in _TABLES:
        if found.get(name) is not None and not isinstance(found[name], dict):
            raise InputError(f"{file}: its `{name}` is no table, as that harness writes it")
    tables = table(found["results"])
    groups = {name: list(members) for name, members in table(found.get("group_subtasks")).items() if members}
    tasks = [_task(name, entry, found) for name, entry in tables.items() if name not in groups]
    files = {file.name: file_digest(file)}
    samples, remarks = {}, []
    for task in tasks:
        beside = _samples_file(file, task["name"])
        if beside is None:
            remarks.append(f"no samples of {task['name']} lie beside {file.name}")
        else:
            files[beside.name] = file_digest(beside)
            samples[task["name"]] = _samples(beside, task)
    config, arguments = table(found.get("config")), _arguments(table(found.get("config")).get("model_args"))
    version = text(found.get("lm_eval_version"))
    ref = (
        text(found.get("model_name"))
        or arguments.get("pretrained")
        or arguments.get("model")
        or text(config.get("model"))
    )
    record = {
        "imported": {
            "tool": "lm-evaluation-harness",
            "version": version,
            "format": "lm-eval",
            "files": files,
        },
        "model": {
            "ref": ref,
            "revision": text(config.get("model_sha")) or text(config.get("model_revision")),
            "parameters": whole(config.get("model_num_parameters")),
            "dtype": (text(config.get("model_dtype")) or "").removeprefix("torch.") or None,
            "device": text(config.get("device")),
            "max_length": whole(found.get("max_length")),
        },
        "tokenizer": {
            "chat_template_applied": found["chat_template"] is not None if "chat_template" in found else None
        },
        "settings": {
            "tasks": [task["name"] for task in tasks],
            "limit": whole(config.get("limit")),
            "bootstrap": whole(config.get("bootstrap_iters")),
            "seed": whole(config.get("fewshot_seed")),
            "system_instruction": text(found.get("system_instruction")),
            "gen_kwargs": config["gen_kwargs"] if isinstance(config.get("gen_kwargs"), dict) else None,
        },
        "scorer": {"name": f"lm-eval {text(config.get('model')) or ''}".strip()},
        "tasks": tasks,
        "groups": [
            _group(name, members, tables, found) for name, members in groups.items() if name in tables
        ],
        "environment": {
            "transformers": found.get("transformers_version"),
            "about": text(found.get("pretty_env_info")),
        },
        "timings": {"started": _when(found, file)},
    }
    return Imported(f"lm-eval-{re.sub(r'[^A-Za-z0-9_.-]', '_', ref or file.stem)}", record, samples, remarks)


# ---- results --------------------------------------------------------------------------------------------------------


def _task(name: str, entry: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    config = table(table(found.get("configs")).get(name))
    sizes = table(table(found.get("n-samples")).get(name))
    count = whole(sizes.get("effective"))
    shots = whole(table(found.get("n-shot")).get(name))
    generation = table(config.get("generation_kwargs"))
    return {
        "name": name,
        "alias": (text(table(entry).get("alias")) or name).lstrip(" -"),
        "version": _version(table(found.get("versions")).get(name)),
        "output_type": text(config.get("output_type")),
        "num_fewshot": shots if shots is not None else whole(config.get("num_fewshot")),
        "documents": whole(sizes.get("original")),
        "data": _data(config) if config else None,
        "generation": dict(generation) if generation else None,
        "scores": _scores(name, entry, found, count),
    }


def _scores(name: str, entry: Any, found: Mapping[str, Any], count: int | None) -> list[dict[str, Any]]:
    values = table(entry)
    better = table(table(found.get("higher_is_better")).get(name))
    counts = table(values.get("sample_count"))
    scores = []
    for key, value in values.items():
        metric, comma, pipeline = key.partition(",")
        if key in _NOT_SCORES or metric.endswith("_stderr") or number(value) is None:
            continue
        stderr = values.get(f"{metric}_stderr{comma}{pipeline}")
        direction = better.get(metric)
        scores.append(
            score(
                metric,
                pipeline or "none",
                value,
                stderr,
                n=whole(counts.get(key)) or count,
                higher_is_better=direction if isinstance(direction, bool) else None,
            )
        )
    return scores


def _group(
    name: str, members: list[Any], tables: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "alias": (text(table(tables[name]).get("alias")) or name).lstrip(" -"),
        "version": _version(table(found.get("versions")).get(name)),
        "members": [str(member) for member in members],
        "scores": _scores(name, tables[name], found, None),
    }


def _data(config: Mapping[str, Any]) -> dict[str, Any]:
    path = text(config.get("dataset_path"))
    return {
        "kind": "files" if path in ("json", "csv", "parquet", "text") else "hub",
        "name": path,
        "config": text(config.get("dataset_name")),
        "revision": None,
        "split": text(config.get("test_split")) or text(config.get("validation_split")),
        "fewshot_split": text(config.get("fewshot_split")),
    }


def _version(value: Any) -> str | None:
    return None if value is None else str(value)


def _arguments(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): str(item) for name, item in value.items()}
    parts = (part.partition("=") for part in str(value or "").split(","))
    return {name: item for name, _, item in parts if item}


def _when(found: Mapping[str, Any], file: Path) -> str | None:
    date = found.get("date")
    if isinstance(date, int | float) and not isinstance(date, bool) and 0 < date < 1e11:
        return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds")
    stamp = re.search(r"(\d{4}-\d\d-\d\dT)(\d\d)-(\d\d)-(\d\d)", file.name)
    return f"{stamp[1]}{stamp[2]}:{stamp[3]}:{stamp[4]}" if stamp else None


# ---- samples --------------------------------------------------------------------------------------------------------


def _samples(file: Path, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The documents, the lines of several filters as one. Holds a task's lines: filters come one after the other."""
    documents: dict[int, dict[str, Any]] = {}
    known = {(entry["metric"], entry["filter"]) for entry in task["scores"]}
    for number_, entry in enumerate(_lines(file), start=1):
        try:
            index = entry["doc_id"]
            if type(index) is not int or index < 0:
                raise ValueError("doc_id")
            items = _items(entry, known)
            document = documents.setdefault(index, {}) or _document(index, entry)
            documents[index] = document
            document["items"] += items
            if any(request["kind"] == "generate_until" for request in document["requests"]):
                document["answers"][str(entry.get("filter", "none"))] = pack(entry.get("filtered_resps"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{file}, sample {number_} cannot be read: {error}") from None
    for index in sorted(documents):
        yield documents[index]


def _document(index: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    prompts: list[str] = []
    requests, responses = [], []
    answers = entry.get("resps", [])
    for place, arguments in enumerate(_requests(entry.get("arguments"))):
        context = str(arguments[0]) if arguments else ""
        if context not in prompts:
            prompts.append(context)
        given = answers[place] if place < len(answers) else []
        continuation = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], str) else ""
        for answer in given if isinstance(given, list) and given else [None]:
            kind, response = _response(answer)
            requests.append({"kind": kind, "prompt": prompts.index(context), "continuation": continuation})
            responses.append(response)
    return line(
        index,
        entry.get("doc"),
        doc_digest=entry["doc_hash"] if re.fullmatch("[0-9a-f]{64}", str(entry.get("doc_hash"))) else None,
        prompts=prompts,
        requests=requests,
        responses=responses,
        target=entry.get("target"),
        items=[],
        answers={},
    )


def _requests(arguments: Any) -> list[list[Any]]:
    """The arguments of each request, from either shape."""
    if isinstance(arguments, Mapping):
        return [list(table(parts).values()) for parts in arguments.values()]
    return [list(parts) if isinstance(parts, list) else [parts] for parts in arguments or []]


def _response(answer: Any) -> tuple[str, dict[str, Any]]:
    """(kind of the request, the answer): (nats, greedy), nats, or text."""
    if isinstance(answer, list) and len(answer) == 2:
        nats, greedy = answer
        return "loglikelihood", {"logprob": _nats(nats), "is_greedy": str(greedy) == "True"}
    nats = _nats(answer)
    if isinstance(answer, str) and nats is None:
        return "generate_until", {"text": answer}
    if nats is not None and not isinstance(answer, str):
        return "loglikelihood_rolling", {"logprob": nats}
    # Text that reads like a number may be either: a generated "42" is the commoner one unless it is negative nats.
    if isinstance(answer, str) and re.fullmatch(r"-\d+\.\d+(e[+-]?\d+)?", answer):
        return "loglikelihood_rolling", {"logprob": nats}
    return "generate_until", {"text": None if answer is None else str(answer)}


def _nats(value: Any) -> Any:
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        return None
    if found is None or found - found == 0:
        return found
    return {"$float": str(found)}


def _items(entry: Mapping[str, Any], known: set[tuple[str, str]]) -> list[list[Any]]:
    pipeline = str(entry.get("filter", "none"))
    named = entry.get("metrics")
    names = (
        [str(name) for name in named] if isinstance(named, list) else [n for n in entry if n not in _FIELDS]
    )
    found = []
    for name in names:
        if name in entry:
            # Before filters were named in the samples, the scores had the only name there was.
            of = pipeline if "filter" in entry else next((f for metric, f in known if metric == name), "none")
            found.append([name, of, pack(entry[name])])
    return found


# ---- files ----------------------------------------------------------------------------------------------------------


def _results_file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.rglob("results_*.json"), key=lambda file: file.name) or sorted(
            path.rglob("results.json")
        )
        if not found:
            raise InputError(
                f"{path} has no results_*.json", hint="give the file, or the folder that --output_path named"
            )
        return found[-1]
    return path


def _samples_file(results: Path, task: str) -> Path | None:
    """The samples of a task that were written with these results, else the newest of the task."""
    stamp = results.stem.removeprefix("results")
    if not task or any(letter in task for letter in "/\\\0"):
        return None  # a name that is a path leads nowhere
    exact = results.with_name(f"samples_{task}{stamp}.jsonl")
    if exact.is_file():
        return exact
    escaped = re.escape(task)
    named = re.compile(rf"samples_{escaped}_\d{{4}}-.*\.jsonl|samples_{escaped}\.jsonl|.*_{escaped}\.jsonl")
    found = sorted(file for file in results.parent.iterdir() if named.fullmatch(file.name))
    return found[-1] if found else None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    regular_file(file)
    with open(file, "rb") as stream:
        start = stream.read(1)
        stream.seek(0)
        if start == b"[":
            yield from _array(file)
            return
        for number_, data in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), start=1):
            if len(data) > MAX_LINE:
                raise InputError(f"{file}, line {number_} has more than {MAX_LINE} bytes")
            if data.strip():
                yield _object(data, f"{file}, line {number_}")


def _array(file: Path) -> Iterator[dict[str, Any]]:
    found = foreign_json(file, MAX_FILE)
    for place, entry in enumerate(found if isinstance(found, list) else [], start=1):
        if not isinstance(entry, dict):
            raise InputError(f"{file}, sample {place} is no JSON object")
        yield entry


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where} is no JSON object")
    return found
