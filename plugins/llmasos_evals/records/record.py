"""The record: one JSON object that says what was run, what came out, and how to run it again.

The classes are the schema (``record.schema.json`` beside this file is made from them; ``docs/reference/record.md`` explains
the fields). ``digest`` covers everything but ``digest``, ``environment``, ``execution`` and ``timings``: two runs with equal
digests computed the same numbers from the same things. What others found when they verified a record is never part of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llmasos.api import record_digest

SCHEMA = "llmasos-record/2"

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
    chat_template_name: str | None = Field(description="name of the template that was asked for")
    system_instruction: Sha256 | None = Field(description="digest of the text in front of every conversation")


class PluginSection(Section):
    id: str
    version: str
    distribution: str
    digest: Sha256 = Field(description="over the plugin's files")


class SettingsSection(Section):
    """What the user asked for that can change a number. What cannot is in ``execution``."""

    tasks: list[str]
    limit: int | Literal["auto"] | None
    interval: float | None = Field(
        description="half width that `auto` aimed at, as a share of the range or value"
    )
    samples: dict[str, list[int]] | None = Field(description="task -> the documents that were scored, of all")
    num_fewshot: int | None
    seed: int
    compat: Literal["native", "lm-eval"]
    bootstrap: int
    cluster_column: str | None
    dtype: str = Field(description="precision as asked for; model.dtype is what it came to")
    engine: str
    batch_invariant: bool
    stride: int | None
    apply_chat_template: bool | str
    system_instruction: str | None
    fewshot_as_multiturn: bool | None
    gen_kwargs: dict[str, Any]


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
    ci_low: Number | None = Field(description="95 % interval")
    ci_high: Number | None
    stderr_method: str | None = Field(description="analytic, bootstrap:N:stream, clustered:COLUMN, ...")
    n: int
    higher_is_better: bool
    unit: str
    range: Annotated[list[float | None], Field(min_length=2, max_length=2)] = Field(
        description="lowest and highest possible value, null where there is none"
    )
    signature: str


class DataSection(Section):
    """Where the documents come from; ``data_digest`` says which they are."""

    kind: str = Field(description="files, hub, shelf, plugin, ...")
    name: str | None = Field(description="of the data set, where it has one")
    config: str | None
    revision: str | None = Field(description="commit of the Hub, or digest of the shelf")
    split: str | None
    fewshot_split: str | None


class SamplingSection(Section):
    """How ``--limit auto`` chose documents."""

    rule: str = Field(description="how the number of documents was found and in which order they stand")
    pilot: int = Field(description="documents that the number was judged by")
    wanted: int = Field(
        description="documents the interval needs, as the pilot judged; the task may have fewer"
    )
    reached: bool = Field(description="whether every interval of the task is as narrow as wanted")


class TaskSection(Section):
    name: str
    alias: str
    version: str
    output_type: str
    num_fewshot: int
    documents: int = Field(description="documents of the task; n of a score says how many were run")
    digest: Sha256 = Field(description="over the task's configuration and code")
    data_digest: Sha256
    data: DataSection
    code: dict[str, str] = Field(description="file of task functions -> sha256")
    attribution: str
    generation: dict[str, Any] | None
    prompt_digest: Sha256 = Field(description="Merkle root over the token ids of each document")
    samples_digest: Sha256 = Field(description="Merkle root over the samples of each document")
    counts: Counts
    sampling: SamplingSection | None = Field(default=None, description="only with limit `auto`")
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


class ExecutionSection(Section):
    """How the work was done; by the engine's promise it decides no number beyond what ``scorer.plan`` says."""

    workers: int
    threads: int | None
    cluster: bool = Field(description="whether a Ray cluster did it")
    batch_size: int
    token_budget: int | None
    cache: bool = Field(description="whether responses of earlier runs could be used")
    requests: int | None = Field(description="loglikelihood requests, before equal ones were taken together")
    unique_requests: int | None
    tokens_computed: int | None = Field(description="tokens of the whole plan that go through the model")
    ideal_tokens: int | None = Field(description="the least that the mathematics needs")
    logit_rows: int | None = Field(description="positions that were multiplied with the vocabulary")
    ideal_logit_rows: int | None
    shards: int | None
    shards_reused: int | None = Field(description="finished by an interrupted run")
    cached_requests: int | None = Field(description="answered by the response cache")


class TimingsSection(Section):
    started: str = Field(description="UTC, ISO 8601")
    seconds: dict[str, float] = Field(description="phase -> seconds")
    documents_computed: int
    documents_resumed: int = Field(description="taken over from an interrupted run")


class Record(Section):
    """The whole record."""

    schema_: Literal["llmasos-record/2"] = Field(alias="schema")
    digest: Sha256
    run_key: Sha256 = Field(
        description="digest of what decides the numbers: names the run before it is computed"
    )
    model: ModelSection
    tokenizer: TokenizerSection
    plugins: list[PluginSection]
    rescored_from: Sha256 | None = Field(description="digest of the record whose responses were scored again")
    rescored_by: list[PluginSection] = Field(
        description="the plugins that did; `plugins` computed the responses"
    )
    settings: SettingsSection
    scorer: ScorerSection
    tasks: list[TaskSection]
    groups: list[GroupSection]
    prompt_digest: Sha256 = Field(description="Merkle root over the prompt digests of the tasks")
    samples_digest: Sha256 = Field(description="Merkle root over the samples digests of the tasks")
    environment: EnvironmentSection
    execution: ExecutionSection
    timings: TimingsSection


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest, checked against the schema. Raises pydantic.ValidationError: an error of this program."""
    complete: dict[str, Any] = json.loads(json.dumps({**record, "schema": SCHEMA}, allow_nan=False))
    complete["digest"] = record_digest(complete)
    Record.model_validate(complete)
    ordered = {name: complete[name] for name in ("schema", "digest")}
    return ordered | complete


def check_record(record: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, for what is no record of this schema."""
    from llmasos_evals.records import imported

    kinds: dict[Any, type[Section]] = {SCHEMA: Record, imported.SCHEMA: imported.ImportedRecord}
    schema = record.get("schema")
    if not isinstance(schema, str) or schema not in kinds:
        raise ValueError(f"its schema is {str(schema)[:60]!r}, not {SCHEMA!r}")
    try:
        kinds[schema].model_validate(record)
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


if __name__ == "__main__":
    # python -m llmasos_evals.records.record > record.schema.json
    print(json.dumps(json_schema(), indent=2))
