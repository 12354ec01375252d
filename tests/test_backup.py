"""`searchsvc db check | backup | restore`, on both kinds of database, and what they refuse."""

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from databases import PostgresServer, server_programs
from db_cases import evaluation, leased, make_study, sqlite_url
from sqlalchemy import text

from db import results
from db.backup import backup, restore
from db.errors import NotABackup, NotEmpty, NotFound, ProgramFailed, Unreachable
from db.schema import needed_revision
from db.session import Database, check, upgrade
from db.studies import get_study, list_studies
from searchsvc.cli.app import run
from searchsvc.storage import optuna_storage


@pytest.fixture(autouse=True)
def programs(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own pg_dump."""
    if engine == "postgresql":
        monkeypatch.setenv("PATH", f"{server_programs()}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def other_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A second database, without any table."""
    if engine == "sqlite":
        yield sqlite_url(tmp_path, "other.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url


def test_a_copy_holds_everything(
    database: Database, database_url: str, other_url: str, tmp_path: Path
) -> None:
    lease = leased(database)
    saved = results.save_evaluation(database, evaluation(), lease=lease)
    optuna.create_study(study_name="one", storage=optuna_storage(database)).add_trial(
        optuna.create_trial(value=0.5, user_attrs={"key": "k1"})
    )
    file = tmp_path / "copy"
    assert run(["db", "backup", str(file), "--db", database_url]) == 0
    make_study(database, "later")
    assert run(["db", "restore", str(file), "--db", other_url]) == 0
    with Database.open(other_url) as copy:
        assert [study.name for study in list_studies(copy)] == ["one"]
        assert get_study(copy, "one") == get_study(database, "one")
        assert [used.evaluation for used in results.evaluations(copy, "one")] == [saved]
        (trial,) = optuna.load_study(study_name="one", storage=optuna_storage(copy)).trials
        assert (trial.value, trial.user_attrs) == (0.5, {"key": "k1"})
        make_study(copy, "two")
        results.save_evaluation(copy, evaluation("k2"), lease=leased(copy, "three"))
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


def test_a_copy_made_while_a_study_runs_is_of_one_moment(
    database: Database, database_url: str, other_url: str, tmp_path: Path
) -> None:
    """Every evaluation is linked in the transaction that stores it: a copy must not tear them apart."""
    lease, stop = leased(database), threading.Event()
    written = []

    def write() -> None:
        while not stop.is_set():
            written.append(results.save_evaluation(database, evaluation(f"k{len(written)}"), lease=lease))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 5:
            stop.wait(0.01)
        before = len(written)
        backup(database_url, tmp_path / "copy")
        after = len(written)
    finally:
        stop.set()
        writer.join()
    restore(other_url, tmp_path / "copy")
    with Database.open(other_url) as copy:
        found = [used.evaluation.key for used in results.evaluations(copy, "one")]
        assert found == [f"k{number}" for number in range(len(found))]
        assert before <= len(found) <= after + 1
        with copy.session() as session:
            assert session.execute(text("SELECT count(*) FROM ss_evaluations")).scalar() == len(found)


def test_nothing_is_overwritten(
    database: Database, database_url: str, other_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "copy"
    file.write_text("precious")
    with pytest.raises(NotEmpty, match=f"{file} exists; choose another file, or overwrite it with --force"):
        backup(database_url, file)
    assert file.read_text() == "precious"
    assert run(["db", "backup", str(file), "--force", "--db", database_url]) == 0
    make_study(database)
    with pytest.raises(NotEmpty, match="is not empty; restore into a new one"):
        restore(database_url, file)
    assert len(list_studies(database)) == 1
    with Database(other_url) as other, other.begin() as session:
        session.execute(text("CREATE TABLE theirs (id INTEGER)"))
    with pytest.raises(NotEmpty, match="is not empty"):
        restore(other_url, file)


def journal_mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_of_sqlite_the_copy_is_one_file_and_what_is_made_of_it_writes_ahead(
    engine: str, tmp_path: Path
) -> None:
    if engine != "sqlite":
        return
    url, copy, other = sqlite_url(tmp_path), tmp_path / "copy", tmp_path / "other.db"
    with Database.open(url) as database:
        make_study(database)
        backup(url, copy)
        with pytest.raises(NotEmpty, match="is the database itself"):
            backup(url, tmp_path / "memory.db", overwrite=True)
    (tmp_path / "other.db-wal").write_bytes(b"left over")
    with pytest.raises(NotEmpty, match="is not empty"):
        restore(sqlite_url(tmp_path, "other.db"), copy)
    (tmp_path / "other.db-wal").unlink()
    restore(sqlite_url(tmp_path, "other.db"), copy)
    assert (journal_mode(copy), journal_mode(other)) == ("delete", "wal")
    assert {path.name for path in tmp_path.iterdir()} == {"memory.db", "copy", "other.db"}


def no_file(folder: Path) -> Path:
    return folder / "none"


def text_file(folder: Path) -> Path:
    path = folder / "text"
    path.write_text("id,question\n")
    return path


def foreign(folder: Path) -> Path:
    with Database(sqlite_url(folder, "foreign.db")) as other, other.begin() as session:
        session.execute(text("CREATE TABLE theirs (id INTEGER)"))
    return folder / "foreign.db"


def other_kind(folder: Path) -> Path:
    path = folder / "kind"
    path.write_bytes(b"PGDMP\x01\x0e\x00")
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_file, "none: No such file"),
        (text_file, "text is no backup"),
        (foreign, "holds no studies|cannot be restored into"),
        (other_kind, "cannot be restored into|pg_restore failed"),
    ],
)
def test_what_is_no_copy_is_refused(
    make: Callable[[Path], Path], said: str, other_url: str, tmp_path: Path
) -> None:
    with pytest.raises((NotABackup, ProgramFailed), match=said) as caught:
        restore(other_url, make(tmp_path))
    assert "\n" not in str(caught.value)
    assert check(other_url) is None


