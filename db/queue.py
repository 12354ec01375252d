"""Who runs which study: a lease with a heartbeat, and an epoch that is checked with every write under it.

queued -> running -> done | failed | cancelled; released, a running study is queued again. A lease is open to
others when it has expired, or when its owner is a process of this host that has ended.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

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
        reopen: take a study that is done, failed or cancelled, too.
        is_dead: whether an owner has certainly ended.

    Raises:
        NotFound: there is no such study.
        StudyBusy: somebody holds it.
        StudyFinished: it has ended, and `reopen` is false.
    """
    with database.begin() as session:
        row = study_row(session, name, lock=True)
        if is_held(session, row, is_dead):
            raise StudyBusy(
                f"study {name!r} is being run by {row.lease_owner} (until {row.lease_expires_at})"
            )
        if row.status not in OPEN and not reopen:
            raise StudyFinished(f"study {name!r} is {row.status} since {row.finished_at}")
        return _take(session, row, owner, seconds)


def claim_next(
    database: Database, *, owner: str, seconds: float, is_dead: IsDead = owner_is_dead
) -> Lease | None:
    """Take the oldest study that is queued or abandoned, None when there is none; arguments as in `claim`."""
    waiting = select(StudyRow).where(StudyRow.status.in_(OPEN))
    oldest_first = waiting.with_only_columns(StudyRow.id).order_by(StudyRow.created_at, StudyRow.id)
    with database.begin() as session:
        for study_id in session.scalars(oldest_first).all():
            unlocked = waiting.where(StudyRow.id == study_id).with_for_update(of=StudyRow, skip_locked=True)
            row = session.scalar(unlocked)
            if row is not None and not is_held(session, row, is_dead):
                return _take(session, row, owner, seconds)
    return None


def heartbeat(database: Database, lease: Lease) -> Lease:
    """Return the lease, extended by its seconds from now on.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        row = held_row(session, lease)
        row.lease_expires_at = _now(session) + timedelta(seconds=lease.seconds)
        return _lease(row, lease.seconds)


def finish(database: Database, lease: Lease, status: FinalStatus, *, error: str | None = None) -> None:
    """End the study and the lease; `error` says why it failed.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        row = held_row(session, lease)
        now = _now(session)
        row.status, row.error, row.finished_at = status, error, now
        row.lease_owner = row.lease_expires_at = None


def release(database: Database, lease: Lease) -> None:
    """Give the lease back before the study has ended: it is queued again, and goes on where it was.

    Raises:
        LeaseLost: somebody else has it.
    """
    with database.begin() as session:
        row = held_row(session, lease)
        row.status, row.lease_owner, row.lease_expires_at = "queued", None, None


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
    row = session.scalar(chosen.with_for_update(of=StudyRow))
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
    row.status, row.error, row.finished_at = "running", None, None
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
