"""Optuna's storage in our database: one per open database, closed with it, and made by several at once."""

import optuna
import pytest
from db_cases import python
from sqlalchemy import text

from db.errors import SchemaMismatch
from db.session import Database
from searchsvc.storage import optuna_storage


def test_callers_share_a_storage_that_ends_with_the_database(database_url: str) -> None:
    with Database.open(database_url) as first, Database.open(database_url) as second:
        storage = optuna_storage(first)
        optuna.create_study(study_name="one", storage=storage)
        assert optuna_storage(first) is storage
        assert optuna_storage(second) is not storage
        assert storage.engine.pool.checkedin() > 0
    assert storage.engine.pool.checkedin() == 0
    with Database.open(database_url) as third:
        assert optuna.get_all_study_names(optuna_storage(third)) == ["one"]


MAKE = """
import sys
from db.session import Database
from searchsvc.storage import optuna_storage
with Database.open(sys.argv[1]) as database:
    print("ready", flush=True)
    sys.stdin.readline()
    print(optuna_storage(database).get_current_version())
"""


@pytest.mark.slow
def test_processes_that_make_optuna_s_tables_at_the_same_time_share_them(database_url: str) -> None:
    processes = [python(MAKE, database_url) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    version = optuna.storages.RDBStorage("sqlite://").get_head_version()
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{version}\n"] * 4


def test_tables_of_another_optuna_are_refused_in_one_line(database: Database) -> None:
    version = optuna_storage(database).get_current_version()
    database.close()
    with database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'v9.9.9'"))
        session.execute(text("UPDATE version_info SET schema_version = 99"))
    with pytest.raises(SchemaMismatch, match="of another version than the installed Optuna"):
        optuna_storage(database)
    assert version.startswith("v")
