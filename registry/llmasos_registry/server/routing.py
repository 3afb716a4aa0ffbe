"""Routes on the raw path: revisions and branch names arrive percent-encoded in one segment and must stay so.

Starlette decodes ``scope["path"]``, which turns ``branch/dev%2Fx`` into another path, so this router matches
``scope["raw_path"]``. A route without a declared audience cannot be written: who may call is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from starlette.responses import Response

from llmasos_registry.server.context import Request

#: Who may call. public: anybody, the handler checks the object; read, write, publish, admin: a token with that scope;
#: signed: the address carries its own HMAC, which the handler checks.
Audience = Literal["public", "read", "write", "publish", "admin", "signed"]
#: What a request counts as for rate limits.
Weight = Literal["api", "file", "free"]
Handler = Callable[[Request], Response] | Callable[[Request], Awaitable[Response]]

_PART = re.compile(r"\{(\w+)(?::(\w+))?\}")
_SHAPES = {
    # One or two segments: `gpt2` or `org/name`.
    "repo": r"[^/]+(?:/[^/]+)?",
    "path": r".+",
    "segment": r"[^/]+",
    "repos": r"models|datasets|spaces|kernels",
    # What this registry has pages for.
    "kinds": r"models|datasets",
}


@dataclass(frozen=True, slots=True)
class Route:
    """``pattern`` holds ``{name}`` (one segment), ``{repo}`` (one or two), ``{path:path}`` (the rest), ``{kind:repos}``.

    ``def`` handlers run in a worker thread, ``async def`` handlers on the loop. With ``body`` the router reads at most
    that many bytes before the handler is called (``request.json_object()``).
    """

    method: str
    pattern: str
    handler: Handler
    audience: Audience
    weight: Weight = "api"
    body: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A route with the decoded parameters of one path."""

    route: Route
    params: Mapping[str, str]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a route pattern; raw segments, so a parameter never holds an unencoded slash."""
    text, position = "", 0
    for part in _PART.finditer(pattern):
        shape = part[2] or ("repo" if part[1] == "repo" else "segment")
        text += re.escape(pattern[position : part.start()]) + f"(?P<{part[1]}>{_SHAPES[shape]})"
        position = part.end()
    return re.compile(text + re.escape(pattern[position:]))


class RouteTable:
    """All routes; the first that matches in the order given is taken. Literal first segments are found by one lookup."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_head: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        self._open: list[tuple[re.Pattern[str], Route]] = []
        for route in self.routes:
            entry = (compile_pattern(route.pattern), route)
            head = route.pattern.split("/")[1]
            if "{" in head:
                self._open.append(entry)
            else:
                self._by_head.setdefault(head, []).append(entry)

    def find(self, method: str, raw_path: str) -> Match | list[str]:
        """The match, or the methods that this path would take (empty: no such path). HEAD falls back to GET routes."""
        head = raw_path.split("/", 2)[1] if raw_path.startswith("/") else ""
        allowed: list[str] = []
        fallback: Match | None = None
        for pattern, route in [*self._by_head.get(head, ()), *self._open]:
            found = pattern.fullmatch(raw_path)
            if found is None:
                continue
            if route.method == method:
                return Match(route, {name: unquote(text) for name, text in found.groupdict().items()})
            if method == "HEAD" and route.method == "GET" and fallback is None:
                fallback = Match(route, {name: unquote(text) for name, text in found.groupdict().items()})
            allowed.append(route.method)
        return fallback or sorted(set(allowed))


def describe(routes: Iterable[Route]) -> list[dict[str, Any]]:
    """The route table as data, for documents and for the test that calls every route without a right to."""
    return [{"method": r.method, "pattern": r.pattern, "audience": r.audience} for r in routes]
