"""The record: one JSON object that says what was run, what came out, and how to run it again.

The classes are the schema (``record.schema.json`` beside this file is made from them; ``docs/reference/record.md`` explains
the fields). ``digest`` covers everything but ``digest``, ``environment`` and ``timings``: two runs with equal digests
computed the same numbers from the same things.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llmasos.api import canonical_digest

SCHEMA = "llmasos-record/1"
#: Sections that the digest leaves out: they may differ between two runs that computed the same.
OUTSIDE_DIGEST = frozenset({"digest", "environment", "timings"})

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: A number, or the name of a value that JSON has no number for.
Number = float | Literal["NaN", "Infinity", "-Infinity"]


class Section(BaseModel):
    """A part of the record: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ModelSection(Section):
    """The model that was scored; ``digest`` is over ``files``, which decide the weights."""

    ref: str
    source: str
    revision: str | None
    license: str | None
    provenance: dict[str, str]
    format: str
    loader: str
    architecture: str
    parameters: int
    max_length: int = Field(description="longest input in tokens")
    vocab_size: int
    files: dict[str, Sha256]
    digest: Sha256
    dtype: str
    device: str
    backend: str
    ops: dict[str, str] = Field(description="op -> full name of its provider")
    ops_refused: dict[str, str] = Field(description="provider -> why it was not used")


class TokenizerSection(Section):
    """The tokenizer and what stands around a prompt."""

    format: str
    digest: Sha256
    vocab_size: int
    adds_bos: bool = Field(description="whether BOS stands in front of every prompt")
    prefix_token: int | None = Field(description="token in front of an empty context")
    chat_template: Sha256 | None = Field(description="digest of the model's chat template")
    chat_template_applied: bool


class PluginSection(Section):
    id: str
    version: str
    distribution: str
    digest: Sha256 = Field(description="over the plugin's files")


class SettingsSection(Section):
    """What the user asked for."""

    tasks: list[str]
    limit: int | None
    num_fewshot: int | None
    seed: int
    compat: Literal["native", "lm-eval"]
    bootstrap: int
    batch_size: int


class ScorerSection(Section):
    name: str
    plan: dict[str, Any] = Field(description="what decides the order of floating-point operations")
    plan_digest: Sha256


class Counts(Section):
    """What the documents of a task came to in tokens, and everything that did not go as the task intended."""

    requests: int
    tokens: int = Field(description="tokens scored or generated")
    truncated_requests: int = Field(description="requests whose context lost tokens on the left")
    truncated_tokens: int
    cut_continuations: int = Field(description="requests whose continuation alone is longer than the model")
    unscored_tokens: int
    empty_continuations: int = Field(
        description="loglikelihood requests with nothing to score: log-probability 0"
    )
    observed: dict[str, int] = Field(description="what the task counts, such as ties for the best choice")


class ScoreSection(Section):
    metric: str
    filter: str
    value: Number
    stderr: Number | None
    n: int
    higher_is_better: bool
    signature: str


class TaskSection(Section):
    name: str
    alias: str
    version: str
    output_type: str
    num_fewshot: int
    documents: int = Field(description="documents of the task; n of a score says how many were run")
    digest: Sha256 = Field(description="over the task's configuration and code")
    data_digest: Sha256
    code: dict[str, str] = Field(description="file of task functions -> sha256")
    attribution: str
    generation: dict[str, Any] | None
    prompt_digest: Sha256 = Field(description="Merkle root over the token ids of each document")
    samples_digest: Sha256 = Field(description="Merkle root over the samples of each document")
    counts: Counts
    scores: list[ScoreSection]


class GroupSection(Section):
    name: str
    alias: str
    version: str
    members: list[str] = Field(description="tasks and groups directly below")
    scores: list[ScoreSection]


class EnvironmentSection(Section):
    python: str
    implementation: str
    system: str
    machine: str
    processor: str
    cores: int
    threads: int | None
    accelerators: list[str]
    libraries: dict[str, str]


class TimingsSection(Section):
    started: str = Field(description="UTC, ISO 8601")
    seconds: dict[str, float] = Field(description="phase -> seconds")
    documents_computed: int
    documents_resumed: int = Field(description="taken over from an interrupted run")


class Record(Section):
    """The whole record."""

    schema_: Literal["llmasos-record/1"] = Field(alias="schema")
    digest: Sha256
    run_key: Sha256 = Field(
        description="digest of what decides the numbers: names the run before it is computed"
    )
    model: ModelSection
    tokenizer: TokenizerSection
    plugins: list[PluginSection]
    settings: SettingsSection
    scorer: ScorerSection
    tasks: list[TaskSection]
    groups: list[GroupSection]
    prompt_digest: Sha256 = Field(description="Merkle root over the prompt digests of the tasks")
    samples_digest: Sha256 = Field(description="Merkle root over the samples digests of the tasks")
    environment: EnvironmentSection
    timings: TimingsSection


def record_digest(record: Mapping[str, Any]) -> str:
    """The digest of a record's deterministic part."""
    return canonical_digest({key: value for key, value in record.items() if key not in OUTSIDE_DIGEST})


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest, checked against the schema. Raises pydantic.ValidationError: an error of this program."""
    complete: dict[str, Any] = json.loads(json.dumps({**record, "schema": SCHEMA}, allow_nan=False))
    complete["digest"] = record_digest(complete)
    Record.model_validate(complete)
    ordered = {name: complete[name] for name in ("schema", "digest")}
    return ordered | complete


def check_record(record: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, for what is no record of this schema."""
    schema = record.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"its schema is {str(schema)[:60]!r}, not {SCHEMA!r}")
    try:
        Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        raise ValueError(f"{place}: {first['msg']} ({error.error_count()} places in all)") from None
    names = [task["name"] for task in record["tasks"]]
    if len(set(names)) != len(names):
        raise ValueError("two tasks have the same name")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the record."""
    schema = Record.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def number(value: float | None) -> Any:
    """A float as the record writes it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def count_section(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``Counts`` over the samples of a task."""
    responses = [
        (request["kind"], response)
        for sample in samples
        for request, response in zip(sample["requests"], sample["responses"], strict=True)
    ]
    observed: Counter[str] = Counter()
    for sample in samples:
        observed.update(sample["observed"])
    return {
        "requests": len(responses),
        "tokens": sum(response["tokens"] for _, response in responses),
        "truncated_requests": sum(response["truncated"] > 0 for _, response in responses),
        "truncated_tokens": sum(response["truncated"] for _, response in responses),
        "cut_continuations": sum(response["unscored"] > 0 for _, response in responses),
        "unscored_tokens": sum(response["unscored"] for _, response in responses),
        "empty_continuations": sum(
            kind == "loglikelihood" and response["tokens"] == 0 for kind, response in responses
        ),
        "observed": dict(observed),
    }


if __name__ == "__main__":
    # python -m llmasos_evals.records.record > record.schema.json
    print(json.dumps(json_schema(), indent=2))
