"""One operation of the registry's own API: its route, and the shapes that go in and come out.

The route table and the OpenAPI document are made from the same list, so neither can name what the other lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import Failure, bad_request
from llmasos_registry.server.routing import Audience, Handler, Route, Weight

#: Bytes of a request's body, unless an operation says otherwise.
BODY = 64 << 10


def _storable(text: str) -> str:
    """Refuses what no database and no UTF-8 text can hold: NUL and half a surrogate pair."""
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be Unicode text") from None
    return text


#: Text that may be stored and shown.
Text = Annotated[str, AfterValidator(_storable)]


class Body(BaseModel):
    """A request's JSON object. What is not named is refused: a misspelt key would be silently ignored otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Query(BaseModel):
    """A request's query parameters. Unknown ones are ignored: proxies and browsers add theirs."""

    model_config = ConfigDict(extra="ignore", frozen=True)


BodyT = TypeVar("BodyT", bound=Body)
QueryT = TypeVar("QueryT", bound=Query)


@dataclass(frozen=True, slots=True)
class Operation:
    """``answers``: status -> type of the JSON (a TypedDict), None for an empty body. The handler's docstring is its summary."""

    method: str
    pattern: str
    handler: Handler
    audience: Audience
    answers: Mapping[int, Any]
    body: type[Body] | None = None
    query: type[Query] | None = None
    weight: Weight = "api"
    limit: int = BODY
    #: The handler reads the body itself, in pieces.
    streams: bool = False
    tag: str = field(default="registry")

    @property
    def route(self) -> Route:
        """What the router needs of it."""
        takes_body = self.body is not None or (self.method in ("POST", "PUT", "PATCH") and not self.streams)
        return Route(
            self.method,
            self.pattern,
            self.handler,
            self.audience,
            self.weight,
            self.limit if takes_body else None,
        )


def read_body(request: Request, kind: type[BodyT]) -> BodyT:
    """The request's body. Raises Failure 400 naming the key and what is wrong with it."""
    return checked(kind, request.json_object(), "the body")


def checked(kind: type[BodyT], values: Mapping[str, Any], where: str) -> BodyT:
    """What would be a request's body, from elsewhere, such as a command line. Raises Failure 400 naming the key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, where) from None


def read_query(request: Request, kind: type[QueryT]) -> QueryT:
    """The request's query parameters. Raises Failure 400 naming the parameter."""
    try:
        return kind.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _refusal(error, "the query") from None


def _refusal(error: ValidationError, where: str) -> Failure:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return bad_request(f"{where}: `{name}`: {message}" if name else f"{where}: {message}")
