"""Taking a file into the index: who may, whether it is what it says, and the one transaction that makes it visible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version
from sqlalchemy.exc import IntegrityError

from llmasos.errors import LlmasosError
from llmasos.kernel.manifest import Manifest
from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.quota import check_quota
from llmasos_registry.server.api.file_signatures import check_signature, store_signature
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_index import (
    package_files,
    package_imports,
    package_releases,
    projects,
)
from llmasos_registry.server.failures import Failure, bad_request, conflict, forbidden
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.names import is_reserved, key_of
from llmasos_registry.server.index.projects import check_free, check_owner, create_project
from llmasos_registry.server.index.upstream import Upstream
from llmasos_registry.server.store.blobs import BlobWriter, DigestMismatch, Stored, record_blob
from llmasos_registry.wheel.archive import WheelFacts, read_wheel
from llmasos_registry.wheel.hosting import check_hosted, check_requirements, import_names
from llmasos_registry.wheel.plugin import read_plugin, read_plugins
from llmasos_registry.wheel.refusal import Limits
from llmasos_registry.wheel.sdist import SdistFacts, read_sdist

WHEEL, SDIST = "bdist_wheel", "sdist"
#: Characters of a description and of a summary that are kept.
MAX_DESCRIPTION = 512 << 10
MAX_SUMMARY = 500


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file that was read and found sound, on its way into the index."""

    facts: WheelFacts | SdistFacts
    manifest: Manifest | None
    imports: tuple[str, ...]
    signature: str | None  #: the publisher's envelope, as JSON
    owner: str | None  #: whose project it becomes when it is new; None: the caller's

    @property
    def kind(self) -> str:
        """The file type as upload forms name it."""
        return WHEEL if isinstance(self.facts, WheelFacts) else SDIST

    @property
    def key(self) -> str:
        """The project's normalised name."""
        return self.facts.name


def claimed_project(filename: str) -> tuple[str, Version, str]:
    """(normalised name, version, kind) that a file name claims. Raises Failure 400."""
    try:
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
            return str(name), version, WHEEL
        if filename.endswith(".tar.gz"):
            name, version = parse_sdist_filename(filename)
            return str(name), version, SDIST
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion) as error:
        raise bad_request(f"{filename[:200]!r} is not the name of a package file: {error}") from error
    raise bad_request(f"{filename[:200]!r} is neither a wheel (.whl) nor a source distribution (.tar.gz)")


def read_parcel(writer: BlobWriter, filename: str, fields: Mapping[str, str], max_file: int) -> Parcel:
    """Read what was sent, compare it with the form, and apply the rules for published files. Raises Failure 400."""
    key, version, kind = claimed_project(filename)
    if fields.get("filetype", kind) != kind:
        raise bad_request(f"The form says filetype {fields['filetype'][:40]!r}, {filename} is a {kind}")
    name = fields.get("name")
    if name is not None and key_of(name) != key:
        raise bad_request(f"The form is for {name[:100]!r}, the file {filename} is of {key!r}")
    try:
        if fields.get("version") and Version(fields["version"]) != version:
            raise bad_request(f"The form is for version {fields['version'][:100]}, the file is of {version}")
    except InvalidVersion as error:
        raise bad_request(f"{fields['version'][:100]!r} is not a version (PEP 440)") from error
    if fields.get("attestations", "[]").strip() not in ("", "[]"):
        raise bad_request(
            "This registry does not verify PEP 740 attestations and takes none",
            hint="upload with --no-attestations; sign with `llmasos plugin publish --sign`",
        )
    limits = Limits(archive=max_file)
    manifest: Manifest | None = None
    imports: tuple[str, ...] = ()
    facts: WheelFacts | SdistFacts
    try:
        with open(writer.file(), "rb") as file:
            if kind == WHEEL:
                facts = read_wheel(file, filename=filename, limits=limits)
                check_hosted(facts)
                read_plugins(facts)
                manifest, imports = read_plugin(facts), import_names(facts)
            else:
                facts = read_sdist(file, filename, limits)
                check_requirements(facts.metadata.requires_dist or ())
    except LlmasosError as error:
        raise bad_request(
            f"{filename}: {error.message.removeprefix(f'{filename}: ')}", hint=error.hint
        ) from error
    signature = fields.get("llmasos_signature") or None
    return Parcel(facts, manifest, imports, signature, fields.get("llmasos_owner") or None)


