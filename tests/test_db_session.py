"""Opening a database: URLs, pragmas, transactions, and one clear line when it is out of reach."""

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from db_cases import make_study, python, sqlite_url
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.errors import InvalidUrl, NotFound, Unreachable
from db.schema import needed_revision
from db.session import Database, check, upgrade
from db.studies import list_studies
from db.urls import parse_url


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("postgres://me:pw@host/name", "postgresql+psycopg://me:pw@host/name"),
        ("postgresql://me@host/name", "postgresql+psycopg://me@host/name"),
        ("postgresql+psycopg://me@host/name", "postgresql+psycopg://me@host/name"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
        ("sqlite:///a.db", f"sqlite:///{Path.cwd() / 'a.db'}"),
    ],
)
def test_urls_are_completed_for_us_and_for_optuna(given, wanted):
    assert Database(given).optuna_url == wanted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "a database URL reads"),
        ("memory.db", "a database URL reads"),
        ("mysql://me:secret@host/name", "must be SQLite or PostgreSQL, not 'mysql'"),
        ("postgresql+asyncpg://me:secret@host/name", r"not 'postgresql\+asyncpg'"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
        ("sqlite:///file:a.db?mode=ro&uri=true", "needs the path of a file"),
        ("postgresql://me:secret@host:port/name", "a database URL reads"),
    ],
)
def test_other_urls_are_refused_in_one_line_without_the_password(url, words):
    with pytest.raises(InvalidUrl, match=words) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3cret@host/n", "postgresql://me@host/n?password=s3cret&sslpassword=s3cret"]
)
def test_the_shown_url_hides_every_password(url):
    database = Database(url)
    assert "s3cret" not in database.shown_url
    assert "***" in database.shown_url
    assert "s3cret" in database.optuna_url


def test_sqlite_connections_wait_check_references_and_write_ahead(tmp_path):
    with Database.open(sqlite_url(tmp_path), lock_seconds=7) as database, database.session() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("busy_timeout", "foreign_keys", "journal_mode")
        }
    assert pragmas == {"busy_timeout": 7000, "foreign_keys": 1, "journal_mode": "wal"}


def test_a_writer_takes_the_lock_when_it_begins_and_readers_go_on(tmp_path):
    url = sqlite_url(tmp_path)
    with Database.open(url) as first, Database(url, lock_seconds=0.05) as second:
        with first.begin():
            assert list_studies(second) == []
            with pytest.raises(Unreachable, match="another process keeps it locked"), second.begin():
                pytest.fail("two writers at once")
        with second.begin():
            pass


@pytest.fixture
def busy_file(tmp_path):
    """A file in SQLite's older mode that somebody else writes, until what this fixture yields is called."""
    other = sqlite3.connect(tmp_path / "memory.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE theirs (id)")
    other.execute("BEGIN IMMEDIATE")
    yield lambda: other.execute("COMMIT")
    other.close()


def test_a_new_database_waits_until_other_users_of_the_file_have_ended(tmp_path, busy_file):
    threading.Timer(0.3, busy_file).start()
    with Database.open(sqlite_url(tmp_path), lock_seconds=60) as database:
        assert list_studies(database) == []


def test_a_new_database_does_not_wait_for_ever(tmp_path, busy_file):
    with pytest.raises(Unreachable, match="another process keeps it locked"):
        Database.open(sqlite_url(tmp_path), lock_seconds=0.1)


def test_a_block_that_raises_leaves_nothing_behind(database):
    make_study(database)
    with suppress(KeyError), database.begin() as session:
        session.execute(text("DELETE FROM ss_studies"))
        raise KeyError
    assert len(list_studies(database)) == 1


def test_a_reading_session_keeps_nothing(database):
    make_study(database)
    with database.session() as session:
        session.execute(text("DELETE FROM ss_studies"))
    assert len(list_studies(database)) == 1


def test_a_fault_in_our_own_sql_is_not_blamed_on_the_database(database):
    missing = 'no such table: ss_nothing|relation "ss_nothing" does not exist'
    with pytest.raises(DBAPIError, match=missing), database.session() as session:
        session.execute(text("SELECT * FROM ss_nothing"))


def _missing_folder(folder):
    return folder / "no" / "memory.db"


def _is_a_folder(folder):
    return folder


def _not_a_database(folder):
    path = folder / "memory.db"
    path.write_bytes(b"id,question\n" * 200)
    return path


def _read_only_file(folder):
    path = folder / "memory.db"
    upgrade(f"sqlite:///{path}")
    path.chmod(0o444)
    return path


def _read_only_file_in_open_folder(folder):
    path = _read_only_file(folder)
    folder.chmod(0o777)
    return path


def _read_only_empty_file(folder):
    path = folder / "memory.db"
    path.touch(0o444)
    return path


def _new_file_in_read_only_folder(folder):
    folder.chmod(0o555)
    return folder / "memory.db"


def _known_file_in_read_only_folder(folder):
    path = folder / "memory.db"
    upgrade(f"sqlite:///{path}")
    path.chmod(0o666)
    folder.chmod(0o555)
    return path


CASES = [
    (_missing_folder, "there is no folder .*/no; make it"),
    (_is_a_folder, "it is a folder; name a file in it"),
    (_not_a_database, "the file is not an SQLite database"),
    (_read_only_file, "it is read-only; make the file and its folder writable"),
    (_read_only_file_in_open_folder, "it is read-only; make the file and its folder writable"),
    (_read_only_empty_file, "it is read-only; make the file and its folder writable"),
    (_new_file_in_read_only_folder, "it cannot be opened for writing; check the permissions"),
    (_known_file_in_read_only_folder, "read-only|cannot be opened for writing"),
]


@pytest.mark.parametrize(("prepare", "words"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_a_file_out_of_reach_is_one_line_that_names_the_url(prepare, words, open_folder, request):
    path = prepare(open_folder)
    before = path.read_bytes() if path.is_file() else None
    request.getfixturevalue("unprivileged")
    with pytest.raises(Unreachable, match=words) as caught:
        Database.open(f"sqlite:///{path}", lock_seconds=0.1)
    assert f"cannot use the database sqlite:///{path}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_server_out_of_reach_is_one_line_without_the_password():
    with pytest.raises(Unreachable, match=r"Connection refused$") as caught:
        Database.open("postgresql://me:s3cret@127.0.0.1:1/name")
    assert "postgresql+psycopg://me:***@127.0.0.1:1/name" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_creates_nothing(empty_url, tmp_path):
    assert check(empty_url) is None
    assert list(tmp_path.iterdir()) == []
    assert upgrade(empty_url) == check(empty_url) == needed_revision()


def test_check_wants_the_folder_of_a_file(tmp_path):
    with pytest.raises(Unreachable, match="there is no folder"):
        check(sqlite_url(tmp_path / "no"))


OPEN = """
import sys
from db.session import Database
print("ready", flush=True)
sys.stdin.readline()
with Database.open(sys.argv[1]) as database:
    print(database.revision())
"""


def test_processes_that_make_the_database_at_the_same_time_share_it(empty_url):
    processes = [python(OPEN, empty_url) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outcomes = [process.communicate(timeout=60) for process in processes]
    assert outcomes == [(f"{needed_revision()}\n", "")] * 4


def test_what_is_not_to_be_made_is_not_made(empty_url, tmp_path):
    with pytest.raises(NotFound, match=r"no such database: .*; choose another with --db"):
        Database.open(empty_url, create=False)
    assert list(tmp_path.iterdir()) == []
    upgrade(empty_url)
    with Database.open(empty_url, create=False) as database:
        assert list_studies(database) == []
