"""``results_*.json`` and ``samples_*.jsonl`` as lm-evaluation-harness 0.4.13 writes them, field by field.

What that harness notes about itself and we have no counterpart for is null. ``lm_eval_version`` says llmasos and its version:
whoever reads the file must be able to tell who computed it; ``llmasos`` has the digest of the record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmasos_evals.records.exporters.source import Source
from llmasos_evals.records.replay import asked, responses_of
from llmasos_evals.records.samples import read_items, unpack
from llmasos_evals.records.store import write_json, write_lines
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.task import PlannedDocument


def export(source: Source, output: Path) -> Sequence[Path]:
    """Write results and samples into a folder of ``output`` that has the name of the model. Returns the files."""
    record = source.run.record
    name = source.model_name or str(record["model"]["ref"])
    folder = output / re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)
    folder.mkdir(parents=True, exist_ok=True)
    began = _began(record)
    stamp = began.strftime("%Y-%m-%dT%H-%M-%S.%f")
    written, hashes = [], {}
    for task in source.run.tasks:
        if source.run.has_samples(task):
            digest = hashlib.sha256()
            path = folder / f"samples_{re.sub(r'[^A-Za-z0-9_.:-]', '_', task)}_{stamp}.jsonl"
            write_lines(path, _hashed(samples(source, task), digest))
            hashes[task] = digest.hexdigest()
            written.append(path)
    results = folder / f"results_{stamp}.json"
    write_json(results, {**aggregated(source), **_general(record, name), "task_hashes": hashes})
    return [results, *written]


# ---- samples --------------------------------------------------------------------------------------------------------


def samples(source: Source, task: str) -> Iterator[dict[str, Any]]:
    """The lines of a task: all documents with the first filter, then with the next."""
    pipelines = list(dict.fromkeys(pipeline for _, pipeline in source.run.metrics(task)))
    for pipeline in pipelines:
        for sample in source.run.samples(task):
            yield _sample(source, task, sample, pipeline)


def _sample(source: Source, task: str, sample: Mapping[str, Any], pipeline: str) -> dict[str, Any]:
    planned = source.documents.get((task, sample["index"]))
    arguments = [_arguments(question) for question in asked(sample)]
    answers = [_answer(question["kind"], response) for question, response in _pairs(sample)]
    if planned is not None:
        filtered = [
            _texts(value)
            for value in source.tasks[task].filtered(planned, responses_of(planned, sample))[pipeline]
        ]
        for number, request in enumerate(planned.requests):
            if request.kind == "generate_until":
                arguments[number].append(_generation_arguments(source, task, request.options))
    else:
        filtered = answers
    if arguments and len(arguments[0]) == 2 and isinstance(arguments[0][1], dict):
        # Repeats of one request are one request with several answers there.
        arguments, answers = arguments[:1], [answers]
    else:
        answers = [[answer] for answer in answers]
    values = {metric: value for (metric, of), value in read_items(sample).items() if of == pipeline}
    target = unpack(sample["target"])
    first = arguments[0][0] if arguments else ""
    return {
        "doc_id": sample["index"],
        "doc": None if planned is None else dict(planned.doc),
        "target": str(target),
        "arguments": {
            f"gen_args_{number}": {f"arg_{place}": part for place, part in enumerate(parts)}
            for number, parts in enumerate(arguments)
        },
        "resps": answers,
        "filtered_resps": filtered,
        "filter": pipeline,
        "metrics": list(values),
        "doc_hash": sample["doc_digest"] if planned is None else _document_hash(planned),
        "prompt_hash": _hash(first),
        "target_hash": _hash(str(target)),
        **values,
    }


def _pairs(sample: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return zip(asked(sample), sample["responses"], strict=True)


def _arguments(question: Mapping[str, Any]) -> list[Any]:
    if question["kind"] == "loglikelihood":
        return [question["prompt"], question["continuation"]]
    return [question["prompt"]]


def _generation_arguments(source: Source, task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings as the task file and the user gave them; those in force where the file gives none."""
    given = source.tasks[task].config.given.get("generation_kwargs")
    own = source.run.record["settings"]["gen_kwargs"]
    return {**(given if isinstance(given, Mapping) else options), **own}


def _answer(kind: str, response: Mapping[str, Any]) -> Any:
    if kind == "generate_until":
        return response["text"]
    logprob = str(unpack(response["logprob"]))
    return [logprob, str(response["is_greedy"])] if kind == "loglikelihood" else logprob


def _texts(value: Any) -> Any:
    return [_texts(item) for item in value] if isinstance(value, list | tuple) else str(value)


