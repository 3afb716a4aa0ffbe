"""Every column that keeps a blob alive. A sweep deletes what none of them names, so a new column must be listed here."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.tables_index import package_files, upstream_files
from llmasos_registry.server.db.tables_results import eval_attestations, eval_records, eval_samples
from llmasos_registry.server.db.tables_store import xet_places

#: Git blobs are not here: they are kept by the commits that reach them, which the sweep walks.
REFERENCES: tuple[sa.Column[str], ...] = (
    package_files.c.sha256,
    package_files.c.metadata_sha256,
    upstream_files.c.blob_sha256,
    upstream_files.c.metadata_blob_sha256,
    xet_places.c.sha256,
    eval_records.c.sha256,
    eval_samples.c.sha256,
    eval_samples.c.items_sha256,
    eval_attestations.c.sha256,
)
