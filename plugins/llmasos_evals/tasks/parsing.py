"""Checking the fields of a task file.

Unknown fields are errors with the nearest known name; so are fields that need something this runner does not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from llmasos.api import InputError, OutputType
from llmasos_evals.tasks.config import (
    FEWSHOT_FIELDS,
    TASK_FIELDS,
    FewshotConfig,
    FilterSpec,
    MetricSpec,
    TaskConfig,
)
from llmasos_evals.tasks.taskfile import FunctionRef

OUTPUT_TYPES: tuple[str, ...] = get_args(OutputType)

#: Default metrics of each output type, as in lm-evaluation-harness.
DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}

#: Names under which task files give the longest answer in tokens, first one wins; 256 when none is given.
MAX_TOKEN_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DEFAULT_MAX_TOKENS = 256
#: Answers to one prompt; the largest number in use is 256.
MOST_REPEATS = 10_000

#: Fields of the harness that need what this runner does not have, and what that is.
_UNSUPPORTED = {
    "class": "tasks written as Python classes",
    "recipe": "unitxt recipes",
    "use_prompt": "promptsource prompts",
    "doc_to_image": "images",
    "doc_to_audio": "audio",
}


#: Keys that place a file among others and say nothing about the task.
_STRUCTURAL = {"group", "task_list"}


def parse_task(raw: Mapping[str, Any], source: Path) -> TaskConfig:
    """Check and complete the fields of a task. Raises InputError naming the file and the field."""
    reader = _Reader(source)
    given: dict[str, Any] = {}
    for key, value in raw.items():
        if key in _STRUCTURAL:
            continue
        if key in _UNSUPPORTED:
            if value:
                raise InputError(f"{source}: field `{key}` needs {_UNSUPPORTED[key]}, which is not supported")
            continue
        if key not in TASK_FIELDS:
            raise InputError(f"{source}: unknown field `{key}`{near_miss(key, TASK_FIELDS)}")
        given[key] = value
    task = reader.text(given, "task")
    if not task:
        raise InputError(f"{source}: no `task` name")
    output_type = given.get("output_type") or "generate_until"
    if output_type not in OUTPUT_TYPES:
        raise InputError(
            f"{source}: output_type {output_type!r} is none of {', '.join(OUTPUT_TYPES)}{near_miss(output_type, OUTPUT_TYPES)}"
        )
    fewshot_delimiter = reader.text(given, "fewshot_delimiter", "\n\n")
    target_delimiter = reader.text(given, "target_delimiter", " ")
    metadata = given.get("metadata") or {}
    config = TaskConfig(
        task=task,
        task_alias=reader.text(given, "task_alias"),
        tag=reader.texts(given, "tag"),
        dataset_path=reader.text(given, "dataset_path"),
        dataset_name=reader.text(given, "dataset_name"),
        dataset_kwargs=reader.mapping(given, "dataset_kwargs"),
        custom_dataset=reader.function(given, "custom_dataset"),
        training_split=reader.text(given, "training_split"),
        validation_split=reader.text(given, "validation_split"),
        test_split=reader.text(given, "test_split"),
        process_docs=reader.function(given, "process_docs"),
        doc_to_text=reader.template(given, "doc_to_text", int),
        doc_to_target=reader.template(given, "doc_to_target", int, list),
        doc_to_choice=reader.template(given, "doc_to_choice", list, dict),
        process_results=reader.function(given, "process_results"),
        description=reader.template(given, "description") or "",
        target_delimiter=target_delimiter,
        fewshot_delimiter=fewshot_delimiter,
        fewshot=_fewshot(given, reader, fewshot_delimiter, target_delimiter),
        num_fewshot=reader.count(given, "num_fewshot"),
        metric_list=_metrics(given.get("metric_list"), output_type, source),
        output_type=output_type,
        generation_kwargs=(
            generation_settings(reader.mapping(given, "generation_kwargs") or {}, fewshot_delimiter, source)
            if output_type == "generate_until"
            else {}
        ),
        repeats=_repeats(reader, given),
        filter_list=_filters(given.get("filter_list"), source),
        should_decontaminate=bool(given.get("should_decontaminate")),
        doc_to_decontamination_query=given.get("doc_to_decontamination_query"),
        gen_prefix=reader.text(given, "gen_prefix"),
        unsafe_code=bool(given.get("unsafe_code")),
        metadata=metadata if isinstance(metadata, Mapping) else {"version": metadata},
        source=source,
        given=_as_text(given),
    )
    if config.doc_to_target is None and config.process_results is None:
        raise InputError(f"{source}: task {task} has no `doc_to_target`")
    if config.output_type == "multiple_choice" and config.doc_to_choice is None:
        raise InputError(f"{source}: multiple_choice task {task} has no `doc_to_choice`")
    if config.doc_to_text is None and config.output_type != "loglikelihood_rolling":
        raise InputError(f"{source}: task {task} has no `doc_to_text`")
    _ = config.eval_split  # a missing split is an error of the file, not of the run
    return config


def _fewshot(
    given: Mapping[str, Any], reader: _Reader, fewshot_delimiter: str, target_delimiter: str
) -> FewshotConfig:
    own = given.get("fewshot_config") or {}
    if not isinstance(own, Mapping):
        raise InputError(f"{reader.source}: `fewshot_config` must be a mapping")
    for key in own:
        if key not in FEWSHOT_FIELDS:
            raise InputError(
                f"{reader.source}: unknown field `fewshot_config.{key}`{near_miss(key, FEWSHOT_FIELDS)}"
            )
    merged = {
        "split": given.get("fewshot_split"),
        "process_docs": given.get("process_docs"),
        "fewshot_delimiter": fewshot_delimiter,
        "target_delimiter": target_delimiter,
        "gen_prefix": given.get("gen_prefix"),
        "doc_to_text": given.get("doc_to_text"),
        "doc_to_choice": given.get("doc_to_choice"),
        "doc_to_target": given.get("doc_to_target"),
        **own,
    }
    sampler = merged.get("sampler") or "default"
    if sampler not in ("default", "first_n"):
        raise InputError(
            f"{reader.source}: fewshot_config.sampler {sampler!r} is neither `default` (random) nor `first_n`"
        )
    samples = merged.get("samples")
    if samples is not None and not isinstance(samples, list | FunctionRef):
        raise InputError(f"{reader.source}: fewshot_config.samples must be a list of rows or a !function")
    indices = merged.get("fewshot_indices")
    if indices is not None and not (isinstance(indices, list) and all(isinstance(i, int) for i in indices)):
        raise InputError(f"{reader.source}: fewshot_config.fewshot_indices must be a list of row numbers")
    return FewshotConfig(
        sampler=sampler,
        split=reader.text(merged, "split"),
        process_docs=reader.function(merged, "process_docs"),
        fewshot_indices=None if indices is None else tuple(indices),
        samples=samples,
        doc_to_text=reader.template(merged, "doc_to_text", int),
        doc_to_choice=reader.template(merged, "doc_to_choice", list, dict),
        doc_to_target=reader.template(merged, "doc_to_target", int, list),
        gen_prefix=reader.text(merged, "gen_prefix"),
        fewshot_delimiter=reader.text(merged, "fewshot_delimiter", fewshot_delimiter),
        target_delimiter=reader.text(merged, "target_delimiter", target_delimiter),
    )


def generation_settings(given: Mapping[str, Any], fewshot_delimiter: str, source: Path) -> dict[str, Any]:
    """Generation settings in one form: until (list), max_gen_toks, do_sample, temperature, then the rest as given.

    Raises InputError for values that make no sense.
    """
    options = dict(given)
    until = options.pop("until", None)
    if until is None:
        until = [fewshot_delimiter]
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, list) or not all(isinstance(stop, str) for stop in until):
        raise InputError(f"{source}: generation_kwargs.until must be a string or a list of strings")
    limits = [options.pop(name, None) for name in MAX_TOKEN_NAMES]
    longest = next((value for value in limits if value is not None), DEFAULT_MAX_TOKENS)
    sample = options.pop("do_sample", None)
    try:
        longest, temperature = int(longest), float(options.pop("temperature", 0.0) or 0.0)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: generation_kwargs: {error}") from error
    if longest < 1:
        raise InputError(f"{source}: generation_kwargs: max_gen_toks must be at least 1")
    sample = temperature > 0 if sample is None else bool(sample)
    return {
        "until": [stop for stop in until if stop],
        "max_gen_toks": longest,
        "do_sample": sample,
        "temperature": temperature if sample else 0.0,
        **options,
    }


def _repeats(reader: _Reader, given: Mapping[str, Any]) -> int:
    found = reader.count(given, "repeats", least=1) or 1
    if found > MOST_REPEATS:
        raise InputError(f"{reader.source}: `repeats` is {found}, at most {MOST_REPEATS} are asked for")
    return found


def _metrics(value: Any, output_type: str, source: Path) -> tuple[MetricSpec, ...]:
    if value is None:
        return tuple(MetricSpec(name) for name in DEFAULT_METRICS[output_type])
    if not isinstance(value, list) or not value:
        raise InputError(f"{source}: `metric_list` must be a list of metrics")
    specs = []
    for entry in value:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("metric"), str | FunctionRef):
            raise InputError(f"{source}: an entry of `metric_list` has no `metric` name: {entry!r}")
        options = dict(entry)
        metric = options.pop("metric")
        aggregation = options.pop("aggregation", None)
        better = options.pop("higher_is_better", None)
        if aggregation is not None and not isinstance(aggregation, str | FunctionRef):
            raise InputError(f"{source}: metric {metric}: `aggregation` must be a name or a !function")
        if better is not None and not isinstance(better, bool):
            raise InputError(f"{source}: metric {metric}: `higher_is_better` must be true or false")
        specs.append(MetricSpec(metric, aggregation, better, options))
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InputError(f"{source}: a metric is listed twice: {', '.join(names)}")
    return tuple(specs)


def _filters(value: Any, source: Path) -> tuple[FilterSpec, ...]:
    if value is None:
        return (FilterSpec("none", (("take_first", {}),)),)
    if not isinstance(value, list) or not value:
        raise InputError(f"{source}: `filter_list` must be a list of pipelines")
    specs = []
    for entry in value:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise InputError(f"{source}: an entry of `filter_list` has no `name`: {entry!r}")
        for key in entry:
            if key not in ("name", "filter"):
                raise InputError(
                    f"{source}: unknown field `{key}` in filter {entry['name']!r}{near_miss(key, ['filter'])}"
                )
        steps = []
        for step in entry.get("filter") or []:
            if not isinstance(step, Mapping) or not isinstance(step.get("function"), str | FunctionRef):
                raise InputError(
                    f"{source}: a step of filter {entry['name']!r} has no `function` name: {step!r}"
                )
            steps.append((step["function"], {key: item for key, item in step.items() if key != "function"}))
        specs.append(FilterSpec(entry["name"], tuple(steps)))
    if len({spec.name for spec in specs}) != len(specs):
        raise InputError(f"{source}: two filters have the same name")
    return tuple(specs)


class _Reader:
    """Typed access to the fields of one file."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def text(self, given: Mapping[str, Any], key: str, default: Any = None) -> Any:
        value = given.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"{self.source}: `{key}` must be text, not {type(value).__name__}")
        return value

    def texts(self, given: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = given.get(key)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise InputError(f"{self.source}: `{key}` must be a name or a list of names")
        return tuple(values)

    def mapping(self, given: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
        value = given.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"{self.source}: `{key}` must be a mapping, not {type(value).__name__}")
        return value

    def count(self, given: Mapping[str, Any], key: str, least: int = 0) -> int | None:
        value = given.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{self.source}: `{key}` must be a whole number of at least {least}, not {value!r}"
            )
        return value

    def function(self, given: Mapping[str, Any], key: str) -> FunctionRef | None:
        value = given.get(key)
        if value is not None and not isinstance(value, FunctionRef):
            raise InputError(f"{self.source}: `{key}` must be a `!function module.name`")
        return value

    def template(self, given: Mapping[str, Any], key: str, *others: type) -> Any:
        value = given.get(key)
        if value is None or isinstance(value, str | FunctionRef):
            return value
        if isinstance(value, bool) or not isinstance(value, others):
            allowed = ", ".join(["text", "!function", *(other.__name__ for other in others)])
            raise InputError(
                f"{self.source}: `{key}` must be one of: {allowed}; it is {type(value).__name__}"
            )
        return value


def _as_text(value: Any) -> Any:
    if isinstance(value, FunctionRef):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value


def near_miss(word: Any, known: Iterable[str]) -> str:
    """``, did you mean `x`?`` for the closest known word, or nothing."""
    found = difflib.get_close_matches(str(word), sorted(known), n=1)
    return f", did you mean `{found[0]}`?" if found else ""
