"""The page on this machine: samples are read from the run's files as someone looks at them.

Answers only on the loopback address and only to requests that name it, so that no other site can read a run through the
browser of whoever looks at it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llmasos.api import LlmasosError, UsageError
from llmasos_evals.records.reading import Run
from llmasos_evals.view.columns import columns_of
from llmasos_evals.view.page import BLOCK, Check, render, title_of

LOOPBACK = "127.0.0.1"
#: Documents that a search reports at most.
MOST_FOUND = 20_000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Viewer:
    """What the page may ask for, of the runs it shows. ``warn`` is told what ``check`` finds, once ``prepare`` has run."""

    def __init__(
        self, runs: Sequence[Run], shown: dict[str, Any], check: Check, warn: Callable[[str], None]
    ) -> None:
        self.runs = tuple(runs)
        self.shown = shown
        self._check, self._warn = check, warn
        self._remarks: list[str] = []
        self._checked = Event()
        self._columns: dict[tuple[int, int], Any] = {}
        self._busy = Lock()

    @cached_property
    def page(self) -> str:
        """The HTML text."""
        return "".join(render({**self.shown, "embedded": False}, title_of(self.runs))) + "</body>\n</html>\n"

    def columns(self, run: int, task: int, **_: str) -> Any:
        """The columns of a task, made when they are first asked for."""
        with self._busy:
            if (run, task) not in self._columns:
                self._columns[run, task] = columns_of(*self._find(run, task))
            return self._columns[run, task]

    def prepare(self) -> None:
        """Make the columns of every task before somebody asks for them, and look whether the samples fit their records.

        Damage is told to whoever looks at the task.
        """
        for run, found in enumerate(self.runs):
            for task, name in enumerate(found.tasks):
                if found.has_samples(name):
                    with suppress(LlmasosError, OSError):
                        self.columns(run, task)
        try:
            self._remarks = list(self._check())
        except (LlmasosError, OSError) as error:
            self._remarks = [f"the samples cannot be checked: {error}"]
        finally:
            self._checked.set()
        for line in self._remarks:
            self._warn(line)

    def remarks(self, run: int, task: int, **_: str) -> Any:
        """What the check found; the answer waits for it."""
        self._checked.wait()
        return self._remarks

    def block(self, run: int, task: int, block: str = "0", **_: str) -> Any:
        """``BLOCK`` samples."""
        found, name = self._find(run, task)
        start = max(0, int(block)) * BLOCK
        return list(found.samples(name, start, start + BLOCK))

    def search(self, run: int, task: int, text: str = "", **_: str) -> Any:
        """Places (not numbers) of the documents whose prompts, continuations or answers have a text, whatever its case."""
        found, name = self._find(run, task)
        wanted, places = text.casefold(), []
        for place, sample in enumerate(found.samples(name)):
            texts = [
                *sample["prompts"],
                *(request.get("continuation") or "" for request in sample["requests"]),
                *(response.get("text") or "" for response in sample["responses"]),
            ]
            if any(wanted in str(one).casefold() for one in texts):
                places.append(place)
                if len(places) == MOST_FOUND:
                    break
        return places

    def _find(self, run: int, task: int) -> tuple[Run, str]:
        if not 0 <= run < len(self.runs) or not 0 <= task < len(self.runs[run].tasks):
            raise UsageError("there is no such run or task")
        return self.runs[run], self.runs[run].tasks[task]


def make_server(viewer: Viewer, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not yet running. Raises UsageError when the port is taken."""
    answers: dict[str, Callable[..., Any]] = {
        "/columns": viewer.columns,
        "/block": viewer.block,
        "/search": viewer.search,
        "/remarks": viewer.remarks,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in (LOOPBACK, "localhost"):
                self._send(HTTPStatus.FORBIDDEN, b"this page answers on this machine only", "text/plain")
                return
            address = urlsplit(self.path)
            if address.path == "/":
                self._send(HTTPStatus.OK, viewer.page.encode(), "text/html; charset=utf-8")
                return
            answer = answers.get(address.path)
            if answer is None:
                self._send(HTTPStatus.NOT_FOUND, b"no such page", "text/plain")
                return
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            try:
                run, task = int(asked.pop("run", "0")), int(asked.pop("task", "0"))
                body = json.dumps(answer(run, task, **asked), ensure_ascii=False, allow_nan=False).encode()
            except (LlmasosError, ValueError) as error:
                text = error.message if isinstance(error, LlmasosError) else str(error)
                self._send(HTTPStatus.BAD_REQUEST, text.encode(), "text/plain; charset=utf-8")
                return
            self._send(HTTPStatus.OK, body, "application/json")

        def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            packed = "gzip" in (self.headers.get("Accept-Encoding") or "") and len(body) > 1000
            if packed:
                body = gzip.compress(body, 1)
            self.send_response(status)
            for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            if packed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: standard error is for people."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    try:
        return Server((LOOPBACK, port), Handler)
    except OSError as error:
        raise UsageError(
            f"cannot listen on port {port}: {error.strerror}",
            hint="choose another --port, or 0 for a free one",
        ) from None
