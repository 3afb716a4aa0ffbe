"""Attestations: what somebody found who computed documents of a record again. Files of their own, signed by who found it.

A record never says how far it can be trusted. Beside it lie ``attestation-*.json`` (schema ``llmasos-attestation/1``, in
``attestation.schema.json``) with ``attestation-*.sig``; ``standing.py`` adds them up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llmasos.api import HubAPI, InputError, Signed, canonical_digest
from llmasos_evals.records.signing import write_signature
from llmasos_evals.records.store import write_json
from llmasos_evals.records.untrusted import read_object

SCHEMA = "llmasos-attestation/1"
#: Bytes of an attestation: a full verification of 200,000 documents names each of them.
MAX_ATTESTATION = 64 << 20

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """A part of the attestation: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class SeedSection(Section):
    """What decided which documents were drawn."""

    value: str = Field(description="hexadecimal")
    source: Literal["system", "given"] = Field(
        description="system: random, drawn after the record was there; given: named by the verifier, who could have chosen it"
    )


class ToleranceSection(Section):
    """How far two honest computations may lie apart."""

    dtype: str
    nats: float = Field(description="for a log-likelihood of one token; times the square root of its tokens")
    gap: float = Field(description="nats by which a greedy token may be less likely than the best one")


class Disagreement(Section):
    """One document that came out otherwise."""

    task: str
    index: int
    what: str


class PluginSection(Section):
    id: str
    version: str
    distribution: str
    digest: Sha256


class Attestation(Section):
    """The whole attestation."""

    schema_: Literal["llmasos-attestation/1"] = Field(alias="schema")
    record: Sha256 = Field(description="digest of the record")
    samples_digest: Sha256 = Field(description="of the record: Merkle root over its samples")
    verdict: Literal["confirmed", "refuted"]
    kind: Literal["spot-check", "full"]
    documents: int = Field(description="documents of the record")
    sample: int = Field(description="documents that were drawn, all of them in a full verification")
    seed: SeedSection | None = Field(description="null in a full verification")
    drawn: dict[str, list[int]] = Field(description="task -> documents; empty in a full verification")
    agreed: int
    undecided: int = Field(
        description="sampled texts that came out otherwise: rounding may do that, so they tell nothing"
    )
    refuted: list[Disagreement]
    tolerance: ToleranceSection
    largest_difference: float = Field(description="nats, over all log-likelihoods that were computed again")
    scores_recomputed: bool = Field(description="whether all scores follow from the stored answers")
    detection: dict[str, float] = Field(
        description="share of altered documents -> probability that this draw would have met one"
    )
    differences: list[str] = Field(
        description="what differs from the record's lock, as the verifier accepted it"
    )
    engine: str
    plugins: list[PluginSection] = Field(description="what the verifier computed with")
    environment: dict[str, Any]
    when: str = Field(description="UTC, ISO 8601")


def sealed(attestation: Mapping[str, Any]) -> dict[str, Any]:
    """The attestation, checked. Raises pydantic.ValidationError: an error of this program."""
    complete: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **attestation}, allow_nan=False))
    Attestation.model_validate(complete)
    return complete


def write_attestation(
    hub: HubAPI, folder: Path, attestation: Mapping[str, Any], *, sign: bool, key: Path | None = None
) -> tuple[Path, Signed | None]:
    """Write an attestation beside the record, signed when asked. Returns its path and who signed.

    The name comes from the content, so that attestations of several people lie side by side.
    """
    path = folder / f"attestation-{canonical_digest(attestation)[:16]}.json"
    write_json(path, attestation)
    return path, write_signature(hub, path, attestation, key) if sign else None


def read_attestation(path: Path) -> dict[str, Any]:
    """An attestation, checked against its schema; who signed it is not looked at here. Raises InputError."""
    found = read_object(path, MAX_ATTESTATION)
    check_attestation(found, str(path))
    return found


def check_attestation(found: Mapping[str, Any], where: str) -> None:
    """Raise InputError, naming ``where``, for what is no attestation or contradicts itself."""
    if found.get("schema") != SCHEMA:
        raise InputError(f"{where}: its schema is {str(found.get('schema'))[:60]!r}, not {SCHEMA!r}")
    try:
        Attestation.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        raise InputError(f"{where} is no attestation: {place}: {first['msg']}") from None
    if bool(found["refuted"]) == (found["verdict"] == "confirmed"):
        raise InputError(
            f"{where} contradicts itself: {found['verdict']} with {len(found['refuted'])} refutations"
        )
    if found["kind"] == "full" and found["sample"] != found["documents"]:
        raise InputError(
            f"{where} contradicts itself: full, but {found['sample']} of {found['documents']} documents"
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the attestation."""
    schema = Attestation.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    # python -m llmasos_evals.records.attestation > attestation.schema.json
    print(json.dumps(json_schema(), indent=2))
