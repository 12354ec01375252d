"""Attributes of one of Optuna's studies, many in one transaction: readers see all of them change, or none.

Optuna writes each in a transaction of its own. A figure is cut into many, and a dashboard that read some of
the old and some of the new would find no figure at all.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import column, table
from sqlalchemy.dialects import postgresql, sqlite

from db.queue import held_row
from db.session import Database
from db.values import Lease

_ATTRIBUTES = table("study_system_attributes", column("study_id"), column("key"), column("value_json"))
_INSERT: Mapping[str, Callable[..., Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def write_attributes(database: Database, lease: Lease, study_id: int, attributes: Mapping[str, Any]) -> None:
    """Write system attributes of Optuna's study `study_id`, under the lease on ours of the same name.

    Raises:
        LeaseLost: the lease has been taken over; nothing is written.
    """
    rows = [
        {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    with database.begin() as session:
        held_row(session, lease)
        if rows:
            insert = _INSERT[session.get_bind().dialect.name](_ATTRIBUTES)
            new = {"value_json": insert.excluded.value_json}
            session.execute(insert.on_conflict_do_update(index_elements=["study_id", "key"], set_=new), rows)
