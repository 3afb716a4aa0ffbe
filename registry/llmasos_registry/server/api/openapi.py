"""The OpenAPI 3.1 document of ``/v1/``, made from the operations themselves: it cannot name what is not served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from llmasos_registry.server.api.answers import Refusal
from llmasos_registry.server.api.operation import Operation
from llmasos_registry.server.context import Request
from llmasos_registry.server.responses import json_response

_REFS = "#/components/schemas/{model}"
_PART = re.compile(r"\{(\w+)(?::(\w+))?\}")
#: Values of parameters that are not free.
_KINDS = ["models", "datasets"]


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document for these operations, without the address of the server."""
    answers = {kind for o in operations for kind in o.answers.values() if kind is not None} | {Refusal}
    bodies: list[type[BaseModel]] = sorted(
        {o.body for o in operations if o.body is not None}, key=lambda kind: kind.__name__
    )
    references, shared = TypeAdapter.json_schemas(
        [(answer, "validation", TypeAdapter(answer)) for answer in sorted(answers, key=_name)],
        ref_template=_REFS,
    )
    _, sent = models_json_schema([(body, "validation") for body in bodies], ref_template=_REFS)
    schemas = {**shared.get("$defs", {}), **sent.get("$defs", {})}
    found = {answer: references[answer, "validation"] for answer in answers}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PART.sub(lambda part: "{" + part[1] + "}", operation.pattern)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, found)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmasos registry",
            "version": version("llmasos"),
            "description": "The registry's own API. The Hugging Face Hub API and the Python package index are other faces of it.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    summary = inspect.getdoc(operation.handler) or ""
    described: dict[str, Any] = {
        "operationId": f"{operation.handler.__module__.rpartition('.')[2]}.{operation.handler.__name__}",
        "summary": summary.partition("\n")[0],
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": {
            **{
                str(status): _answer(status, None if kind is None else schemas[kind])
                for status, kind in operation.answers.items()
            },
            "default": _answer(0, schemas[Refusal]),
        },
        "security": [{}, {"token": []}] if operation.audience == "public" else [{"token": []}],
        "x-scope": operation.audience,
    }
    if operation.body is not None:
        reference = {"$ref": _REFS.format(model=operation.body.__name__)}
        needed = any(field.is_required() for field in operation.body.model_fields.values())
        described["requestBody"] = {
            "required": needed,
            "content": {"application/json": {"schema": reference}},
        }
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, shape in _PART.findall(operation.pattern):
        schema: dict[str, Any] = {"type": "string", "minLength": 1}
        if shape == "kinds":
            schema = {"type": "string", "enum": _KINDS}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if operation.query is not None:
        for name, schema in operation.query.model_json_schema().get("properties", {}).items():
            text = schema.pop("description", "")
            found.append({"name": name, "in": "query", "schema": schema, "description": text})
    return found


def _answer(status: int, schema: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": {0: "Refused: what is wrong, and often what to do", 201: "Made", 204: "Done"}.get(
            status, "The answer"
        )
    }
    if schema is not None:
        described["content"] = {"application/json": {"schema": schema}}
    return described


def _name(kind: Any) -> str:
    return str(kind.__name__)


def openapi_operation(operations: Sequence[Operation]) -> Operation:
    """The operation that serves the document of these operations and of itself."""

    def openapi(request: Request) -> Response:
        """This API, as an OpenAPI 3.1 document."""
        return json_response({**described(), "servers": [{"url": request.root}]})

    own = Operation("GET", "/v1/openapi.json", openapi, "public", {200: dict[str, Any]})

    @cache
    def described() -> dict[str, Any]:
        return document((*operations, own))

    return own
