"""Runs of other harnesses as runs that can be read here: ``llmasos-imported-record/1``.

The fields are those of a record, so that readers need no second way; what the other harness does not say is null. A schema of its
own keeps them apart: nothing that asks for a record takes one, and nothing about them can be verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from llmasos.api import canonical_json
from llmasos_evals.records.record import (
    GroupSection,
    ModelSection,
    Number,
    ScorerSection,
    ScoreSection,
    Section,
    SettingsSection,
    Sha256,
    TaskSection,
    TimingsSection,
    TokenizerSection,
    record_digest,
)
from llmasos_evals.records.store import RECORD_FILE, samples_name, write_bytes, write_json

SCHEMA = "llmasos-imported-record/1"


def _nullable(section: type[BaseModel], **fixed: Any) -> Any:
    """A section whose fields may be null or missing, except ``fixed`` (name -> (type, default))."""
    fields: dict[str, Any] = {
        name: (info.annotation | None, None) for name, info in section.model_fields.items()
    }
    return create_model(
        f"Imported{section.__name__}", __base__=Section, __doc__=section.__doc__, **{**fields, **fixed}
    )


ImportedScore = _nullable(ScoreSection, metric=(str, ...), filter=(str, ...), value=(Number | None, ...))
ImportedTask = _nullable(
    TaskSection, name=(str, ...), alias=(str, ...), scores=(list[ImportedScore], ...), counts=(None, None)
)
ImportedGroup = _nullable(
    GroupSection,
    name=(str, ...),
    alias=(str, ...),
    members=(list[str], ...),
    scores=(list[ImportedScore], ...),
)
ImportedModel = _nullable(ModelSection)
ImportedTokenizer = _nullable(TokenizerSection)
ImportedSettings = _nullable(SettingsSection)
ImportedScorer = _nullable(ScorerSection, name=(str, ...))
ImportedTimings = _nullable(TimingsSection)


class ImportedSection(Section):
    """Where it comes from."""

    tool: str
    version: str | None
    format: str
    files: dict[str, Sha256] = Field(description="file -> sha256, as they were read")


class ImportedRecord(Section):
    """The whole of an imported record."""

    schema_: Literal["llmasos-imported-record/1"] = Field(alias="schema")
    digest: Sha256
    imported: ImportedSection
    model: ImportedModel
    tokenizer: ImportedTokenizer
    settings: ImportedSettings
    scorer: ImportedScorer
    tasks: list[ImportedTask]
    groups: list[ImportedGroup]
    environment: dict[str, Any]
    timings: ImportedTimings


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record, complete with nulls and its digest. Raises ValueError for what a harness wrote and the schema does not take."""
    given = json.loads(json.dumps({"schema": SCHEMA, "digest": "0" * 64, **record}, allow_nan=False))
    complete: dict[str, Any] = ImportedRecord.model_validate(given).model_dump(by_alias=True)
    complete["digest"] = record_digest(complete)
    return complete


def write_imported(
    folder: Path, record: Mapping[str, Any], samples: Mapping[str, Iterable[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Write an imported run into a new folder. Returns the record. Raises FileExistsError when the folder has one already."""
    complete = sealed(record)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RECORD_FILE).exists():
        raise FileExistsError(folder)
    for task, lines in samples.items():
        data = b"".join(canonical_json(line) + b"\n" for line in lines)
        if data:
            write_bytes(folder / samples_name(task), data)
    write_json(folder / RECORD_FILE, complete)
    return complete


def json_schema() -> dict[str, Any]:
    """The JSON Schema of an imported record."""
    schema = ImportedRecord.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    # python -m llmasos_evals.records.imported > imported-record.schema.json
    print(json.dumps(json_schema(), indent=2))
