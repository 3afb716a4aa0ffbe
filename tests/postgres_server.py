"""A PostgreSQL of our own for tests: Debian's programs, a folder that is thrown away, a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import sqlalchemy as sa

TEMPLATE = "registry_template"


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`: of the PATH, or the newest that Debian has."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return debian[-1].parent if debian else None


class Postgres:
    """One server. Databases are copies of a template, which is faster than making the tables again."""

    def __init__(self, programs: Path) -> None:
        # PostgreSQL does not run as root.
        self._user: dict[str, int] = {}
        if os.getuid() == 0:
            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            entry = names.get("postgres") or names["nobody"]
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid}
        # Not below pytest's folder, which only its owner may enter. Names of sockets are short.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._user:
            os.chown(self.folder, self._user["user"], self._user["group"])
        self._programs = programs
        data = self.folder / "data"
        self._run(
            "initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-N"
        )
        options = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=200"
        # Its output goes to a file: the server would keep a pipe of ours open.
        log = ["-l", str(self.folder / "log"), "-w"]
        self._run("pg_ctl", "-D", str(data), *log, "-o", f"-k {self.folder} {options}", "start")
        self._control = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        self._made = 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
            **self._user,  # type: ignore[arg-type]
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")

    def url(self, name: str) -> str:
        """SQLAlchemy's address of a database."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def empty(self, name: str) -> str:
        """A new database without tables; its address."""
        with self._control.connect() as conn:
            conn.execute(sa.text(f'CREATE DATABASE "{name}"'))
        return self.url(name)

    def copy(self) -> str:
        """A new database with the template's tables; its address."""
        self._made += 1
        name = f"test{self._made}"
        with self._control.connect() as conn:
            # Without fsync a copy of files is three times faster than a copy through the log (PostgreSQL 15 has both).
            version = conn.dialect.server_version_info or (0,)
            how = "STRATEGY FILE_COPY" if version >= (15,) else ""
            conn.execute(sa.text(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}" {how}'))
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        name = sa.make_url(url).database
        with self._control.connect() as conn:
            conn.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))

    def stop(self) -> None:
        """End it and remove its folder."""
        self._control.dispose()
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)