class Publishing:
    """Takes parcels into one registry."""

    def __init__(self, registry: Registry, upstream: Upstream | None) -> None:
        self._registry = registry
        self._settings = registry.settings
        self._upstream = upstream

    def check_early(self, caller: Caller, filename: str, owner: str | None, digest: str | None) -> None:
        """Refuse before the file is sent what would be refused after it. Raises Failure 400, 403 and 409."""
        key, version, kind = claimed_project(filename)
        with self._registry.db.read() as conn:
            project = self._project(conn, caller, key, owner)
            if project is None:
                return
            known = _file(conn, filename)
            if known is None:
                self._check_open(conn, project, version, kind)
            elif digest:
                _same_or_refused(known, filename, digest)

    def check_new_name(self, caller: Caller, key: str) -> None:
        """A name that the upstream has may be taken over here by an administrator only: everyone who installs from this
        index would get the local project from then on. Asks the upstream; raises Failure 403 and 502."""
        if self._upstream is None or is_reserved(key, self._settings.reserved_prefixes):
            return
        if caller.admin and "admin" in caller.scopes:
            return
        with self._registry.db.read() as conn:
            if conn.execute(sa.select(projects.c.id).where(projects.c.key == key)).first() is not None:
                return
        if self._upstream.page(key) is not None:
            raise forbidden(
                f"`{key}` exists at the upstream index; only an administrator may put a local project before it",
                hint=f"choose another name, e.g. one that begins with {self._settings.reserved_prefixes[:1]}",
            )

    def publish(self, caller: Caller, parcel: Parcel, writer: BlobWriter, sha256: str | None) -> bool:
        """Make a file visible, with its signature, or not at all. False: the same file was there already.

        Blobs are durable before the transaction begins. Raises Failure 400, 403 and 409.
        """
        facts = parcel.facts
        self.check_new_name(caller, facts.name)
        described = self._registry.store.put(facts.metadata_bytes)
        try:
            stored = writer.commit(sha256)
        except DigestMismatch as error:
            raise bad_request(
                f"{facts.filename}: the form says sha256 {error.expected}, what arrived has {error.found}"
            ) from error
        try:
            with self._registry.db.write() as conn:
                return self._take(conn, caller, parcel, stored, described)
        except IntegrityError:
            # Two uploads of one new name at the same moment: the other one was first, and decides.
            with self._registry.db.write() as conn:
                return self._take(conn, caller, parcel, stored, described)

    def _take(
        self, conn: sa.Connection, caller: Caller, parcel: Parcel, stored: Stored, described: Stored
    ) -> bool:
        facts = parcel.facts
        project = self._project(conn, caller, parcel.key, parcel.owner, lock=True)
        if project is None:
            project = create_project(
                conn,
                caller,
                facts.metadata.name,
                parcel.owner or caller.name,
                self._settings.reserved_prefixes,
            )
        known = _file(conn, facts.filename)
        if known is not None:
            _same_or_refused(known, facts.filename, stored.sha256)
            # A file that was published without a signature can be given one by sending it again.
            if self._sign(conn, caller, project, known.id, parcel, stored.sha256) is not None:
                project_changed(conn, project.id)
            return False
        version = Version(facts.version)
        release = self._check_open(conn, project, version, parcel.kind)
        _check_twin(conn, release, facts.filename)
        check_quota(conn, self._settings, project.owner_id, stored.size)
        _claim_imports(conn, project, parcel.imports)
        record_blob(conn, stored)
        record_blob(conn, described)
        release_id = _write_release(conn, project, release, parcel)
        made = conn.execute(
            package_files.insert().values(
                release_id=release_id,
                project_id=project.id,
                filename=facts.filename,
                kind=parcel.kind,
                sha256=stored.sha256,
                size=stored.size,
                # The metadata of a source distribution is not final before a build, so installers are not given it.
                metadata_sha256=described.sha256 if parcel.kind == WHEEL else None,
                requires_python=facts.requires_python,
                uploaded_at=utcnow(),
                uploader=caller.name,
            )
        ).inserted_primary_key
        conn.execute(
            projects.update().where(projects.c.id == project.id).values(bytes=projects.c.bytes + stored.size)
        )
        keyid = None
        if made is not None:
            # File and signature become visible together, or neither does.
            keyid = self._sign(conn, caller, project, made[0], parcel, stored.sha256)
        detail = {"file": facts.filename, "sha256": stored.sha256, "signed_by": keyid}
        audit(conn, caller, "plugin.publish", f"{project.key}=={facts.version}", detail)
        emit(conn, "plugin.publish", project.key, {"name": project.key, "version": facts.version, **detail})
        project_changed(conn, project.id)
        return True

    def _sign(
        self,
        conn: sa.Connection,
        caller: Caller,
        project: sa.Row[Any],
        file: int,
        parcel: Parcel,
        sha256: str,
    ) -> str | None:
        """Keep the signature that came with a file; the key, None without a new signature. Raises Failure 422."""
        if parcel.signature is None:
            return None
        facts = parcel.facts
        keyid, envelope = check_signature(
            conn,
            project.owner_id,
            project.owner,
            parcel.signature,
            filename=facts.filename,
            sha256=sha256,
            project=project.key,
            version=facts.version,
        )
        return keyid if store_signature(conn, caller, file, facts.filename, keyid, envelope) else None

    def _project(
        self, conn: sa.Connection, caller: Caller, key: str, owner: str | None, *, lock: bool = False
    ) -> sa.Row[Any] | None:
        """The project that this caller may publish to; None when the name is free. Raises Failure 403."""
        query = sa.select(projects).where(projects.c.key == key)
        row = conn.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            check_free(conn, key, self._settings.reserved_prefixes)
            check_owner(conn, caller, owner or caller.name, key)
            return None
        if not caller.may_write(row.owner, key, "publish"):
            raise forbidden(
                f"The name `{key}` belongs to somebody else, and this token may not publish to it"
            )
        if owner is not None and owner.lower() != row.owner.lower():
            raise forbidden(f"The project `{key}` belongs to `{row.owner}`, not to `{owner[:96]}`")
        if row.status in ("archived", "quarantined"):
            raise conflict(f"The project `{key}` is {row.status} and takes no files")
        return row

    def _check_open(
        self, conn: sa.Connection, project: sa.Row[Any], version: Version, kind: str
    ) -> sa.Row[Any] | None:
        """The release that a new file would join, None when it is the first. Raises Failure 409 once it is sealed."""
        if kind == SDIST and not project.sdists:
            raise bad_request(
                f"The project `{project.key}` takes wheels only",
                hint="its owner may allow source distributions; they run code when they are installed",
            )
        release = conn.execute(
            sa.select(package_releases).where(
                package_releases.c.project_id == project.id, package_releases.c.version == str(version)
            )
        ).one_or_none()
        grace = timedelta(seconds=self._settings.seal_after)
        if release is not None and release.created_at + grace < utcnow():
            raise conflict(
                f"{project.key} {version} is sealed: it takes no more files {self._settings.seal_after} seconds "
                "after its first one",
                hint="publish another version",
            )
        return release


