"""Records and runs made by hand, for tests that read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from test_record import a_record

from llmasos.api import canonical_digest, canonical_json
from llmasos_evals.records.record import sealed
from llmasos_evals.records.store import RECORD_FILE, samples_name, write_json


def a_sample(index: int, value: float = 1.0) -> dict[str, Any]:
    """One line of samples, as ``sample_line`` writes it."""
    ids = canonical_digest([index])
    return {
        "index": index,
        "doc_digest": canonical_digest({"n": index}),
        "prompt_digest": canonical_digest([ids]),
        "prompts": [f"prompt {index}"],
        "requests": [{"kind": "loglikelihood", "prompt": 0, "continuation": " yes"}],
        "responses": [
            {
                "logprob": -1.5,
                "is_greedy": True,
                "text": None,
                "tokens": 1,
                "truncated": 0,
                "unscored": 0,
                "ids_digest": ids,
            }
        ],
        "target": 0,
        "items": [["acc", "none", value]],
        "observed": {"ties": 0},
    }


def write_run(folder: Path, samples: Sequence[dict[str, Any]], record: dict[str, Any] | None = None) -> Path:
    """A run with one task, its lines in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    record = record or a_record()
    name = record["tasks"][0]["name"]
    lines = b"".join(canonical_json(sample) + b"\n" for sample in samples)
    (folder / samples_name(name)).write_bytes(lines)
    write_json(folder / RECORD_FILE, sealed(record))
    return folder


def edit(path: Path, *keys: Any, value: Any) -> None:
    """Change one value in a JSON file."""
    whole = place = json.loads(path.read_text(encoding="utf-8"))
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(whole), encoding="utf-8")
