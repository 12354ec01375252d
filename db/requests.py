"""What others ask of a study, whoever runs it: to pause, go on, stop, be cancelled, be tried again.

A request is a note in the study's row. Who runs the study looks for it (`requested`) and does it; of a study
that nobody runs, pausing and cancelling are done at once, and stopping by whoever takes it next.
"""

from db.errors import StudyFinished
from db.models import StudyRow
from db.queue import OPEN, checked, is_held, leave
from db.rows import study_row, to_study
from db.session import Database
from db.values import Lease, Request, Study


def request(database: Database, name: str, what: Request) -> Study:
    """Ask for something; return the study as it is now. A later request takes the place of an earlier one.

    Raises:
        NotFound: there is no such study.
        StudyFinished: it has ended.
    """
    with database.begin() as session:
        row = study_row(session, name, lock=True)
        if row.status not in (*OPEN, "paused"):
            raise StudyFinished(f"study {name!r} is {row.status} since {row.finished_at}: nothing to {what}")
        row.request = what
        if not is_held(session, row):
            leave(session, row)
        return to_study(row)


def resume(database: Database, name: str) -> Study:
    """Queue a paused study again, or take back what was asked of one; return the study as it is now.

    Raises:
        NotFound: there is no such study.
        StudyFinished: it has ended.
    """
    with database.begin() as session:
        row = study_row(session, name, lock=True)
        if row.status not in (*OPEN, "paused"):
            raise StudyFinished(
                f"study {name!r} is {row.status} since {row.finished_at}; "
                "`searchsvc study retry` queues it again"
            )
        row.request = None
        if not is_held(session, row):
            leave(session, row)
        return to_study(row)


def requested(database: Database, lease: Lease) -> Request | None:
    """Return what is asked of the lease's study. Reads only: ask as often as you like.

    Raises:
        LeaseLost: as `db.queue.held_row`.
    """
    with database.session() as session:
        return to_study(checked(session.get(StudyRow, lease.study_id), lease)).request
