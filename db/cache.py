"""The memory of evaluations as a whole: what it holds, which studies use it, and deleting from it.

An evaluation that a study uses is never deleted; the foreign key of the study's link would refuse it, too.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, Select, Subquery, cast, delete, func, select
from sqlalchemy.orm import Session

from db.errors import Ambiguous, NotFound
from db.models import DatasetRow, EvaluationRow, ModelRow, SampleSetRow, StudyEvaluationRow, StudyRow, utc_now
from db.session import Database
from db.values import CacheGroup, Removal, Removed

#: Rows that one statement deletes: databases limit its parameters.
_AT_ONCE = 500

_LINK = select(StudyEvaluationRow.evaluation_id)
_IS_USED = _LINK.where(StudyEvaluationRow.evaluation_id == EvaluationRow.id).correlate(EvaluationRow).exists()
_GROUP = ("model_id", "dataset_id", "split", "metric")
_WHAT = {
    "model": ModelRow.reference,
    "fingerprint": ModelRow.fingerprint,
    "data": DatasetRow.path,
    "dataset": DatasetRow.sha256,
    "split": EvaluationRow.split,
    "metric": EvaluationRow.metric,
}


def cache_groups(database: Database) -> list[CacheGroup]:
    """Return what is remembered, by model, dataset, split and metric; no evaluation's row is read for it."""
    one = _counted().subquery()
    columns = {
        "model": ModelRow.reference,
        "fingerprint": ModelRow.fingerprint,
        "data": DatasetRow.path,
        "dataset": DatasetRow.sha256,
        "split": one.c.split,
        "metric": one.c.metric,
    }
    sums = {
        "evaluations": one.c.evaluations,
        "unused": one.c.unused,
        "samples": one.c.evaluations * func.coalesce(SampleSetRow.size, 0),
        "bytes": one.c.bytes,
    }
    chosen: list[Any] = [column.label(name) for name, column in columns.items()]
    chosen += [cast(func.sum(column), BigInteger).label(name) for name, column in sums.items()]
    chosen += [
        func.sum(one.c.seconds).label("seconds"),
        func.min(one.c.first_made).label("first_made"),
        func.max(one.c.last_made).label("last_made"),
        _studies_of(one).label("studies"),
    ]
    grouped = (
        select(*chosen)
        .join_from(one, ModelRow, one.c.model_id == ModelRow.id)
        .join(DatasetRow, one.c.dataset_id == DatasetRow.id)
        .outerjoin(SampleSetRow, one.c.sample_set_id == SampleSetRow.id)
        .group_by(one.c.model_id, one.c.dataset_id, *columns.values())
    )
    with database.session() as session:
        rows = session.execute(grouped.order_by(*columns.values()))
        return [CacheGroup(**row._mapping) for row in rows]


def _counted() -> Select[Any]:
    """Count by model, dataset, split, metric and samples, from an index alone."""
    groups = [getattr(EvaluationRow, name) for name in (*_GROUP, "sample_set_id")]
    return select(
        *groups,
        func.count(EvaluationRow.id).label("evaluations"),
        func.count(EvaluationRow.id).filter(~_IS_USED).label("unused"),
        func.sum(EvaluationRow.seconds).label("seconds"),
        func.sum(EvaluationRow.bytes).label("bytes"),
        func.min(EvaluationRow.created_at).label("first_made"),
        func.max(EvaluationRow.created_at).label("last_made"),
    ).group_by(*groups)


def _studies_of(one: Subquery) -> ColumnElement[int]:
    """Count the studies that use any evaluation of a group; they are of its model and dataset."""
    evaluation, link = EvaluationRow, StudyEvaluationRow
    same = [getattr(evaluation, name) == one.c[name] for name in _GROUP]
    # one inside the other: joined, SQLite would look through the group's evaluations for every study
    of_group = select(evaluation.id).where(evaluation.id == link.evaluation_id, *same).correlate(link, one)
    uses = select(link.study_id).where(link.study_id == StudyRow.id, of_group.exists())
    about = (StudyRow.model_id == one.c.model_id, StudyRow.dataset_id == one.c.dataset_id)
    return (
        select(func.count(StudyRow.id))
        .where(*about, uses.correlate(StudyRow, one).exists())
        .correlate(one)
        .scalar_subquery()
    )


