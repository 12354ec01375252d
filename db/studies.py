"""Studies by name: make, look up, list, delete."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from db.errors import AlreadyExists, StudyBusy
from db.models import StudyEvaluationRow, StudyRow
from db.queue import is_held
from db.rows import dataset_row, insert_or_get, model_row, study_row, to_study
from db.session import Database
from db.values import DatasetRef, ModelRef, Status, Study


def create_study(
    database: Database,
    name: str,
    spec: Mapping[str, Any],
    *,
    model: ModelRef,
    dataset: DatasetRef,
    priority: int = 0,
) -> Study:
    """Queue a new study and return it; of those that wait, higher priorities are run first.

    Raises:
        AlreadyExists: the name is taken.
    """
    with database.begin() as session:
        row = StudyRow(
            name=name,
            spec=dict(spec),
            priority=priority,
            model_id=model_row(session, model).id,
            dataset_id=dataset_row(session, dataset).id,
        )
        if insert_or_get(session, row, StudyRow.name) is not row:
            raise AlreadyExists(f"there is a study {name!r} already; choose another name or delete it")
        return to_study(row)


def get_study(database: Database, name: str) -> Study:
    """Return the study.

    Raises:
        NotFound: there is none; the message names the nearest.
    """
    with database.session() as session:
        return to_study(study_row(session, name))


def exists_study(database: Database, name: str) -> bool:
    """Return whether the name is taken."""
    with database.session() as session:
        return session.scalar(select(StudyRow.id).where(StudyRow.name == name)) is not None


def list_studies(database: Database, *, status: Status | None = None) -> list[Study]:
    """Return all studies, or those in one state, oldest first."""
    chosen = select(StudyRow).order_by(StudyRow.created_at, StudyRow.id)
    if status is not None:
        chosen = chosen.where(StudyRow.status == status)
    with database.session() as session:
        return [to_study(row) for row in session.scalars(chosen)]


def count_by_status(database: Database) -> dict[str, int]:
    """Return how many studies are in each state; states that none is in are left out."""
    counted = select(StudyRow.status, func.count()).group_by(StudyRow.status)
    with database.session() as session:
        return dict(session.execute(counted).tuples().all())


def count_studies(database: Database) -> int:
    """Return how many there are."""
    with database.session() as session:
        return session.scalars(select(func.count(StudyRow.id))).one()


def studies_with_counts(
    database: Database, *, limit: int | None = None, offset: int = 0
) -> list[tuple[Study, int]]:
    """Return studies with the number of evaluations that each uses, oldest first.

    Args:
        database: where they are.
        limit: so many at most; None: all.
        offset: without so many of the oldest.
    """
    links = select(func.count()).where(StudyEvaluationRow.study_id == StudyRow.id).scalar_subquery()
    chosen = select(StudyRow, links).order_by(StudyRow.created_at, StudyRow.id).limit(limit).offset(offset)
    with database.session() as session:
        return [(to_study(row), count) for row, count in session.execute(chosen)]


def delete_study(database: Database, name: str) -> None:
    """Remove a study with its attempts, fronts, latencies and profiles.

    Its evaluations are kept for other studies.

    Raises:
        NotFound: there is none.
        StudyBusy: somebody runs it now.
    """
    with database.begin() as session:
        row = study_row(session, name, lock=True)
        if is_held(session, row):
            raise StudyBusy(f"study {name!r} is being run by {row.lease_owner}; stop that first")
        session.delete(row)