def test_a_copy_needs_a_place(database_url: str, empty_url: str, tmp_path: Path) -> None:
    with pytest.raises((Unreachable, ProgramFailed), match=r"no/copy|No such file"):
        backup(database_url, tmp_path / "no" / "copy")


def test_there_is_no_copy_of_nothing(other_url: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such database"):
        backup(other_url, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_without_postgresql_s_programs_a_line_says_so(
    engine: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if engine == "sqlite":
        backup(database_url, tmp_path / "copy")
        return
    with pytest.raises(ProgramFailed, match="pg_dump is not at hand: install PostgreSQL's client programs"):
        backup(database_url, tmp_path / "copy")


def test_the_password_is_on_no_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sqlalchemy import make_url

    from db.postgres_programs import dump

    (tmp_path / "pg_dump").write_text(
        f'#!/bin/sh\necho "$*" > {tmp_path}/words\necho "$PGPASSWORD" >&2\nexit 1\n'
    )
    (tmp_path / "pg_dump").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    for url in ("postgresql+psycopg://me:s3cret@host/n", "postgresql+psycopg://me@host/n?password=s3cret"):
        with pytest.raises(ProgramFailed) as caught:
            dump(make_url(url), tmp_path / "copy")
        assert str(caught.value).endswith(": ***"), "it was not in the environment, or is in the message"
        words = (tmp_path / "words").read_text().split()
        assert words[0] == "--dbname=postgresql://me@host/n"
        assert "s3cret" not in " ".join(words)


def shown(capsys: pytest.CaptureFixture[str], url: str, status: int) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert run(["db", "check", "--output", "json", "--db", url]) == status
    said = capsys.readouterr()
    return json.loads(said.out or "{}"), said.err.strip()


OPTUNA = optuna.storages.RDBStorage("sqlite://").get_head_version()


def test_check_tells_versions_and_changes_nothing(empty_url: str, capsys: Any, tmp_path: Path) -> None:
    record, said = shown(capsys, empty_url, 2)
    assert record == {}
    assert "no such database" in said
    assert list(tmp_path.iterdir()) == []
    upgrade(empty_url)
    record, said = shown(capsys, empty_url, 0)
    assert said == ""
    assert (record["schema"], record["schema_needed"]) == (needed_revision(),) * 2
    assert (record["optuna_schema"], record["optuna_schema_needed"]) == (None, OPTUNA)
    assert (record["optuna"], record["current"]) == (optuna.__version__, True)
    with Database.open(empty_url) as database:
        optuna_storage(database)
    assert shown(capsys, empty_url, 0)[0]["optuna_schema"] == OPTUNA


@pytest.mark.parametrize(
    ("statement", "field", "said"),
    [
        ("UPDATE ss_alembic_version SET version_num = '0001'", "schema", "an older version (revision 0001"),
        ("UPDATE ss_alembic_version SET version_num = '9999'", "schema", "a newer version (revision 9999"),
        (
            "UPDATE alembic_version SET version_num = 'v3.0.0.d'",
            "optuna_schema",
            "Optuna's tables are of an older",
        ),
        (
            "UPDATE alembic_version SET version_num = 'v9.0.0.a'",
            "optuna_schema",
            "Optuna's tables are of a newer",
        ),
    ],
)
def test_check_says_what_is_not_current(
    database: Database, database_url: str, statement: str, field: str, said: str, capsys: Any
) -> None:
    optuna_storage(database)
    with database.begin() as session:
        session.execute(text(statement))
    record, line = shown(capsys, database_url, 2)
    assert record["current"] is False
    assert record[field] in statement
    assert said in line
    assert len(line.splitlines()) == 1


def test_upgrade_takes_optuna_s_tables_along(database: Database, database_url: str, capsys: Any) -> None:
    optuna.create_study(study_name="one", storage=optuna_storage(database))
    database.close()
    with database.begin() as session:  # undo the newest of Optuna's migrations
        session.execute(text("DROP INDEX ix_trials_study_id"))
        session.execute(text("UPDATE alembic_version SET version_num = 'v3.0.0.d'"))
    assert run(["study", "list", "--db", database_url]) == 0
    assert run(["study", "front", "one", "--db", database_url]) == 2
    assert run(["db", "upgrade", "--db", database_url]) == 0
    assert shown(capsys, database_url, 0)[0]["optuna_schema"] == OPTUNA
    assert optuna.get_all_study_names(optuna_storage(database)) == ["one"]


def test_upgrade_refuses_a_newer_optuna(database: Database, database_url: str, capsys: Any) -> None:
    optuna_storage(database)
    with database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'v9.0.0.a'"))
    assert run(["db", "upgrade", "--db", database_url]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "Optuna's tables are of a newer version than the installed" in line
