"""How long the members of a study's front take: measured once, kept beside the front."""

from sqlalchemy import select

from db import rows
from db.models import LatencyRow
from db.queue import held_row
from db.session import Database
from db.values import Latency, Lease, NewLatency


def save_latency(database: Database, lease: Lease, new: NewLatency) -> Latency:
    """Store a front member's latency; one that the study has of that key already is returned instead.

    Raises:
        LeaseLost: the lease has been taken over; nothing is stored.
        InvalidValue: NaN or an infinity in it; nothing is stored.
    """
    with database.begin() as session:
        study = held_row(session, lease)  # locked: nobody else inserts between the look and the insert
        chosen = select(LatencyRow).where(LatencyRow.study_id == study.id, LatencyRow.key == new.key)
        row = session.scalar(chosen)
        if row is None:
            row = LatencyRow(study_id=study.id, **vars(new))
            session.add(row)
            session.flush()
        return rows.to_latency(row)


def latencies(database: Database, study: str) -> list[Latency]:
    """Return what was measured of a study's front, in the order of measuring.

    Raises:
        NotFound: there is no such study.
    """
    with database.session() as session:
        chosen = select(LatencyRow).where(LatencyRow.study_id == rows.study_row(session, study).id)
        return [rows.to_latency(row) for row in session.scalars(chosen.order_by(LatencyRow.id))]
