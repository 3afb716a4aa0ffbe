"""A finished run taken up again: its settings as a request, its questions compared with those of today, its answers as responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmasos.api import EvalRequest, InputError, Response
from llmasos_evals.records.samples import unpack

if TYPE_CHECKING:
    from llmasos_evals.tasks.task import PlannedDocument


def request_of(record: Mapping[str, Any], **changes: Any) -> EvalRequest:
    """The request that a record answers. ``changes`` are fields of EvalRequest that differ, such as ``model`` and ``include``."""
    known = {field.name for field in fields(EvalRequest)}
    settings = {name: value for name, value in record["settings"].items() if name in known}
    execution = record["execution"]
    made = EvalRequest(
        **{
            "model": record["model"]["ref"],
            "batch_size": execution["batch_size"],
            "token_budget": execution["token_budget"],
            **settings,
            "tasks": tuple(settings["tasks"]),
        }
    )
    return replace(made, **changes)


def only_these(request: EvalRequest, documents: Mapping[str, Sequence[int]]) -> EvalRequest:
    """The request for the documents named, whatever limit they came from; tasks of which none is named are left out."""
    last = max((max(indices) for indices in documents.values() if indices), default=0)
    return replace(request, limit=last + 1, interval=None, samples=documents)


def tasks_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What to look tasks up by: as they were asked for, or by their names where that was a file that is not here."""
    asked_for = tuple(record["settings"]["tasks"])
    files = [
        name for name in asked_for if Path(name).suffix in (".yaml", ".yml") and not Path(name).is_file()
    ]
    if files and not record["groups"]:
        return tuple(section["name"] for section in record["tasks"])
    return asked_for


def questions(planned: PlannedDocument) -> list[dict[str, Any]]:
    """What a document asks, laid out for comparison: kind, prompt and continuation of each request."""
    return [
        {"kind": request.kind, "prompt": request.context, "continuation": request.continuation}
        for request in planned.requests
    ]


def asked(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a stored document was asked, as ``questions`` has it. Raises InputError for a prompt that is not there."""
    prompts = sample.get("prompts", [])
    try:
        return [
            {
                "kind": request["kind"],
                "prompt": prompts[request["prompt"]],
                "continuation": request["continuation"],
            }
            for request in sample["requests"]
        ]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"document {sample['index']} refers to a prompt that is not there") from None


def difference(planned: PlannedDocument, sample: Mapping[str, Any]) -> str | None:
    """Why a stored document is not an answer to the planned one; None when it is."""
    if sample["doc_digest"] != planned.doc_digest:
        return "the document is another one"
    here, there = questions(planned), asked(sample)
    if len(here) != len(there):
        return f"it makes {len(here)} requests, and {len(there)} were answered"
    for number, (mine, stored) in enumerate(zip(here, there, strict=True)):
        for what in ("kind", "prompt", "continuation"):
            if mine[what] != stored[what]:
                return f"the {what} of its request {number} is {_short(mine[what])}, and was {_short(stored[what])}"
    return None


def responses_of(planned: PlannedDocument, sample: Mapping[str, Any]) -> list[Response]:
    """The stored answers to a document's requests. Token ids are not stored, only their digest.

    Raises InputError for answers of another shape.
    """
    try:
        return [
            Response(
                key=request.key,
                logprob=_number(stored["logprob"]),
                is_greedy=stored["is_greedy"],
                text=stored["text"],
                tokens=int(stored["tokens"]),
                truncated=int(stored["truncated"]),
                unscored=int(stored["unscored"]),
                output_ids=tuple(map(int, stored.get("output", ()))),
            )
            for request, stored in zip(planned.requests, sample["responses"], strict=True)
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"document {planned.index} has answers that cannot be read") from None


def _number(value: Any) -> float | None:
    found = unpack(value)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise TypeError(found)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