def _file(conn: sa.Connection, filename: str) -> sa.Row[Any] | None:
    return conn.execute(sa.select(package_files).where(package_files.c.filename == filename)).one_or_none()


def _same_or_refused(known: sa.Row[Any], filename: str, sha256: str) -> None:
    if known.deleted_at is not None:
        raise bad_request(
            f"The file name {filename} was used by a file that was deleted, and is not used again",
            hint="publish another version",
        )
    if known.sha256 != sha256.lower():
        raise bad_request(
            f"File already exists: {filename} has sha256 {known.sha256}, what was sent has {sha256.lower()}",
            hint="published files never change; publish another version",
        )


def _check_twin(conn: sa.Connection, release: sa.Row[Any] | None, filename: str) -> None:
    """No second file for the same environments under another spelling of its name. Raises Failure 400."""
    if release is None or not filename.endswith(".whl"):
        return
    mine = parse_wheel_filename(filename)
    query = sa.select(package_files.c.filename).where(
        package_files.c.release_id == release.id, package_files.c.kind == WHEEL
    )
    for other in conn.execute(query).scalars():
        if parse_wheel_filename(other) == mine:
            raise bad_request(
                f"File already exists: {other} is the same wheel by another spelling of its name"
            )


def _claim_imports(conn: sa.Connection, project: sa.Row[Any], names: Sequence[str]) -> None:
    """Note what can be imported from a project; what somebody else's project brings is refused. Raises Failure 400."""
    others = conn.execute(
        sa.select(
            package_imports.c.name,
            package_imports.c.project_id,
            projects.c.key,
            projects.c.private,
            projects.c.owner_id,
        )
        .join(projects, projects.c.id == package_imports.c.project_id)
        .where(package_imports.c.name.in_(names))
    ).all()
    mine = {row.name for row in others if row.project_id == project.id}
    for row in others:
        if row.owner_id != project.owner_id:
            whose = "another project" if row.private else f"the project `{row.key}`"
            raise bad_request(
                f"The package `{row.name}` is already installed by {whose}: one would overwrite the other",
                hint="rename the package",
            )
    if missing := sorted(set(names) - mine):
        conn.execute(package_imports.insert(), [{"name": name, "project_id": project.id} for name in missing])


