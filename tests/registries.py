"""Registries for tests: `registry` is a real server process, `app` the same application inside this process.

Both make accounts directly in the database, as the operator's commands do. Every test has names of its own choosing;
tests that share a server (`registry` is one a module) must not share accounts or projects.

`app` runs each test on SQLite and on PostgreSQL. LLMASOS_TEST_DATABASE=sqlite or =postgresql runs one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from postgres_server import TEMPLATE, Postgres, find_programs
from s3_server import S3Server
from starlette.testclient import TestClient

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.people import create_account, create_org, find_account, set_member
from llmasos_registry.server.accounts.tokens import issue_token
from llmasos_registry.server.app import Application
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.routing import Route
from llmasos_registry.server.serve import all_routes, open_registry
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.objects import ObjectStore

OPERATOR = Caller(name="operator:test", address="local")


class Accounts:
    """Makes users, organisations and tokens in a database."""

    db: Database

    def user(
        self,
        name: str,
        scopes: Sequence[str] = ("publish",),
        *,
        projects: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        admin: bool = False,
        quota: int | None = None,
    ) -> str:
        """A token of the user, who is made when there is none of that name."""
        from llmasos_registry.server.failures import Failure

        with self.db.write() as conn:
            try:
                account = find_account(conn, name, "user")
            except Failure:
                account = create_account(conn, OPERATOR, name, admin=admin, quota=quota)
            token, _ = issue_token(
                conn, OPERATOR, account, "test", scopes, projects=projects, expires_at=expires_at
            )
        return token

    def org(self, name: str, members: Mapping[str, str]) -> None:
        """An organisation: {user: role}, the first one an owner. The users must be there."""
        people = list(members.items())
        with self.db.write() as conn:
            create_org(conn, OPERATOR, name, find_account(conn, people[0][0], "user").id)
            for person, role in people[1:]:
                set_member(conn, OPERATOR, name, person, role)


class Server(Accounts):
    """A `llmasos registry serve` process on a free port.

    ``url``; ``admin_token``; ``user``/``org``; ``stop`` (SIGTERM), ``kill`` (SIGKILL), ``restart`` (same data, same
    port); ``log`` (lines of stderr: one a request, `TIME METHOD PATH STATUS MS ADDRESS USER`).
    """

    def __init__(self, data: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.data = data
        self.settings = dict(settings or {})
        self.port = 0
        self.admin_token = ""
        self.log: list[str] = []
        self.start()
        self.db = Database(self.settings.get("database") or f"sqlite:///{Database.file_of(data)}")

    def start(self, port: int | None = None) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "llmasos", "registry", "serve", "--json", "--data", str(self.data)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLMASOS_"))}
        environ |= {f"LLMASOS_REGISTRY_{name.upper()}": str(value) for name, value in self.settings.items()}
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port if port is None else port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert self.process.stdout is not None
        # A server that cannot start closes its output.
        self._reader = threading.Thread(target=self._read_log, args=(self.process,), daemon=True)
        self._reader.start()
        text = ""
        for line in self.process.stdout:
            text += line
            if line.startswith("}"):
                break
        else:
            self.process.wait()
            self._reader.join()
            raise RuntimeError("the registry did not start:\n" + "\n".join(self.log))
        facts = json.loads(text)
        self.url = facts["url"]
        self.port = int(self.url.rpartition(":")[2])
        if facts["admin"]:
            self.admin_token = facts["admin"]["token"]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip("\n"))

    def requests(self) -> list[str]:
        """`METHOD PATH STATUS` of the requests so far."""
        found = []
        for line in list(self.log):
            parts = line.split(" ")
            if len(parts) == 7 and parts[3].isdecimal():
                found.append(" ".join(parts[1:4]))
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    def kill(self) -> int:
        """End it without warning."""
        return self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again with the same data on the same port; ends it first when it runs."""
        if self.process.poll() is None:
            self.stop()
        self.start(self.port)

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self.db.close()


