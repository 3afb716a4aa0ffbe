"""Where files and signatures come from: the registry over the network, or a bundle that was carried over.

A source hands out bytes; what they are worth is decided by the ``Verifier`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from llmasos_registry.client.connection import Connection, RegistryError, RegistryNotFound, path_segment
from llmasos_registry.client.locked import LockedModel, LockedWheel


class Signatures(NamedTuple):
    """What is known of who made a wheel. ``publisher`` is None for a library of the index behind the registry."""

    publisher: str | None
    envelopes: tuple[Mapping[str, Any], ...] = ()


#: Of a library.
NO_SIGNATURES = Signatures(None)


class Source(Protocol):
    """Where the bytes of a plan come from."""

    title: str

    def signatures(self, project: str, filename: str) -> Signatures:
        """Who publishes a wheel, and the envelopes over it."""

    def wheel(self, wheel: LockedWheel) -> Any:
        """A context manager that gives the bytes of a wheel in pieces."""

    def model_file(self, model: LockedModel, path: str, sha256: str, start: int = 0) -> Any:
        """A context manager that gives (the offset it starts at, the bytes of one file in pieces)."""


class Nowhere:
    """The source of a plan that fetches nothing: removals."""

    title = "nowhere"

    def signatures(self, project: str, filename: str) -> Signatures:
        """Nobody's."""
        return NO_SIGNATURES

    def wheel(self, wheel: LockedWheel) -> Any:
        """Raises RegistryError."""
        raise RegistryError(f"{wheel.filename} is not fetched by this command")

    def model_file(self, model: LockedModel, path: str, sha256: str, start: int = 0) -> Any:
        """Raises RegistryError."""
        raise RegistryError(f"{model.id}/{path} is not fetched by this command")


class RegistrySource:
    """A registry over its connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.title = connection.url

    def signatures(self, project: str, filename: str) -> Signatures:
        """As ``Source``. A project that the registry does not hold itself has no publisher."""
        path = f"/v1/plugins/{path_segment(project)}/files/{path_segment(filename)}/signatures"
        try:
            answer = self._connection.get(path)
        except RegistryNotFound:
            return NO_SIGNATURES
        if not isinstance(answer, dict) or not isinstance(answer.get("publisher"), str):
            raise RegistryError(f"{self.title} answered nonsense about the signatures of {filename}")
        rows = answer.get("signatures") or ()
        return Signatures(answer["publisher"], tuple(row for row in rows if isinstance(row, dict)))

    @contextmanager
    def wheel(self, wheel: LockedWheel) -> Iterator[Iterator[bytes]]:
        """As ``Source``."""
        with self._connection.stream(wheel.url) as answer:
            yield answer.iter_raw(1 << 18)

    @contextmanager
    def model_file(
        self, model: LockedModel, path: str, sha256: str, start: int = 0
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """As ``Source``; goes on at ``start`` where the server does too."""
        kind = "" if model.kind == "model" else f"{model.kind}s/"
        address = f"/{kind}{model.id}/resolve/{model.commit}/{quote(path)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._connection.stream(address, headers) as answer:
            yield (start if answer.status_code == 206 else 0), answer.iter_raw(1 << 18)
