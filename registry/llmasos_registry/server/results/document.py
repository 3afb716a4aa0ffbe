"""Reading a published record: who signed it, whether it is whole, and what makes two of its scores comparable.

The registry knows of records only what it needs: it does not import the plugin that writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llmasos.contracts.fingerprint import canonical_digest, record_digest
from llmasos_registry.server.api.operation import Text
from llmasos_registry.server.failures import Failure
from llmasos_registry.signatures import dsse
from llmasos_registry.signatures.document import parse_object
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PublicKey

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = float | Literal["NaN", "Infinity", "-Infinity"]
Name = Annotated[Text, Field(min_length=1, max_length=200)]

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
RECORD_PREDICATE = "https://llmasos/attestation/record/v1"
ATTESTATION_PREDICATE = "https://llmasos/attestation/verification/v1"
#: Tasks and scores of one record.
MAX_TASKS = 20_000
MAX_SCORES = 200


class Part(BaseModel):
    """What the registry reads of an object; the rest is kept as it is."""

    model_config = ConfigDict(extra="ignore", frozen=True)


P = TypeVar("P", bound=Part)


class ScorePart(Part):
    """A score of a task."""

    metric: Name
    filter: Name
    value: Number
    stderr: Number | None
    ci_low: Number | None
    ci_high: Number | None
    n: int = Field(ge=0)
    higher_is_better: bool
    signature: Annotated[Text, Field(max_length=2000)]


class TaskPart(Part):
    """A task of a record."""

    name: Name
    num_fewshot: int = Field(ge=0)
    digest: Sha256
    data_digest: Sha256
    samples_digest: Sha256
    generation: dict[str, Any] | None
    scores: list[ScorePart] = Field(max_length=MAX_SCORES)


class ModelPart(Part):
    """The model of a record."""

    ref: Annotated[Text, Field(max_length=1000)]
    digest: Sha256


class RecordPart(Part):
    """A record of ``llmasos eval``."""

    schema_: Literal["llmasos-record/2"] = Field(alias="schema")
    digest: Sha256
    samples_digest: Sha256
    model: ModelPart
    tokenizer: dict[str, Any]
    settings: dict[str, Any]
    tasks: list[TaskPart] = Field(min_length=1, max_length=MAX_TASKS)


class AttestationPart(Part):
    """What somebody found who computed documents of a record again."""

    schema_: Literal["llmasos-attestation/1"] = Field(alias="schema")
    record: Sha256
    samples_digest: Sha256
    verdict: Literal["confirmed", "refuted"]
    kind: Literal["spot-check", "full"]
    documents: int = Field(ge=1)
    sample: int = Field(ge=1)
    agreed: int = Field(ge=0)
    refuted: list[dict[str, Any]]


def read_record(value: Mapping[str, Any]) -> RecordPart:
    """The parts of a record. Raises Failure 422 naming what is wrong: its schema, its digest, a name twice."""
    record = _read(RecordPart, value, "the record")
    try:
        actual = record_digest(value)
    except (TypeError, ValueError):
        raise Failure(422, "the record has no digest: it holds what JSON has no number for") from None
    if actual != record.digest:
        raise Failure(
            422,
            f"the record says its digest is {record.digest}, its content has {actual}",
            hint="it was changed after it was written; publish the file that `llmasos eval` wrote",
        )
    names = [task.name for task in record.tasks]
    if len(set(names)) != len(names):
        raise Failure(422, "the record has a task twice")
    for task in record.tasks:
        keys = [(score.metric, score.filter) for score in task.scores]
        if len(set(keys)) != len(keys):
            raise Failure(422, f"task {task.name} of the record has a score twice")
    return record


def read_attestation(
    value: Mapping[str, Any], record: str, samples_digest: str, documents: int
) -> AttestationPart:
    """The parts of an attestation about a record. Raises Failure 422 when it is about another one or contradicts itself."""
    found = _read(AttestationPart, value, "the attestation")
    if found.record != record or found.samples_digest != samples_digest:
        raise Failure(422, "the attestation is about another record")
    if bool(found.refuted) != (found.verdict == "refuted"):
        raise Failure(
            422, f"the attestation contradicts itself: {found.verdict} with {len(found.refuted)} refutations"
        )
    if (
        found.documents != documents
        or found.sample > documents
        or found.agreed + len(found.refuted) > found.sample
    ):
        raise Failure(
            422, "the attestation contradicts itself or the record: its numbers of documents cannot be"
        )
    if found.kind == "full" and found.sample != documents:
        raise Failure(
            422, f"the attestation is called full, but {found.sample} of {documents} documents were drawn"
        )
    return found


def check_signature(
    envelope: Mapping[str, Any], keys: Iterable[PublicKey], document: Mapping[str, Any], predicate: str
) -> str:
    """The keyid of the key among ``keys`` that signed exactly this document. Raises Failure 422."""
    try:
        payload, keyid = dsse.verify(envelope, keys, PAYLOAD)
        statement = parse_object(payload, dsse.MAX_ENVELOPE, "the statement")
    except SignatureRefused as error:
        raise Failure(
            422,
            f"The signature does not hold: {error.message}",
            hint=error.hint or "register the key first: `llmasos registry key register`",
        ) from error
    subject = statement.get("subject")
    named = (
        subject[0].get("digest")
        if isinstance(subject, list) and len(subject) == 1 and isinstance(subject[0], dict)
        else None
    )
    if (
        statement.get("_type") != STATEMENT
        or statement.get("predicateType") != predicate
        or not isinstance(named, dict)
    ):
        raise Failure(
            422, "The signature is over something else than a statement about this kind of document"
        )
    if named.get("sha256") != canonical_digest(document):
        raise Failure(
            422, "The signature is for another document", hint="sign the file as it is: `llmasos eval sign`"
        )
    return keyid


def comparable(record: RecordPart, task: TaskPart, score: ScorePart) -> tuple[str, dict[str, Any]]:
    """(digest, facts) of what must agree before two scores may stand in one column.

    The task, its data, which documents of it, the metric and its version, the shots and how they are drawn, how prompts are
    put into the model's template, and what generates the answers.
    """
    settings, tokenizer = record.settings, record.tokenizer
    facts: dict[str, Any] = {
        "task": task.digest,
        "data": task.data_digest,
        "documents": [settings.get("limit"), (settings.get("samples") or {}).get(task.name), score.n],
        "metric": [score.metric, score.filter, score.signature],
        "shots": task.num_fewshot,
        "draws": [settings.get("compat"), settings.get("seed")] if task.num_fewshot else None,
        "template": [
            tokenizer.get("chat_template_applied"),
            tokenizer.get("chat_template_name"),
            tokenizer.get("system_instruction"),
            settings.get("fewshot_as_multiturn") if tokenizer.get("chat_template_applied") else None,
        ],
        "generation": task.generation,
        "stride": settings.get("stride"),
    }
    return canonical_digest(facts), facts


def finite(value: Number | None) -> float | None:
    """A number that a database can order, None for anything else."""
    return value if isinstance(value, float | int) and math.isfinite(value) else None


def _read(kind: type[P], value: Mapping[str, Any], what: str) -> P:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Failure(422, f"{what}: `{place}`: {first['msg']}") from None
