"""What studies found: evaluations (each made once, for all studies), attempts, fronts and profiles."""

import hashlib
import json
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db import rows
from db.column_types import pack_floats, pack_list
from db.errors import NotFound
from db.models import AttemptRow, EvaluationRow, FrontRow, ProfileRow, StudyEvaluationRow, StudyRow
from db.queue import held_row
from db.session import Database
from db.values import (
    Attempt,
    Evaluation,
    Front,
    Lease,
    NewAttempt,
    NewEvaluation,
    NewFront,
    NewProfile,
    Profile,
    StudyEvaluation,
)


def find_evaluation(database: Database, key: str) -> Evaluation | None:
    """Return the evaluation of that key, whichever study made it; None when there is none."""
    with database.session() as session:
        row = session.scalar(select(EvaluationRow).where(EvaluationRow.key == key))
        return None if row is None else rows.to_evaluation(row)


def save_evaluation(
    database: Database,
    new: NewEvaluation,
    *,
    lease: Lease | None = None,
    attempt: NewAttempt | None = None,
) -> Evaluation:
    """Store an evaluation and return it; one that has its key already is returned instead, unchanged.

    Args:
        database: where to.
        new: what was measured.
        lease: the study that it was measured for, if any.
        attempt: the study's try that came to it, stored with it.

    Raises:
        LeaseLost: the lease has been taken over; nothing is stored.
        InvalidValue: NaN or an infinity in it; nothing is stored.
    """
    with database.begin() as session:
        study = None if lease is None else held_row(session, lease)
        row = rows.insert_or_get(session, _evaluation_row(session, study, new), EvaluationRow.key)
        if study is not None:
            _link(session, study, row, cached=False)
            if attempt is not None:
                session.add(AttemptRow(study_id=study.id, **vars(attempt)))
        return rows.to_evaluation(row)


def link_evaluation(database: Database, lease: Lease, key: str, *, cached: bool = True) -> None:
    """Note that the lease's study used a stored evaluation; what is noted already stays.

    Raises:
        LeaseLost: the lease has been taken over.
        NotFound: no evaluation has that key.
    """
    chosen = select(EvaluationRow).where(EvaluationRow.key == key)
    with database.begin() as session:
        study = held_row(session, lease)
        # locked, so that whoever deletes unused evaluations does so before this or sees the link
        row = session.scalar(chosen.with_for_update(read=True, key_share=True, of=EvaluationRow))
        if row is None:
            raise NotFound(f"no evaluation has the key {key}")
        _link(session, study, row, cached=cached)


def evaluations(database: Database, study: str) -> list[StudyEvaluation]:
    """Return what a study evaluated, in the order in which it was first evaluated by any."""
    link = StudyEvaluationRow
    with database.session() as session:
        chosen = select(link).where(link.study_id == rows.study_row(session, study).id)
        ordered = chosen.order_by(link.evaluation_id)
        return [
            StudyEvaluation(cached=row.cached, evaluation=rows.to_evaluation(row.evaluation))
            for row in session.scalars(ordered)
        ]


def record_attempt(database: Database, lease: Lease, new: NewAttempt) -> Attempt:
    """Store one worker's try at an evaluation.

    Raises:
        LeaseLost: the lease has been taken over.
        InvalidValue: a time without its zone.
    """
    with database.begin() as session:
        row = AttemptRow(study_id=held_row(session, lease).id, **vars(new))
        session.add(row)
        session.flush()
        return rows.to_attempt(row)


def attempts(database: Database, study: str) -> list[Attempt]:
    """Return a study's attempts, oldest first."""
    with database.session() as session:
        chosen = select(AttemptRow).where(AttemptRow.study_id == rows.study_row(session, study).id)
        return [rows.to_attempt(row) for row in session.scalars(chosen.order_by(AttemptRow.id))]


