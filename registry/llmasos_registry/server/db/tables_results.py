"""Results of evaluations: records, their scores, samples, and what others found who computed them again."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json, metadata

#: A published record. Sealed: it can be withdrawn, never changed.
eval_records = sa.Table(
    "eval_records",
    metadata,
    #: Digest of what the record says was computed; environment and timings are outside it.
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("owner_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("publisher", sa.String(96), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_digest", sa.String(64), nullable=False, index=True),
    sa.Column("samples_digest", sa.String(64), nullable=False),
    sa.Column("keyid", sa.String(80), nullable=False),
    sa.Column("envelope", Json, nullable=False),
    #: The record's file.
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("withdrawn_at", Moment),
    sa.Column("withdrawn_reason", sa.Text),
)

eval_scores = sa.Table(
    "eval_scores",
    metadata,
    sa.Column(
        "record", sa.String(64), sa.ForeignKey("eval_records.digest", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("task", sa.String(200), primary_key=True),
    sa.Column("metric", sa.String(200), primary_key=True),
    sa.Column("filter", sa.String(200), primary_key=True),
    #: Two scores are comparable when this is equal: digest of everything that says what was measured.
    sa.Column("comparable", sa.String(64), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("stderr", sa.Float),
    sa.Column("ci_low", sa.Float),
    sa.Column("ci_high", sa.Float),
    sa.Column("n", sa.BigInteger, nullable=False),
    sa.Column("higher_is_better", sa.Boolean, nullable=False),
    sa.Index("ix_eval_scores_task_comparable", "task", "comparable"),
)

#: Samples of a task, gzip of JSON lines, and what each of its documents contributed to the scores.
eval_samples = sa.Table(
    "eval_samples",
    metadata,
    sa.Column(
        "record", sa.String(64), sa.ForeignKey("eval_records.digest", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("task", sa.String(200), primary_key=True),
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("items_sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False),
    sa.Column("documents", sa.BigInteger, nullable=False),
)

eval_attestations = sa.Table(
    "eval_attestations",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column(
        "record",
        sa.String(64),
        sa.ForeignKey("eval_records.digest", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("account_id", Id, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column("keyid", sa.String(80), nullable=False),
    sa.Column("verdict", sa.String(12), nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("documents", sa.BigInteger, nullable=False),
    sa.Column("sample", sa.BigInteger, nullable=False),
    sa.Column("agreed", sa.BigInteger, nullable=False),
    sa.Column("refuted", sa.BigInteger, nullable=False),
    sa.Column("envelope", Json, nullable=False),
    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)
