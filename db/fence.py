"""Holds the writes of another library, on an engine of its own, to a lease."""

from sqlalchemy import Connection, Engine, event, select

from db.errors import LeaseLost
from db.models import StudyRow
from db.values import Lease


def fence(engine: Engine, lease: Lease) -> None:
    """Have the engine, which is on our database, commit nothing once the lease is lost: LeaseLost is raised.

    The lease is looked at within the transaction that is about to be committed, so it makes no difference how
    long a process was stopped, and where.
    """
    columns = select(StudyRow.lease_epoch, StudyRow.status).where(StudyRow.id == lease.study_id)
    # SQLite has one writer at a time; elsewhere nobody may claim the study before this commit
    locked = columns.with_for_update(read=True)

    @event.listens_for(engine, "commit")
    def check(connection: Connection) -> None:
        if connection.execute(locked).one_or_none() != (lease.epoch, "running"):
            # nobody else would: for SQLAlchemy a commit that fails in here has ended the transaction
            connection.connection.rollback()
            raise LeaseLost(f"the lease on study {lease.name!r} (epoch {lease.epoch}) is lost")
