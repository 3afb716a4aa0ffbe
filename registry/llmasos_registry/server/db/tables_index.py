"""The Python package index: projects, releases, files, prebuilt pages, and what was fetched from the upstream."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json, metadata

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),  # as first published
    sa.Column("key", sa.String(100), nullable=False, unique=True),  # PEP 503
    sa.Column("skeleton", sa.String(100), nullable=False, index=True),  # what look-alikes share
    sa.Column("owner_id", Id, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("owner", sa.String(96), nullable=False),
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("status", sa.String(12), nullable=False, server_default="active"),  # PEP 792
    sa.Column("status_reason", sa.Text),
    sa.Column("sdists", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("summary", sa.Text, nullable=False, server_default=""),
    sa.Column("plugin_id", sa.String(80), index=True),
    sa.Column("serial", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("downloads", sa.BigInteger, nullable=False, server_default="0"),
    #: Of all its files: adding up files with every upload would take longer with every upload.
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
)

#: Projects that were deleted. Nobody gets such a name again, and the upstream is not asked for it: environments that
#: still name it must not be given somebody else's code.
project_tombstones = sa.Table(
    "project_tombstones",
    metadata,
    sa.Column("key", sa.String(100), primary_key=True),
    sa.Column("skeleton", sa.String(100), nullable=False, index=True),
    sa.Column("owner", sa.String(96), nullable=False),
    sa.Column("deleted_at", Moment, nullable=False),
)

package_releases = sa.Table(
    "package_releases",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("project_id", Id, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    sa.Column("version", sa.String(120), nullable=False),  # PEP 440, normalised
    sa.Column("requires_python", sa.Text),
    sa.Column("requires_dist", Json, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("manifest", Json),  # llmasos.toml, when it is a plugin
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("yanked_at", Moment),
    sa.Column("yanked_reason", sa.Text),
    sa.UniqueConstraint("project_id", "version"),
)

#: A file name is used once: rows of deleted files stay, with ``deleted_at``.
package_files = sa.Table(
    "package_files",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column(
        "release_id", Id, sa.ForeignKey("package_releases.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("project_id", Id, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("filename", sa.String(250), nullable=False, unique=True),
    sa.Column("kind", sa.String(12), nullable=False),  # bdist_wheel | sdist
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), index=True),  # NULL once it is deleted
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("metadata_sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), index=True),
    sa.Column("requires_python", sa.Text),
    sa.Column("uploaded_at", Moment, nullable=False),
    sa.Column("uploader", sa.String(96), nullable=False),
    sa.Column("deleted_at", Moment),
)

#: Import names (top-level packages and modules) that projects here install: two projects must not install the same.
package_imports = sa.Table(
    "package_imports",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column(
        "project_id", Id, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True
    ),
)

#: The simple page of a project, built when it changes: all that a read needs is in one row. Every local name has one,
#: deleted names too (``gone``), so a name without a page is one that the upstream may be asked for.
pages = sa.Table(
    "pages",
    metadata,
    sa.Column("key", sa.String(100), primary_key=True),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("json", sa.LargeBinary, nullable=False),
    sa.Column("json_gzip", sa.LargeBinary, nullable=False),
    sa.Column("html", sa.LargeBinary, nullable=False),
    sa.Column("serial", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String(96), nullable=False),
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("gone", sa.Boolean, nullable=False, server_default=sa.false()),
)

upstream_pages = sa.Table(
    "upstream_pages",
    metadata,
    sa.Column("key", sa.String(100), primary_key=True),
    sa.Column("found", sa.Boolean, nullable=False),
    sa.Column("json", sa.LargeBinary, nullable=False),
    sa.Column("etag", sa.Text),
    sa.Column("fetched_at", Moment, nullable=False),
)

#: Files of the upstream that were asked for: by digest, so that other bytes are refused.
upstream_files = sa.Table(
    "upstream_files",
    metadata,
    sa.Column("filename", sa.String(250), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("blob_sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), index=True),
    sa.Column("metadata_sha256", sa.String(64)),
    sa.Column("metadata_blob_sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), index=True),
)
