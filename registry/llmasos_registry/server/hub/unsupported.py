"""What the Hub has and this registry has not: a plain refusal that the clients show, instead of a missing page."""

from __future__ import annotations

from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import Failure, not_supported
from llmasos_registry.server.routing import Route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


async def unsupported(request: Request) -> Response:
    """Anything else below /api."""
    raise not_supported(f"{request.method} {request.url.path[:200]}")


async def unsupported_kind(request: Request) -> Response:
    """Files and pages of spaces and kernels."""
    raise not_supported(f"{request.url.path.split('/')[1]}; it keeps models and datasets")


async def no_device_login(request: Request) -> Response:
    """The browser login of `hf auth login`. ``error`` is a code, as OAuth wants it (RFC 6749 section 5.2)."""
    raise Failure(
        501,
        "This registry does not support logging in through a browser: use `hf auth login --token TOKEN`, "
        "with a token of `llmasos registry token create`",
        code="NotImplemented",
    )


ROUTES: tuple[Route, ...] = (
    Route("POST", "/oauth/device", no_device_login, "public"),
    Route("POST", "/oauth/token", no_device_login, "public"),
    *(
        Route(method, f"/{kind}/{{path:path}}", unsupported_kind, "public")
        for kind in ("spaces", "kernels")
        for method in METHODS
    ),
    *(Route(method, "/api/{path:path}", unsupported, "public") for method in METHODS),
)