def studies_using(database: Database, key: str) -> list[str]:
    """Return the names of the studies that use the evaluation of that key, oldest first."""
    links = select(StudyRow.name).join(StudyEvaluationRow).join(EvaluationRow)
    with database.session() as session:
        return list(session.scalars(links.where(EvaluationRow.key == key).order_by(StudyRow.id)))


def remove_evaluations(
    database: Database, *, older_than: int | None = None, model: str | None = None, dry_run: bool = False
) -> Removal:
    """Delete the evaluations that meet all conditions and that no study uses; tell which.

    Args:
        database: where from.
        older_than: made longer ago than this many days.
        model: of the one model whose fingerprint begins so.
        dry_run: tell what would be deleted, and leave it.

    Raises:
        NotFound, Ambiguous: no model, or several, have such a fingerprint.
    """
    with database.session() if dry_run else database.begin() as session:
        conditions = _conditions(session, older_than, model)
        chosen = _described(EvaluationRow.id, EvaluationRow.seconds, EvaluationRow.bytes).where(*conditions)
        free = chosen.where(~_IS_USED).order_by(*_WHAT.values())
        found = session.execute(free if dry_run else free.with_for_update(of=EvaluationRow)).all()
        if not dry_run:
            deleted = _delete(session, [row.id for row in found])
            found = [row for row in found if row.id in deleted]
        used = select(func.count(EvaluationRow.id)).where(*conditions, _IS_USED)
        return Removal(groups=_summed(found), kept=session.scalars(used).one())


def _described(*columns: Any) -> Select[Any]:
    """Select columns of evaluations beside the names of what they are about."""
    what: list[Any] = [column.label(name) for name, column in _WHAT.items()]
    tables: Select[Any] = select(*what, *columns).select_from(EvaluationRow)
    return tables.join(ModelRow, EvaluationRow.model_id == ModelRow.id).join(
        DatasetRow, EvaluationRow.dataset_id == DatasetRow.id
    )


def _conditions(session: Session, older_than: int | None, model: str | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if older_than is not None:
        conditions.append(EvaluationRow.created_at < utc_now() - timedelta(days=older_than))
    if model is not None:
        conditions.append(EvaluationRow.model_id == _model_id(session, model))
    return conditions


def _model_id(session: Session, prefix: str) -> int:
    same = ModelRow.fingerprint.startswith(prefix, autoescape=True)
    found = session.scalars(select(ModelRow.id).where(same)).all()
    if not found:
        raise NotFound(f"no model's fingerprint begins with {prefix!r}; see `searchsvc cache show`")
    if len(found) > 1:
        raise Ambiguous(f"the fingerprints of {len(found)} models begin with {prefix!r}; give more of it")
    return found[0]


def _delete(session: Session, ids: Sequence[int]) -> set[int]:
    """Delete those that no study has begun to use since they were chosen; return their numbers."""
    deleted: set[int] = set()
    for start in range(0, len(ids), _AT_ONCE):
        unused = EvaluationRow.id.in_(ids[start : start + _AT_ONCE]), ~_IS_USED
        deleted |= set(session.scalars(delete(EvaluationRow).where(*unused).returning(EvaluationRow.id)))
    return deleted


def _summed(rows: Sequence[Row[Any]]) -> tuple[Removed, ...]:
    groups: dict[tuple[Any, ...], list[Row[Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in _WHAT), []).append(row)
    return tuple(
        Removed(
            **dict(zip(_WHAT, what, strict=True)),
            evaluations=len(members),
            seconds=sum(member.seconds for member in members),
            bytes=sum(member.bytes for member in members),
        )
        for what, members in groups.items()
    )
