"""Who runs which study: a lease with a heartbeat, and an epoch that is checked with every write under it.

queued -> running -> done | failed | cancelled; released, a running study is queued again, or paused where
that was requested (`db.requests`). A lease is open to others when it has expired, or when its owner is a
process of this host that has ended.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.column_types import UtcDateTime
from db.errors import InvalidValue, LeaseLost, StudyBusy, StudyFinished
from db.models import StudyRow, utc_now
from db.owners import owner_is_dead
from db.rows import study_row
from db.session import Database
from db.values import FinalStatus, Lease

OPEN = ("queued", "running")
IsDead = Callable[[str], bool]
#: Whether there is room for a study, by its name and spec; None: no, and nobody may overtake it.
Fits = Callable[[str, Mapping[str, Any]], bool | None]


def claim(
    database: Database,
    name: str,
    *,
    owner: str,
    seconds: float,
    reopen: bool = False,
    is_dead: IsDead = owner_is_dead,
) -> Lease:
    """Take the study; of several callers at once, one gets it.

    Args:
        database: where the study is.
        name: the study's.
        owner: as `current_owner` returns it.
        seconds: how long the lease lasts without a heartbeat.
        reopen: take a study that is paused, done, failed or cancelled, too.
        is_dead: whether an owner has certainly ended.

    Raises:
        NotFound: there is no such study.
        StudyBusy: somebody holds it.
        StudyFinished: it is paused or has ended, and `reopen` is false.
    """
    with database.begin() as session:
        row = study_row(session, name, lock=True)
        if is_held(session, row, is_dead):
            raise StudyBusy(
                f"study {name!r} is being run by {row.lease_owner} (until {row.lease_expires_at})"
            )
        if row.status not in OPEN and not reopen:
            since = f" since {row.finished_at}" if row.finished_at else ""
            raise StudyFinished(f"study {name!r} is {row.status}{since}")
        if row.request != "stop":  # who takes it by name wants it to go on
            row.request = None
        return _take(session, row, owner, seconds)


def claim_next(
    database: Database,
    *,
    owner: str,
    seconds: float,
    fits: Fits = lambda _name, _spec: True,
    is_dead: IsDead = owner_is_dead,
) -> Lease | None:
    """Take the first study that is queued or abandoned, None when there is none; arguments as in `claim`.

    Higher priorities come first, then older studies. Studies that do not fit are passed over. Abandoned ones
    that were to be paused or cancelled are that now, and not taken.
    """
    waiting = select(StudyRow).where(StudyRow.status.in_(OPEN))
    by_rank = StudyRow.priority.desc(), StudyRow.created_at, StudyRow.id
    with database.begin() as session:
        for study_id in session.scalars(waiting.with_only_columns(StudyRow.id).order_by(*by_rank)).all():
            unlocked = waiting.where(StudyRow.id == study_id).with_for_update(of=StudyRow, skip_locked=True)
            row = session.scalar(unlocked)
            if row is None or is_held(session, row, is_dead):
                continue
            if row.request in ("pause", "cancel"):
                leave(session, row)
                continue
            there_is_room = fits(row.name, row.spec)
            if there_is_room:
                return _take(session, row, owner, seconds)
            if there_is_room is None:
                return None
    return None


def hand_over(database: Database, lease: Lease, *, owner: str) -> Lease:
    """Return the lease, extended, with another process as its owner: one that this process has started.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        row = held_row(session, lease)
        row.lease_owner = owner
        row.lease_expires_at = _now(session) + timedelta(seconds=lease.seconds)
        return _lease(row, lease.seconds)


def heartbeat(database: Database, lease: Lease) -> Lease:
    """Return the lease, extended by its seconds from now on.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        row = held_row(session, lease)
        row.lease_expires_at = _now(session) + timedelta(seconds=lease.seconds)
        return _lease(row, lease.seconds)


def finish(
    database: Database,
    lease: Lease,
    status: FinalStatus,
    *,
    error: str | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> None:
    """End the study and the lease; `error` says why it failed, `outcome` what it came to.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        row = held_row(session, lease)
        end(session, row, status)
        row.error, row.outcome = error, None if outcome is None else dict(outcome)


def release(database: Database, lease: Lease) -> None:
    """Give the lease back before the study has ended: it is queued again, and goes on where it was.

    Where that was requested it is paused or cancelled instead.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        leave(session, held_row(session, lease))


def leave(session: Session, row: StudyRow) -> None:
    """Nobody runs it any more: do what was requested, else queue it; a stop is for who takes it next."""
    if row.request == "cancel":
        end(session, row, "cancelled")
        return
    row.status, row.lease_owner, row.lease_expires_at = "queued", None, None
    if row.request == "pause":
        row.status, row.request = "paused", None


def end(session: Session, row: StudyRow, status: FinalStatus) -> None:
    """The study has ended."""
    row.status, row.request, row.finished_at = status, None, _now(session)
    row.lease_owner = row.lease_expires_at = None


def check_lease(database: Database, lease: Lease) -> None:
    """Raise LeaseLost unless the lease is still good: ask before a write that another library makes."""
    with database.begin() as session:
        held_row(session, lease)


def held_row(session: Session, lease: Lease) -> StudyRow:
    """Return the lease's study, locked: what the same transaction writes is written under the lease.

    A lease that has expired but that nobody has taken is still good: its epoch is the newest.

    Raises:
        LeaseLost: a later epoch began, or the study has ended, was released or deleted.
    """
    chosen = select(StudyRow).where(StudyRow.id == lease.study_id)
    return checked(session.scalar(chosen.with_for_update(of=StudyRow)), lease)


def checked(row: StudyRow | None, lease: Lease) -> StudyRow:
    """Return the row of the lease's study; raise LeaseLost as `held_row`."""
    if row is None:
        raise LeaseLost(f"study {lease.name!r} has been deleted")
    if row.lease_epoch != lease.epoch or row.status != "running":
        state = f"epoch {row.lease_epoch}, {row.status}, owner {row.lease_owner}"
        raise LeaseLost(f"the lease on study {lease.name!r} (epoch {lease.epoch}) is lost: {state}")
    return row


def is_held(session: Session, row: StudyRow, is_dead: IsDead = owner_is_dead) -> bool:
    """Return whether somebody runs the study now, so that nobody else may."""
    if row.status != "running" or row.lease_expires_at is None or row.lease_owner is None:
        return False
    return row.lease_expires_at > _now(session) and not is_dead(row.lease_owner)


def _take(session: Session, row: StudyRow, owner: str, seconds: float) -> Lease:
    if not seconds > 0:
        raise InvalidValue(f"a lease must last longer than 0 seconds, not {seconds}")
    now = _now(session)
    row.status, row.error, row.outcome, row.finished_at = "running", None, None, None
    row.lease_owner, row.lease_expires_at = owner, now + timedelta(seconds=seconds)
    row.lease_epoch += 1
    row.started_at = row.started_at or now
    return _lease(row, seconds)


def _lease(row: StudyRow, seconds: float) -> Lease:
    return Lease(
        study_id=row.id,
        name=row.name,
        owner=row.lease_owner or "",
        epoch=row.lease_epoch,
        seconds=seconds,
        expires_at=row.lease_expires_at or utc_now(),
    )


def _now(session: Session) -> datetime:
    """Return the database's clock where it has one: the clocks of several hosts differ."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp(type_=UtcDateTime))).one()
    return utc_now()
