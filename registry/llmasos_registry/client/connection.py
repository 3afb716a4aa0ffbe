"""JSON calls to a registry: one connection, its token, and errors that say what the registry said."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urljoin, urlsplit

import httpx2

from llmasos.errors import ConfigError, LlmasosError, NotFound, RunError, UsageError

#: A JSON answer larger than this is refused. Bytes.
MAX_ANSWER = 64 << 20
#: An error's text is looked for in so many bytes.
_MAX_REFUSAL = 64 << 10


class RegistryError(RunError):
    """The registry refused a request or could not be reached. ``status`` is the HTTP status, None without an answer."""

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class RegistryNotFound(NotFound):
    """The registry has no such thing, or does not say so to this caller."""


def registry_url(text: str) -> str:
    """A registry's address without a slash at the end. Raises ConfigError for what is no http(s) address."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"{text!r} is not the address of a registry", hint="write http://host:port or https://host"
        )
    if parts.username or parts.password:
        raise ConfigError(
            "the address of a registry must not contain credentials", hint="put the token into LLMASOS_TOKEN"
        )
    return text.rstrip("/")


def path_segment(text: str) -> str:
    """One path segment, percent-encoded, slashes too."""
    return quote(text, safe="")


class Connection:
    """Calls to one registry. Use as a context manager; not shared between threads.

    The token goes into the Authorization header of requests to this registry and nowhere else.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = registry_url(url)
        self.token = token
        headers = {"User-Agent": "llmasos", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        # Redirects are not followed: a token must not travel to another host.
        self._client = httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The JSON behind a path such as ``/v1/info``. Raises RegistryNotFound, RegistryError."""
        return self._call("GET", path, params=dict(params or {}))

    def post(self, path: str, value: Any) -> Any:
        """Send JSON, get JSON. Raises RegistryNotFound, RegistryError."""
        return self._call("POST", path, json=value)

    def delete(self, path: str) -> Any:
        """Delete; the JSON answered, if any. Raises RegistryNotFound, RegistryError."""
        return self._call("DELETE", path)

    def post_form(
        self, path: str, fields: Mapping[str, Any], files: Mapping[str, Any], timeout: float = 600.0
    ) -> Any:
        """Send a multipart form; what was answered as text. Raises RegistryNotFound, RegistryError."""
        return self._call("POST", path, data=dict(fields), files=dict(files), timeout=timeout)

    def put_file(self, path: str, file: BinaryIO, timeout: float = 600.0) -> Any:
        """Send a file's bytes, get JSON. Raises RegistryNotFound, RegistryError."""
        file.seek(0, 2)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.tell())}
        file.seek(0)
        pieces = iter(lambda: file.read(1 << 20), b"")
        return self._call("PUT", path, content=pieces, headers=headers, timeout=timeout)

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx2.Response]:
        """A GET whose body is read piece by piece; ``url`` is a path here or an absolute address.

        Bodies are asked for as they are stored, so that their digests can be compared.

        A redirect is followed without the token. Raises RegistryNotFound, RegistryError.
        """
        address = url if "://" in url else self.url + url
        wanted = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "llmasos", **(headers or {})}
        if not address.startswith(self.url + "/"):
            with self._elsewhere(address, wanted) as answer:
                yield answer
            return
        with self._reaching(address), self._client.stream("GET", address, headers=wanted) as answer:
            if answer.is_redirect:
                target = urljoin(address, str(answer.headers["location"]))
                with self._elsewhere(target, wanted) as moved:
                    yield moved
                return
            self._check(answer, address)
            yield answer

    @contextmanager
    def _elsewhere(self, address: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """A GET by a client that has no token."""
        with (
            self._reaching(address),
            httpx2.stream(
                "GET", address, headers=dict(headers), timeout=60.0, follow_redirects=False
            ) as answer,
        ):
            self._check(answer, address)
            yield answer

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        address = self.url + path
        with self._reaching(address), self._client.stream(method, address, **arguments) as answer:
            self._check(answer, address)
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > MAX_ANSWER:
                    raise RegistryError(f"{address} answered more than {MAX_ANSWER >> 20} MB")
            if "json" not in answer.headers.get("content-type", ""):
                return body.decode("utf-8", "replace")
        try:
            return json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"{address} did not answer JSON: {error}") from error

    @contextmanager
    def _reaching(self, address: str) -> Iterator[None]:
        try:
            yield
        except (httpx2.TransportError, ssl.SSLError) as error:
            hint = "is it running? `llmasos registry serve` starts one; LLMASOS_REGISTRY says where it is"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = "if it has a certificate of your own authority, SSL_CERT_FILE=FILE names that authority's certificate"
            elif "WRONG_VERSION_NUMBER" in str(error):
                hint = "it does not speak TLS there: write http://, not https://"
            raise RegistryError(f"cannot reach the registry at {address}: {error}", hint=hint) from error

    def _check(self, answer: httpx2.Response, address: str) -> None:
        if answer.is_success:
            return
        text, hint = _explanation(answer)
        raise failure(answer.status_code, text or f"{address} answered {answer.status_code}", hint)


def failure(status: int, text: str, hint: str | None = None) -> LlmasosError:
    """The error for an HTTP status of a registry."""
    if status == 404:
        return RegistryNotFound(text, hint=hint)
    if status == 401:
        hint = (
            hint
            or "the token is missing, wrong, expired or revoked: `llmasos registry login`, or LLMASOS_TOKEN"
        )
        return RegistryError(text, hint=hint, status=status)
    if status == 403:
        hint = (
            hint
            or "your token or your role does not allow it; LLMASOS_TOKEN goes before `llmasos registry login`"
        )
        return RegistryError(text, hint=hint, status=status)
    if status in (400, 409, 412, 413, 422):
        error = UsageError(text, hint=hint)
        return error
    return RegistryError(text, hint=hint, status=status)


def _explanation(answer: httpx2.Response) -> tuple[str, str | None]:
    """(message, hint) of an error answer: the JSON body, else the header, else nothing. Reads no more than is shown."""
    data = bytearray()
    try:
        for piece in answer.iter_bytes(_MAX_REFUSAL):
            data += piece
            if len(data) > _MAX_REFUSAL:
                break
        body = json.loads(data)
    except (ValueError, RecursionError, httpx2.HTTPError):
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        hint = body.get("hint")
        return body["error"], hint if isinstance(hint, str) else None
    return str(answer.headers.get("x-error-message", "")), None
