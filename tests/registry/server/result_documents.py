"""Records, samples and attestations as the evaluation writes them, small and made by hand; and their signatures."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmasos.contracts.fingerprint import canonical_digest, canonical_json, merkle_root, record_digest
from llmasos_registry.server.results.document import (
    ATTESTATION_PREDICATE,
    PAYLOAD,
    RECORD_PREDICATE,
    STATEMENT,
)
from llmasos_registry.signatures import dsse
from llmasos_registry.signatures.keys import PrivateKey


def samples_of(values: Sequence[float]) -> list[dict[str, Any]]:
    """One sample a value, which it contributes to ``acc``."""
    return [
        {"index": i, "doc_digest": canonical_digest({"n": i}), "items": [["acc", "none", value]]}
        for i, value in enumerate(values)
    ]


def packed(samples: Sequence[Mapping[str, Any]]) -> bytes:
    """As they travel."""
    return gzip.compress(b"".join(canonical_json(sample) + b"\n" for sample in samples), mtime=0)


def a_record(values: Sequence[float], model: str = "tiny", **changed: Any) -> dict[str, Any]:
    """A record of one task ``quick`` whose samples are ``samples_of(values)``. ``changed``: fields of the task, the
    settings or the tokenizer."""
    samples = samples_of(values)
    root = merkle_root([canonical_digest(sample) for sample in samples])
    mean = sum(values) / len(values)
    task: dict[str, Any] = {
        "name": "quick",
        "num_fewshot": 0,
        "digest": canonical_digest("task"),
        "data_digest": canonical_digest("data"),
        "samples_digest": root,
        "generation": None,
        "scores": [
            {
                "metric": "acc",
                "filter": "none",
                "value": mean,
                "stderr": 0.1,
                "ci_low": mean - 0.2,
                "ci_high": mean + 0.2,
                "n": len(values),
                "higher_is_better": True,
                "signature": "acc|tie:first|agg:mean|v:1",
            }
        ],
    }
    settings: dict[str, Any] = {
        "limit": None,
        "samples": None,
        "seed": 1234,
        "compat": "native",
        "stride": None,
    }
    tokenizer: dict[str, Any] = {
        "chat_template_applied": False,
        "chat_template_name": None,
        "system_instruction": None,
    }
    for name, value in changed.items():
        next((part for part in (task, settings, tokenizer) if name in part), task)[name] = value
    record = {
        "schema": "llmasos-record/2",
        "model": {"ref": model, "digest": canonical_digest(model)},
        "tokenizer": tokenizer,
        "settings": settings,
        "tasks": [task],
        "samples_digest": merkle_root([root]),
        "environment": {"python": "3.11"},
    }
    return {**record, "digest": record_digest(record)}


def an_attestation(about: Mapping[str, Any], /, **changed: Any) -> dict[str, Any]:
    """Eight documents were computed again, and agreed."""
    return {
        "schema": "llmasos-attestation/1",
        "record": about["digest"],
        "samples_digest": about["samples_digest"],
        "verdict": "confirmed",
        "kind": "spot-check",
        "documents": about["tasks"][0]["scores"][0]["n"],
        "sample": 8,
        "agreed": 8,
        "refuted": [],
        **changed,
    }


def signed(document: Mapping[str, Any], key: PrivateKey) -> dict[str, Any]:
    """The envelope over a record or an attestation."""
    record = str(document["schema"]).startswith("llmasos-record/")
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": document["schema"], "digest": {"sha256": canonical_digest(document)}}],
        "predicateType": RECORD_PREDICATE if record else ATTESTATION_PREDICATE,
        "predicate": {},
    }
    return dsse.sign(PAYLOAD, json.dumps(statement).encode(), key)
