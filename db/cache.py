"""The memory of evaluations as a whole: what it holds, which studies use it, and deleting from it.

An evaluation that a study uses is never deleted; the foreign key of the study's link would refuse it, too.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Text, cast, delete, exists, func, select
from sqlalchemy.orm import Session, aliased

from db.errors import Ambiguous, NotFound
from db.models import DatasetRow, EvaluationRow, ModelRow, SampleSetRow, StudyEvaluationRow, StudyRow, utc_now
from db.session import Database
from db.values import CacheGroup, Removal, Removed

#: Rows that one statement deletes: databases limit its parameters.
_AT_ONCE = 500

_IS_USED = exists().where(StudyEvaluationRow.evaluation_id == EvaluationRow.id).correlate(EvaluationRow)
_WHAT = {
    "model": ModelRow.reference,
    "fingerprint": ModelRow.fingerprint,
    "data": DatasetRow.path,
    "dataset": DatasetRow.sha256,
    "split": EvaluationRow.split,
    "metric": EvaluationRow.metric,
}


def cache_groups(database: Database) -> list[CacheGroup]:
    """Return what is remembered, by model, dataset, split and metric; no scores are unpacked."""
    grouped = _described(
        func.count(EvaluationRow.id).label("evaluations"),
        func.count(EvaluationRow.id).filter(~_IS_USED).label("unused"),
        _studies_of_group().label("studies"),
        func.sum(func.coalesce(SampleSetRow.size, 0)).label("samples"),
        func.sum(EvaluationRow.seconds).label("seconds"),
        func.sum(_stored_bytes()).label("bytes"),
        func.min(EvaluationRow.created_at).label("first_made"),
        func.max(EvaluationRow.created_at).label("last_made"),
    ).group_by(EvaluationRow.model_id, EvaluationRow.dataset_id, *_WHAT.values())
    with database.session() as session:
        rows = session.execute(grouped.order_by(*_WHAT.values()))
        return [CacheGroup(**row._mapping) for row in rows]


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
        chosen = _described(EvaluationRow.id, EvaluationRow.seconds, _stored_bytes().label("bytes")).where(
            *conditions
        )
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
    return (
        tables.join(ModelRow, EvaluationRow.model_id == ModelRow.id)
        .join(DatasetRow, EvaluationRow.dataset_id == DatasetRow.id)
        .outerjoin(SampleSetRow, EvaluationRow.sample_set_id == SampleSetRow.id)
    )


def _stored_bytes() -> ColumnElement[int]:
    """Bytes of an evaluation's packed and JSON values (which are ASCII), its row's own overhead left out."""
    packed = (EvaluationRow.scores, EvaluationRow.divergences, EvaluationRow.predictions)
    written = (EvaluationRow.pruning, EvaluationRow.tokens_per_layer, EvaluationRow.cost)
    sizes = [func.length(column) for column in packed] + [
        func.length(cast(column, Text)) for column in written
    ]
    total: ColumnElement[int] = func.coalesce(sizes[0], 0)
    for size in sizes[1:]:
        total = total + func.coalesce(size, 0)
    return total


def _studies_of_group() -> ColumnElement[int]:
    """Count the studies that use any evaluation of the outer row's group."""
    other = aliased(EvaluationRow)
    same = [
        getattr(other, name) == getattr(EvaluationRow, name)
        for name in ("model_id", "dataset_id", "split", "metric")
    ]
    links = select(func.count(StudyEvaluationRow.study_id.distinct())).select_from(StudyEvaluationRow)
    joined = links.join(other, StudyEvaluationRow.evaluation_id == other.id)
    return joined.where(*same).correlate(EvaluationRow).scalar_subquery()


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
