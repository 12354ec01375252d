"""Between rows and values, both ways."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from db import models, values
from db.errors import NotFound

Row = TypeVar("Row", bound=models.Base)
Value = TypeVar("Value")


def insert_or_get(session: Session, row: Row, unique: InstrumentedAttribute[str]) -> Row:
    """Insert `row`, or return the row that has its value of `unique` already; safe against other writers."""
    same = select(type(row)).where(unique == getattr(row, unique.key))
    same = same.with_for_update(read=True, key_share=True, of=type(row))  # it may be about to be deleted
    found = session.scalars(same).one_or_none()
    if found is not None:
        return found
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # another process was faster (PostgreSQL; SQLite has one writer at a time)
        return session.scalars(same).one()
    return row


def study_row(session: Session, name: str, *, lock: bool = False) -> models.StudyRow:
    """Return the study's row, locked against other writers where that is asked for.

    Raises:
        NotFound: there is none; the message names the nearest.
    """
    chosen = select(models.StudyRow).where(models.StudyRow.name == name)
    row = session.scalar(chosen.with_for_update(of=models.StudyRow) if lock else chosen)
    if row is not None:
        return row
    near = get_close_matches(name, session.scalars(select(models.StudyRow.name)), n=1)
    raise NotFound(
        f"no study {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see `searchsvc study list`")
    )


def model_row(session: Session, ref: values.ModelRef) -> models.ModelRow:
    """Return the model's row, made when it is new."""
    row = models.ModelRow(
        fingerprint=ref.fingerprint,
        reference=ref.reference,
        revision=ref.revision,
        architecture=ref.architecture,
    )
    return insert_or_get(session, row, models.ModelRow.fingerprint)


def dataset_row(session: Session, ref: values.DatasetRef) -> models.DatasetRow:
    """Return the dataset's row, made when it is new."""
    row = models.DatasetRow(sha256=ref.sha256, path=ref.path, samples=ref.samples)
    return insert_or_get(session, row, models.DatasetRow.sha256)


def sample_set_row(session: Session, samples: values.SampleSet | None) -> models.SampleSetRow | None:
    """Return the samples' row, made when it is new; None where nothing is said of them."""
    if samples is None:
        return None
    text = json.dumps([samples.ids, samples.visual_tokens, samples.text_tokens])
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    row = models.SampleSetRow(sha256=sha256, size=len(samples.ids), **vars(samples))
    return insert_or_get(session, row, models.SampleSetRow.sha256)


def to_study(row: models.StudyRow) -> values.Study:
    """Return the row's value."""
    return _value(values.Study, row, model=_model(row), dataset=_dataset(row))


def to_evaluation(row: models.EvaluationRow) -> values.Evaluation:
    """Return the row's value."""
    return _value(
        values.Evaluation,
        row,
        model=_model(row),
        dataset=_dataset(row),
        tokens_per_layer=tuple(row.tokens_per_layer),
        samples=None if row.sample_set is None else _value(values.SampleSet, row.sample_set),
    )


def to_attempt(row: models.AttemptRow) -> values.Attempt:
    """Return the row's value."""
    return _value(values.Attempt, row)


def to_front(row: models.FrontRow) -> values.Front:
    """Return the row's value."""
    return _value(values.Front, row, points=tuple(row.points), reference=tuple(row.reference))


def to_latency(row: models.LatencyRow) -> values.Latency:
    """Return the row's value."""
    return _value(values.Latency, row)


def to_profile(row: models.ProfileRow) -> values.Profile:
    """Return the row's value."""
    return _value(values.Profile, row, study=None if row.study is None else row.study.name)


def _model(row: models.StudyRow | models.EvaluationRow) -> values.ModelRef:
    return _value(values.ModelRef, row.model)


def _dataset(row: models.StudyRow | models.EvaluationRow) -> values.DatasetRef:
    return _value(values.DatasetRef, row.dataset)


def _value(kind: Callable[..., Value], row: models.Base, **other: Any) -> Value:
    """Return a `kind` (a dataclass) from the row's columns of the same names and the `other` fields."""
    columns = {field.name for field in fields(cast(Any, kind))} - other.keys()
    return kind(**{name: getattr(row, name) for name in columns}, **other)
