"""Growth: publishing, simple page and search in a registry with many projects, against an empty one.

The full registry is filled by the server's own functions (names checked, pages and search built, audit lines written), many
projects a transaction; only the archives are not there: projects share a few files, since no latency depends on their bytes.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from registry_load import PAGE_HEADERS, Uploader, wrk
from registry_report import Line, Sizes, growth, say
from registry_servers import Ours
from registry_wheels import filename, metadata, wheel

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.people import create_account
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_index import package_files, package_imports, package_releases
from llmasos_registry.server.db.tables_index import projects as project_table
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.projects import create_project
from llmasos_registry.server.serve import first_admin, open_registry
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.blobs import Stored, record_blob

#: Projects in one transaction, and projects of one owner.
TOGETHER, OWNED = 200, 100
#: Different words in all summaries; how frequent they are follows Zipf's law.
WORDS = 20_000
PAGE = "bench-scale"
#: The file that says that a full registry is complete.
FILLED = "filled"


def scale_lines(work: Path, sizes: Sizes) -> Iterator[Line]:
    """Both registries run at the same time and are asked in turns."""
    empty = Ours(work / "empty")
    full = Ours(sizes.keep / f"full-{sizes.projects}x{sizes.versions}")
    if not (full.data / FILLED).exists():
        shutil.rmtree(full.data, ignore_errors=True)
        fill(full.data, sizes.projects, sizes.versions)
        (full.data / FILLED).touch()
    run = uuid.uuid4().hex[:8]  # a registry that was kept has what an earlier run published
    page = f"{PAGE}-{run}"
    with empty.running(), full.running(), ExitStack() as stack:
        uploaders = {server: Uploader(*server.upload) for server in (empty, full)}
        for uploader in uploaders.values():
            stack.callback(uploader.close)
            for number in range(sizes.versions):
                uploader.publish(page, f"1.{number}.0", wheel(page, f"1.{number}.0"))
        size = f"{sizes.projects:,} x {sizes.versions}"
        for what, name in (
            ("a new project", f"new-{run}-{{}}"),
            ("a new version", f"next-{run}"),
        ):
            say(f"scale: publishing {what}")
            taken: dict[Ours, list[float]] = {empty: [], full: []}
            for turn in range(sizes.samples):
                for server, uploader in uploaders.items():
                    project, version = name.format(turn), f"1.{turn}.0"
                    taken[server].append(1000 * uploader.publish(project, version, wheel(project, version)))
            for label, pick in (("p50", statistics.median), ("p90", _p90)):
                yield growth(
                    f"publishing {what}, {label}, {size} against empty",
                    pick(taken[full]),
                    pick(taken[empty]),
                    "ms",
                )
        urls = {"simple page": f"/simple/{page}/"}
        urls |= {
            f"search for {what}": f"/v1/search?q={query}"
            for what, query in (
                ("a name", page),
                ("a beginning", "bench-sc"),
                ("a rare word", _word(WORDS - 7)),
                ("a word of one project in 40", _word(20)),
                ("a word of every project", "benchmark"),
                ("everything", ""),
            )
        }
        for what, path in urls.items():
            say(f"scale: {what}")
            found: dict[Ours, list[float]] = {empty: [], full: []}
            for _ in range(sizes.rounds):
                for server, runs in found.items():
                    headers = PAGE_HEADERS if what == "simple page" else {}
                    runs.append(
                        wrk(
                            server.url + path,
                            connections=1,
                            seconds=min(2.0, sizes.seconds),
                            folder=work,
                            headers=headers,
                        ).p50
                    )
            yield growth(
                f"{what}, p50, {size} against empty",
                statistics.median(found[full]),
                statistics.median(found[empty]),
                "ms",
            )


def fill(data: Path, projects: int, versions: int) -> None:
    """Projects ``filler-N`` with versions and one wheel each, in a data folder that no server uses."""
    registry = open_registry(Settings(data=data))
    first_admin(registry)
    rng = random.Random(1)
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    operator = Caller(name="operator:benchmark", address="local")
    blobs = []
    for version in range(versions):
        content = registry.store.put(wheel("filler", f"1.{version}.0"))
        blobs.append((content, registry.store.put(metadata("filler", f"1.{version}.0"))))
    with registry.db.write() as conn:
        for content, described in blobs:
            record_blob(conn, content)
            record_blob(conn, described)
    begin = said = time.monotonic()
    admin: Caller | None = None
    for start in range(0, projects, TOGETHER):
        with registry.db.write() as conn:
            for number in range(start, min(start + TOGETHER, projects)):
                if number % OWNED == 0:
                    owner = create_account(conn, operator, f"owner-{number // OWNED}")
                    admin = Caller(
                        name=owner.name, account=owner.id, scopes=frozenset({"read", "write", "publish"})
                    )
                assert admin is not None
                words = rng.choices(range(WORDS), weights, k=8)
                _project(conn, admin, f"filler-{_word(number)}-{number}", " ".join(map(_word, words)), blobs)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(f"scale: filled {start + TOGETHER:,} of {projects:,} projects in {said - begin:.0f} s")
    with registry.db.write() as conn:
        conn.exec_driver_sql("ANALYZE")
    registry.db.close()


def _project(
    conn: Any, owner: Caller, name: str, summary: str, blobs: Sequence[tuple[Stored, Stored]]
) -> None:
    """One project with all its versions."""
    project = create_project(conn, owner, name, owner.name, ())
    now = utcnow()
    conn.execute(
        project_table.update()
        .where(project_table.c.id == project.id)
        .values(
            summary=f"A plugin of the benchmark: {summary}",
            plugin_id=name,
            bytes=sum(content.size for content, _ in blobs),
        )
    )
    conn.execute(package_imports.insert().values(name=name.replace("-", "_"), project_id=project.id))
    releases = conn.execute(
        package_releases.insert().returning(package_releases.c.id, sort_by_parameter_order=True),
        [
            {
                "project_id": project.id,
                "version": f"1.{version}.0",
                "requires_python": ">=3.11",
                "requires_dist": [],
                "description": summary,
                "manifest": {"id": name, "summary": summary},
                "created_at": now,
            }
            for version in range(len(blobs))
        ],
    ).scalars()
    conn.execute(
        package_files.insert(),
        [
            {
                "release_id": release,
                "project_id": project.id,
                "filename": filename(name, f"1.{version}.0"),
                "kind": "bdist_wheel",
                "sha256": content.sha256,
                "size": content.size,
                "metadata_sha256": described.sha256,
                "requires_python": ">=3.11",
                "uploaded_at": now,
                "uploader": owner.name,
            }
            for version, (release, (content, described)) in enumerate(zip(releases.all(), blobs, strict=True))
        ],
    )
    project_changed(conn, project.id)


def _word(number: int) -> str:
    """A pronounceable word for every number."""
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    made = ""
    while True:
        number, last = divmod(number, len(consonants) * len(vowels))
        made += consonants[last // len(vowels)] + vowels[last % len(vowels)]
        if number == 0:
            return made + "n"


def _p90(values: Sequence[float]) -> float:
    return sorted(values)[int(0.9 * len(values))]
