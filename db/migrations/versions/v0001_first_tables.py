"""First tables.

Revision ID: 0001
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "ss_study_evaluations",
    "ss_profiles",
    "ss_fronts",
    "ss_attempts",
    "ss_studies",
    "ss_evaluations",
    "ss_datasets",
    "ss_models",
)


def upgrade() -> None:
    _models_and_datasets()
    _studies()
    _evaluations()
    _attempts()
    _fronts()
    _profiles()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)


def _time(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _reference(table: str, column: str, target: str, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=f"fk_{table}_{column}", ondelete=ondelete)


def _models_and_datasets() -> None:
    op.create_table(
        "ss_models",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("revision", sa.Text),
        sa.Column("architecture", sa.Text, nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_models"),
        sa.UniqueConstraint("fingerprint", name="uq_ss_models_fingerprint"),
    )
    op.create_table(
        "ss_datasets",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_datasets"),
        sa.UniqueConstraint("sha256", name="uq_ss_datasets_sha256"),
    )


def _studies() -> None:
    op.create_table(
        "ss_studies",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("lease_owner", sa.Text),
        _time("lease_expires_at", nullable=True),
        sa.Column("lease_epoch", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        _time("created_at"),
        _time("started_at", nullable=True),
        _time("finished_at", nullable=True),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'done', 'failed', 'cancelled')",
            name=op.f("ck_ss_studies_status"),
        ),
        sa.CheckConstraint(
            "(status = 'running') = (lease_owner IS NOT NULL)", name=op.f("ck_ss_studies_lease")
        ),
        _reference("ss_studies", "model_id", "ss_models"),
        _reference("ss_studies", "dataset_id", "ss_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_studies"),
        sa.UniqueConstraint("name", name="uq_ss_studies_name"),
    )
    op.create_index("ix_ss_studies_status", "ss_studies", ["status"])


def _evaluations() -> None:
    op.create_table(
        "ss_evaluations",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("split", sa.String(64), nullable=False),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("pruning", sa.JSON),
        sa.Column("tokens_per_layer", sa.JSON, nullable=False),
        sa.Column("accuracy", sa.Double, nullable=False),
        sa.Column("scores", sa.LargeBinary, nullable=False),
        sa.Column("divergences", sa.LargeBinary),
        sa.Column("predictions", sa.LargeBinary),
        sa.Column("cost", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        _time("created_at"),
        _reference("ss_evaluations", "model_id", "ss_models"),
        _reference("ss_evaluations", "dataset_id", "ss_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_evaluations"),
        sa.UniqueConstraint("key", name="uq_ss_evaluations_key"),
    )
    op.create_index("ix_ss_evaluations_model_id_dataset_id", "ss_evaluations", ["model_id", "dataset_id"])
    op.create_table(
        "ss_study_evaluations",
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("evaluation_id", sa.Integer, nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("cached", sa.Boolean, nullable=False),
        _reference("ss_study_evaluations", "study_id", "ss_studies", ondelete="CASCADE"),
        _reference("ss_study_evaluations", "evaluation_id", "ss_evaluations"),
        sa.PrimaryKeyConstraint("study_id", "evaluation_id", name="pk_ss_study_evaluations"),
    )
    op.create_index("ix_ss_study_evaluations_evaluation_id", "ss_study_evaluations", ["evaluation_id"])


def _attempts() -> None:
    op.create_table(
        "ss_attempts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        _time("started_at"),
        _time("ended_at"),
        sa.Column("error", sa.Text),
        _reference("ss_attempts", "study_id", "ss_studies", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_attempts"),
    )
    op.create_index("ix_ss_attempts_study_id", "ss_attempts", ["study_id"])


def _fronts() -> None:
    op.create_table(
        "ss_fronts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("split", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("points", sa.JSON, nullable=False),
        sa.Column("hypervolume", sa.Double, nullable=False),
        sa.Column("reference", sa.JSON, nullable=False),
        _time("created_at"),
        _reference("ss_fronts", "study_id", "ss_studies", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_fronts"),
    )
    op.create_index("ix_ss_fronts_study_id", "ss_fronts", ["study_id"])


def _profiles() -> None:
    op.create_table(
        "ss_profiles",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("yaml", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("study_id", sa.Integer),
        sa.Column("trial", sa.Integer),
        sa.Column("numbers", sa.JSON, nullable=False),
        _time("created_at"),
        _reference("ss_profiles", "study_id", "ss_studies", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_ss_profiles"),
        sa.UniqueConstraint("sha256", name="uq_ss_profiles_sha256"),
    )
    op.create_index("ix_ss_profiles_study_id", "ss_profiles", ["study_id"])