def save_front(database: Database, lease: Lease, new: NewFront) -> Front:
    """Store a snapshot of the study's front; the newest one is returned instead when it is the same.

    Raises:
        LeaseLost: the lease has been taken over.
        InvalidValue: NaN or an infinity in it.
    """
    content: dict[str, Any] = {**vars(new), "points": list(new.points), "reference": list(new.reference)}
    with database.begin() as session:
        study = held_row(session, lease)
        newest = session.scalars(_fronts(study).order_by(FrontRow.id.desc()).limit(1)).first()
        if newest is not None and all(getattr(newest, name) == value for name, value in content.items()):
            return rows.to_front(newest)
        row = FrontRow(study_id=study.id, **content)
        session.add(row)
        session.flush()
        return rows.to_front(row)


def fronts(database: Database, study: str) -> list[Front]:
    """Return a study's snapshots, oldest first."""
    with database.session() as session:
        chosen = _fronts(rows.study_row(session, study)).order_by(FrontRow.id)
        return [rows.to_front(row) for row in session.scalars(chosen)]


def save_profile(database: Database, new: NewProfile) -> Profile:
    """Store an exported profile; where the same text is stored already, only its numbers are replaced.

    Raises:
        NotFound: there is no such study.
        InvalidValue: NaN or an infinity in the numbers.
    """
    with database.begin() as session:
        study = None if new.study is None else rows.study_row(session, new.study)
        content = {**vars(new), "study": study, "sha256": hashlib.sha256(new.yaml.encode()).hexdigest()}
        row = rows.insert_or_get(session, ProfileRow(**content), ProfileRow.sha256)
        row.numbers = new.numbers
        session.flush()
        return rows.to_profile(row)


def find_profile(database: Database, sha256: str) -> Profile | None:
    """Return the profile whose text has that sha256; None when there is none."""
    with database.session() as session:
        row = session.scalar(select(ProfileRow).where(ProfileRow.sha256 == sha256))
        return None if row is None else rows.to_profile(row)


def profiles(database: Database, study: str | None = None) -> list[Profile]:
    """Return the stored profiles, or those of one study, oldest first."""
    chosen = select(ProfileRow).order_by(ProfileRow.id)
    with database.session() as session:
        if study is not None:
            chosen = chosen.where(ProfileRow.study_id == rows.study_row(session, study).id)
        return [rows.to_profile(row) for row in session.scalars(chosen)]


def _fronts(study: StudyRow) -> Select[FrontRow]:
    return select(FrontRow).where(FrontRow.study_id == study.id)


def _link(session: Session, study: StudyRow, row: EvaluationRow, *, cached: bool) -> None:
    same = (StudyEvaluationRow.study_id == study.id, StudyEvaluationRow.evaluation_id == row.id)
    if session.scalar(select(StudyEvaluationRow.study_id).where(*same)) is None:
        session.add(StudyEvaluationRow(study_id=study.id, evaluation_id=row.id, cached=cached))


def _evaluation_row(session: Session, study: StudyRow | None, new: NewEvaluation) -> EvaluationRow:
    if study is not None and (study.model.fingerprint, study.dataset.sha256) == (
        new.model.fingerprint,
        new.dataset.sha256,
    ):
        model, dataset = study.model, study.dataset
    else:
        model, dataset = rows.model_row(session, new.model), rows.dataset_row(session, new.dataset)
    content = {name: value for name, value in vars(new).items() if name != "samples"}
    sample_set = rows.sample_set_row(session, new.samples)
    found = {"model": model, "dataset": dataset, "sample_set": sample_set, "bytes": _stored_bytes(new)}
    return EvaluationRow(**{**content, **found})


def _stored_bytes(new: NewEvaluation) -> int:
    packed = [pack_floats(values) for values in (new.scores, new.divergences) if values is not None]
    if new.predictions is not None:
        packed.append(pack_list(new.predictions))
    written = [
        json.dumps(value) for value in (new.pruning, new.tokens_per_layer, new.cost) if value is not None
    ]
    return sum(map(len, packed)) + sum(map(len, written))