def _document_hash(planned: PlannedDocument) -> str:
    return _hash(json.dumps(dict(planned.doc), indent=2, default=str, ensure_ascii=False))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hashed(lines: Iterator[dict[str, Any]], digest: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        digest.update((line["doc_hash"] + line["prompt_hash"] + line["target_hash"]).encode())
        yield line


# ---- results --------------------------------------------------------------------------------------------------------


def aggregated(source: Source) -> dict[str, Any]:
    """The tables of scores and what they were computed from."""
    record, run = source.run.record, source.run
    tasks, groups = record["tasks"], record["groups"]
    sizes = {task["name"]: _size(source, task) for task in tasks}
    results = {
        task["name"]: {
            "name": task["name"],
            "alias": task["alias"],
            "sample_len": sizes[task["name"]],
            **_scores(task),
        }
        for task in tasks
    }
    members = {group["name"]: list(group["members"]) for group in groups}
    better = {task["name"]: {s["metric"]: s["higher_is_better"] for s in task["scores"]} for task in tasks}
    of_groups = {}
    for group in groups:
        below = _below(group["name"], members)
        better[group["name"]] = {
            metric: value for name in below for metric, value in better.get(name, {}).items()
        }
        of_groups[group["name"]] = {
            "alias": group["alias"],
            "name": group["name"],
            "sample_len": sum(sizes.get(name, 0) for name in below),
            **_scores(group),
            "sample_count": {f"{s['metric']},{s['filter']}": s["n"] for s in group["scores"]},
        }
    shots = {task["name"]: task["num_fewshot"] for task in tasks}
    found: dict[str, Any] = {"results": {**results, **of_groups}}
    if of_groups:
        found["groups"] = of_groups
    return {
        **found,
        "group_subtasks": members or {task["name"]: [] for task in tasks},
        "configs": {task["name"]: _config(source, task) for task in tasks},
        "versions": dict(
            sorted(
                [(task["name"], _version(task["version"])) for task in tasks]
                + [(group["name"], group["version"]) for group in groups]
            )
        ),
        "n-shot": {
            **shots,
            **{
                name: max((shots.get(task) or 0 for task in _below(name, members)), default=0)
                for name in members
            },
        },
        "higher_is_better": dict(sorted(better.items())),
        "n-samples": {
            name: {"original": run.task(name)["documents"], "effective": size} for name, size in sizes.items()
        },
        "config": _run_config(record),
        "git_hash": None,
        "date": _began(record).timestamp(),
        "pretty_env_info": "\n".join(
            f"{name}: {value}" for name, value in (record["environment"] or {}).items()
        ),
        "transformers_version": None,
        "lm_eval_version": f"llmasos {_own_version(record)}",
        "upper_git_hash": None,
        "tokenizer_pad_token": None,
        "tokenizer_eos_token": None,
        "tokenizer_bos_token": None,
        "eot_token_id": None,
        "max_length": record["model"]["max_length"],
        "llmasos": {"record": record.get("digest"), "schema": record["schema"]},
    }


def _general(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    settings, tokenizer = record["settings"], record["tokenizer"]
    instruction = settings["system_instruction"]
    return {
        "model_source": "llmasos",
        "model_name": name,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name),
        "system_instruction": instruction,
        "system_instruction_sha": _hash(instruction) if instruction else None,
        "fewshot_as_multiturn": settings["fewshot_as_multiturn"],
        "chat_template": None,
        "chat_template_sha": tokenizer["chat_template"] if tokenizer["chat_template_applied"] else None,
        "total_evaluation_time_seconds": str(sum(record["timings"]["seconds"].values())),
    }


def _run_config(record: Mapping[str, Any]) -> dict[str, Any]:
    model, settings, execution = record["model"], record["settings"], record["execution"]
    return {
        "model": "llmasos",
        "model_args": {"pretrained": model["ref"], "dtype": model["dtype"]},
        "model_num_parameters": model["parameters"],
        "model_dtype": f"torch.{model['dtype']}",
        "model_revision": model["revision"] or "main",
        "model_sha": model["revision"] or "",
        "batch_size": str(execution["batch_size"]),
        "batch_sizes": [],
        "device": model["device"],
        "use_cache": None,
        "limit": settings["limit"],
        "bootstrap_iters": settings["bootstrap"],
        "gen_kwargs": settings["gen_kwargs"],
        "random_seed": settings["seed"],
        "numpy_seed": settings["seed"],
        "torch_seed": settings["seed"],
        "fewshot_seed": settings["seed"],
    }


def _scores(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for score in entry["scores"]:
        value, stderr = score["value"], score["stderr"]
        found[f"{score['metric']},{score['filter']}"] = value
        found[f"{score['metric']}_stderr,{score['filter']}"] = "N/A" if stderr is None else stderr
    return found


def _size(source: Source, task: Mapping[str, Any]) -> int:
    if source.run.has_samples(task["name"]):
        return source.run.count(task["name"])
    return max((score["n"] for score in task["scores"]), default=0)


def _below(name: str, members: Mapping[str, Sequence[str]], above: tuple[str, ...] = ()) -> list[str]:
    """Tasks below a group, once each."""
    if name not in members or name in above:
        return [name]
    found = [task for member in members[name] for task in _below(member, members, (*above, name))]
    return list(dict.fromkeys(found))


def _config(source: Source, section: Mapping[str, Any]) -> dict[str, Any]:
    task = source.tasks.get(section["name"])
    known: dict[str, Any] = {} if task is None else _fields(task.config)
    return {
        "task": section["name"],
        **known,
        "num_fewshot": section["num_fewshot"],
        "output_type": section["output_type"],
        "metadata": {**known.get("metadata", {}), "version": _version(section["version"])},
    }


def _fields(config: TaskConfig) -> dict[str, Any]:
    """The fields of a task file as that harness lists them, functions by name."""
    given = json.loads(json.dumps(dict(config.given), default=str))
    defaults = {
        "unsafe_code": config.unsafe_code,
        "description": "",
        "target_delimiter": config.target_delimiter,
        "fewshot_delimiter": config.fewshot_delimiter,
        "repeats": config.repeats,
        "should_decontaminate": config.should_decontaminate,
    }
    return {**defaults, **{name: value for name, value in given.items() if value is not None}}


def _version(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _began(record: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(record["timings"]["started"])


def _own_version(record: Mapping[str, Any]) -> str:
    return next((p["version"] for p in record["plugins"] if p["id"] == "llmasos-evals"), "of unknown version")
