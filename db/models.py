"""Our tables. Every name begins with `ss_`, so that Optuna's tables live beside them in one database."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, MetaData, String, Text, UniqueConstraint, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from db.column_types import FiniteFloat, FiniteJson, PackedFloats, PackedList, UtcDateTime
from db.errors import DatabaseError

PREFIX = "ss_"
STATUSES = ("queued", "running", "paused", "done", "failed", "cancelled")
REQUESTS = ("pause", "stop", "cancel")


def utc_now() -> datetime:
    """Return this moment, with its time zone."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Constraint names follow one rule, so that migrations can name them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ModelRow(Base):
    """A model, known by the sha256 of its configuration and weights."""

    __tablename__ = "ss_models"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    reference: Mapped[str] = mapped_column(Text)
    revision: Mapped[str | None] = mapped_column(Text)
    architecture: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class DatasetRow(Base):
    """A held-out dataset, known by its sha256."""

    __tablename__ = "ss_datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    path: Mapped[str] = mapped_column(Text)
    samples: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class StudyRow(Base):
    """A study: what was asked for, how far it is, and who holds it until when."""

    __tablename__ = "ss_studies"
    __table_args__ = (
        CheckConstraint(f"status IN {STATUSES}", name="status"),
        CheckConstraint(f"request IN {REQUESTS}", name="request"),
        CheckConstraint("(status = 'running') = (lease_owner IS NOT NULL)", name="lease"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(512), unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(FiniteJson)
    model_id: Mapped[int] = mapped_column(ForeignKey("ss_models.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("ss_datasets.id"))
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    #: Higher ones are claimed first.
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    #: What whoever runs the study is asked to do with it.
    request: Mapped[str | None] = mapped_column(String(16))
    #: host:pid:start of the process that runs the study, see `owners.py`.
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    #: Counts the claims; a write under an older number is refused.
    lease_epoch: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    #: What a study that is done came to, as the caller's JSON.
    outcome: Mapped[dict[str, Any] | None] = mapped_column(FiniteJson)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)
    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)


class SampleSetRow(Base):
    """The samples that evaluations have in common: written once, for they take more room than the scores."""

    __tablename__ = "ss_sample_sets"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    size: Mapped[int]
    ids: Mapped[tuple[str, ...]] = mapped_column(PackedList)
    visual_tokens: Mapped[tuple[int, ...]] = mapped_column(PackedList)
    text_tokens: Mapped[tuple[int, ...]] = mapped_column(PackedList)


class EvaluationRow(Base):
    """One configuration measured on one dataset; it belongs to its key, not to a study."""

    __tablename__ = "ss_evaluations"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("ss_models.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("ss_datasets.id"))
    sample_set_id: Mapped[int | None] = mapped_column(ForeignKey("ss_sample_sets.id"))
    split: Mapped[str] = mapped_column(String(64))
    metric: Mapped[str] = mapped_column(String(64))
    #: Ranker and schedule; NULL is no pruning.
    pruning: Mapped[dict[str, Any] | None] = mapped_column(FiniteJson)
    tokens_per_layer: Mapped[list[float]] = mapped_column(FiniteJson)
    accuracy: Mapped[float] = mapped_column(FiniteFloat)
    #: Per sample, in the order of the split.
    scores: Mapped[tuple[float, ...]] = mapped_column(PackedFloats)
    divergences: Mapped[tuple[float, ...] | None] = mapped_column(PackedFloats)
    predictions: Mapped[tuple[str, ...] | None] = mapped_column(PackedList)
    cost: Mapped[dict[str, Any]] = mapped_column(FiniteJson)
    #: What the packed and the JSON columns take; here, so that nobody has to look at them for it.
    bytes: Mapped[int] = mapped_column(server_default="0")
    seconds: Mapped[float] = mapped_column(FiniteFloat)
    worker: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)
    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)
    sample_set: Mapped[SampleSetRow | None] = relationship(lazy="joined")


class StudyEvaluationRow(Base):
    """A study used an evaluation; `cached` when it was already there."""

    __tablename__ = "ss_study_evaluations"

    study_id: Mapped[int] = mapped_column(ForeignKey("ss_studies.id", ondelete="CASCADE"), primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("ss_evaluations.id"), primary_key=True, index=True)
    cached: Mapped[bool]

    evaluation: Mapped[EvaluationRow] = relationship(lazy="joined", innerjoin=True)


class AttemptRow(Base):
    """One try of one worker at one evaluation, also when it failed."""

    __tablename__ = "ss_attempts"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("ss_studies.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(64))
    worker: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(Text)


class FrontRow(Base):
    """A Pareto front as it was at one moment; never changed."""

    __tablename__ = "ss_fronts"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("ss_studies.id", ondelete="CASCADE"), index=True)
    split: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    points: Mapped[list[dict[str, Any]]] = mapped_column(FiniteJson)
    hypervolume: Mapped[float] = mapped_column(FiniteFloat)
    reference: Mapped[list[float]] = mapped_column(FiniteJson)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class LatencyRow(Base):
    """The prefill time of one member of a study's front beside no pruning, measured once per study."""

    __tablename__ = "ss_latencies"
    __table_args__ = (UniqueConstraint("study_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("ss_studies.id", ondelete="CASCADE"))
    #: The key of the member's evaluation.
    key: Mapped[str] = mapped_column(String(64))
    device: Mapped[str] = mapped_column(Text)
    batch_size: Mapped[int]
    rounds: Mapped[int]
    ratio: Mapped[float] = mapped_column(FiniteFloat)
    low: Mapped[float] = mapped_column(FiniteFloat)
    high: Mapped[float] = mapped_column(FiniteFloat)
    times: Mapped[dict[str, float]] = mapped_column(FiniteJson)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ProfileRow(Base):
    """An exported profile, byte for byte, and the numbers measured with it."""

    __tablename__ = "ss_profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    yaml: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("ss_studies.id", ondelete="CASCADE"), index=True)
    trial: Mapped[int | None]
    numbers: Mapped[dict[str, Any]] = mapped_column(FiniteJson)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    study: Mapped[StudyRow | None] = relationship()


# All that `cache_groups` looks at: the rows themselves are a hundred times as large. By id within a group,
# as the links are that it is compared with.
Index(
    "ix_ss_evaluations_groups",
    EvaluationRow.model_id,
    EvaluationRow.dataset_id,
    EvaluationRow.split,
    EvaluationRow.metric,
    EvaluationRow.sample_set_id,
    EvaluationRow.id,
    EvaluationRow.seconds,
    EvaluationRow.bytes,
    EvaluationRow.created_at,
)


@event.listens_for(FrontRow, "before_update")
def _refuse_change(_mapper: object, _connection: object, front: FrontRow) -> None:
    raise DatabaseError(f"front {front.id} is a snapshot and cannot be changed")