class InProcess(Accounts):
    """The application in this process: ``client`` (starlette's TestClient), ``registry``, ``user``/``org``."""

    def __init__(self, settings: Settings) -> None:
        self.registry: Registry = open_registry(settings)
        self.db = self.registry.db
        self.serve(all_routes())

    def serve(self, routes: Iterable[Route]) -> None:
        """Answer with these routes from now on."""
        self.client = TestClient(
            Application(self.registry, routes),
            base_url="http://registry.test",
            raise_server_exceptions=False,
            follow_redirects=False,
        )

    def call(self, method: str, path: str, token: str | None = None, **options: Any) -> Any:
        """One request; ``path`` may hold percent-encoded slashes. httpx's options: json=, content=, headers=, files=, params=."""
        headers = dict(options.pop("headers", None) or {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self.client.request(method, path, headers=headers, **options)

    def get(self, path: str, token: str | None = None, **options: Any) -> Any:
        """A GET."""
        return self.call("GET", path, token, **options)

    def post(self, path: str, token: str | None = None, **options: Any) -> Any:
        """A POST."""
        return self.call("POST", path, token, **options)

    def delete(self, path: str, token: str | None = None, **options: Any) -> Any:
        """A DELETE."""
        return self.call("DELETE", path, token, **options)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`start_server(**settings) -> Server` on a fresh data folder; ended when the session ends."""
    running: list[Server] = []

    def start(data: Path | None = None, **settings: Any) -> Server:
        folder = tmp_path_factory.mktemp("registry") if data is None else data
        running.append(Server(folder, settings))
        return running[-1]

    yield start
    for server in running:
        server.close()
        shutil.rmtree(server.data, ignore_errors=True)


@pytest.fixture(scope="module")
def registry(start_server: Callable[..., Server]) -> Iterator[Server]:
    """One server process for the tests of a module."""
    server = start_server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server with the tables of a new registry in its template."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = Postgres(programs)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), database=server.empty(TEMPLATE))
        open_registry(settings).db.close()
    yield server
    server.stop()


DATABASES = ("sqlite", "postgresql")


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The setting `database` for a test: None (SQLite), then the address of a fresh PostgreSQL database."""
    wanted = os.environ.get("LLMASOS_TEST_DATABASE", request.param)
    if wanted not in DATABASES:
        pytest.fail(f"LLMASOS_TEST_DATABASE={wanted}: {' or '.join(DATABASES)}")
    if wanted != request.param:
        pytest.skip(f"LLMASOS_TEST_DATABASE={wanted}")
    if request.param == "sqlite":
        yield None
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.copy()
    yield url
    server.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a new registry; copying it is faster than making its tables again."""
    folder = tmp_path_factory.mktemp("template")
    open_registry(Settings(data=folder)).db.close()
    return Database.file_of(folder)


@pytest.fixture
def make_app(
    tmp_path: Path, database: str | None, sqlite_template: Path
) -> Iterator[Callable[..., InProcess]]:
    """`make_app(**settings) -> InProcess` on fresh files. Those of one test share its PostgreSQL database."""
    made: list[InProcess] = []

    def make(**settings: Any) -> InProcess:
        folder = tmp_path / f"registry-{len(made)}"
        if not {"data", "database"} & settings.keys() and database is None:
            folder.mkdir()
            shutil.copyfile(sqlite_template, Database.file_of(folder))
        made.append(InProcess(Settings(**{"data": folder, "database": database, **settings})))
        return made[-1]

    yield make
    for app in made:
        app.client.close()
        app.db.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An object store that speaks S3 over HTTP."""
    pytest.importorskip("moto.server", reason="needs the S3 server of `moto[server]`")
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def make_bucket(s3_server: S3Server, tmp_path: Path) -> Callable[..., ObjectStore]:
    """`make_bucket(prefix="") -> ObjectStore` on a new bucket; its `address` and `options` are settings of a registry."""

    def make(prefix: str = "") -> ObjectStore:
        address = f"s3://{s3_server.bucket()}/{prefix}"
        return ObjectStore(tmp_path / "local", address, s3_server.options)

    return make


@pytest.fixture
def app(make_app: Callable[..., InProcess]) -> InProcess:
    """The application with default settings, once on each database."""
    return make_app()