def _write_release(
    conn: sa.Connection, project: sa.Row[Any], release: sa.Row[Any] | None, parcel: Parcel
) -> int:
    """The release's row, made by its first file. Raises Failure 400 where two wheels of a version hold different plugins."""
    facts, manifest = parcel.facts, parcel.manifest
    table = None if manifest is None else manifest.model_dump(mode="json", exclude_unset=True)
    if release is not None:
        if parcel.kind == WHEEL and release.manifest is None and table is not None:
            conn.execute(
                package_releases.update().where(package_releases.c.id == release.id).values(manifest=table)
            )
        elif parcel.kind == WHEEL and json.dumps(release.manifest, sort_keys=True) != json.dumps(
            table, sort_keys=True
        ):
            raise bad_request(
                f"{facts.filename} has another llmasos.toml than the wheels of this version before it"
            )
        return int(release.id)
    newest = conn.execute(
        sa.select(package_releases.c.version).where(package_releases.c.project_id == project.id)
    ).scalars()
    if all(Version(facts.version) >= Version(text) for text in newest):
        _describe_project(conn, project, facts, manifest)
    made = conn.execute(
        package_releases.insert().values(
            project_id=project.id,
            version=facts.version,
            requires_python=facts.requires_python,
            requires_dist=list(facts.requires_dist),
            description=(facts.metadata.description or "").replace("\0", "")[:MAX_DESCRIPTION],
            manifest=table,
            created_at=utcnow(),
        )
    ).inserted_primary_key
    if made is None:
        raise Failure(500, "The release could not be written")
    return int(made[0])


def _describe_project(
    conn: sa.Connection, project: sa.Row[Any], facts: WheelFacts | SdistFacts, manifest: Manifest | None
) -> None:
    """What listings show is that of the newest version."""
    plugin_id = None if manifest is None else manifest.id
    if plugin_id is not None:
        taken = conn.execute(
            sa.select(projects.c.key, projects.c.private).where(
                projects.c.plugin_id == plugin_id, projects.c.id != project.id
            )
        ).first()
        if taken is not None:
            whose = "another project" if taken.private else f"the project `{taken.key}`"
            raise conflict(
                f"The plugin id `{plugin_id}` is that of {whose}; two such plugins cannot be installed together"
            )
    summary = (manifest.summary if manifest is not None else facts.metadata.summary) or ""
    conn.execute(
        projects.update()
        .where(projects.c.id == project.id)
        .values(summary=" ".join(summary.replace("\0", "").split())[:MAX_SUMMARY], plugin_id=plugin_id)
    )
