"""The line a finished document leaves in the store: prompts, answers, and what each metric takes from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmasos.api import Response, canonical_digest

if TYPE_CHECKING:
    from llmasos_evals.tasks.task import PlannedDocument

Items = dict[tuple[str, str], Any]


def sample_line(
    planned: PlannedDocument,
    responses: Sequence[Response],
    items: Mapping[tuple[str, str], Any],
    observed: Mapping[str, int],
    cluster: str | None = None,
    answers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything about one document, in JSON types. ``responses`` in the order of ``planned.requests``.

    A prompt that several requests share is written once. ``ids_digest`` is over the token ids given to the model,
    ``prompt_digest`` over those of all requests. ``cluster`` is there when documents of one are not independent,
    ``answers`` (filter -> what it made of the text) when the model wrote some.
    """
    prompts = list(dict.fromkeys(request.context for request in planned.requests))
    ids = [canonical_digest(response.token_ids) for response in responses]
    place = {prompt: number for number, prompt in enumerate(prompts)}
    return {
        "index": planned.index,
        **({} if cluster is None else {"cluster": cluster}),
        "doc_digest": planned.doc_digest,
        "prompt_digest": canonical_digest(ids),
        "prompts": prompts,
        "requests": [
            {"kind": request.kind, "prompt": place[request.context], "continuation": request.continuation}
            for request in planned.requests
        ],
        "responses": [
            {
                "logprob": pack(response.logprob),
                "is_greedy": response.is_greedy,
                "text": response.text,
                "tokens": response.tokens,
                "truncated": response.truncated,
                "unscored": response.unscored,
                "ids_digest": digest,
                **({} if response.text is None else {"output": list(response.output_ids)}),
            }
            for response, digest in zip(responses, ids, strict=True)
        ],
        "target": pack(planned.target),
        **({"answers": pack(answers)} if answers else {}),
        "items": [[metric, filter_name, pack(value)] for (metric, filter_name), value in items.items()],
        "observed": dict(observed),
    }


#: What a stored document must have to be counted.
REQUIRED = frozenset({"doc_digest", "prompt_digest", "requests", "responses", "items", "observed"})


def is_whole(sample: Mapping[str, Any], planned: PlannedDocument) -> bool:
    """Whether a stored document is one that ``sample_line`` wrote for the planned one."""
    return sample.keys() >= REQUIRED and sample["doc_digest"] == planned.doc_digest


def read_items(sample: Mapping[str, Any]) -> Items:
    """The metric items of a stored document by (metric, filter)."""
    return {(metric, filter_name): unpack(value) for metric, filter_name, value in sample["items"]}


def pack(value: Any) -> Any:
    """JSON types: tuples are lists, numbers that JSON lacks are ``{"$float": name}``."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): pack(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def unpack(value: Any) -> Any:
    """The inverse of ``pack``, lists staying lists."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {key: unpack(item) for key, item in value.items()}
    return value
