"""Engines: SQLite with its pragmas and explicit BEGIN, PostgreSQL with checked connections."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from db.errors import DatabaseError, InvalidUrl
from db.urls import display, is_sqlite

#: Execution options: SQLite takes the write lock when a transaction begins; begins none at all.
WRITING = {"sqlite_begin": "BEGIN IMMEDIATE"}
_NO_TRANSACTION = {"sqlite_begin": ""}
_CONNECT_SECONDS = 10
#: After so long a server ends a transaction whose process says nothing. One that was stopped, or whose host
#: is gone, would keep its locks, and nobody could take its study over. Ours take some milliseconds.
SILENT_SECONDS = 10
#: A server that is gone without a word is found out after about 25 seconds, not after hours.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def make_engine(url: URL, lock_seconds: float) -> Engine:
    """Return an engine for a parsed URL; nothing is opened yet.

    Args:
        url: as `parse_url` returns it.
        lock_seconds: how long a statement waits for another process's lock (SQLite).
    """
    if is_sqlite(url):
        engine = create_engine(url)
        _prepare_sqlite(engine, round(lock_seconds * 1000))
        return engine
    try:
        engine = create_engine(url, **engine_options(url, lock_seconds))
    except ModuleNotFoundError as error:
        raise InvalidUrl(f"{display(url)} needs psycopg: pip install 'searchsvc[postgres]'") from error
    event.listen(engine, "connect", prepare_connection)
    return engine


def engine_options(url: URL, lock_seconds: float) -> dict[str, Any]:
    """Return keyword arguments of `create_engine`; see `prepare_connection`, too."""
    if is_sqlite(url):
        return {"connect_args": {"timeout": lock_seconds}}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE}}


def _prepare_sqlite(engine: Engine, lock_milliseconds: int) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        # The driver must begin no transaction of its own: it would begin deferred ones, and a deferred
        # transaction that writes after it has read fails at once when somebody else wrote in between.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {lock_milliseconds}")
        connection.execute("PRAGMA foreign_keys = ON")
        prepare_connection(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        statement = connection.get_execution_options().get("sqlite_begin", "BEGIN")
        if statement:
            connection.exec_driver_sql(statement)


def prepare_connection(connection: Any, _record: object = None) -> None:
    """Set up a new connection, of our engines and of Optuna's."""
    if isinstance(connection, sqlite3.Connection):
        # In write-ahead mode a process that dies loses nothing then, and a power cut the last transactions at
        # most, never the database: https://www.sqlite.org/pragma.html#pragma_synchronous
        connection.execute("PRAGMA synchronous = NORMAL")
        return
    connection.autocommit = True  # a SET is taken back with its transaction
    connection.execute(f"SET idle_in_transaction_session_timeout = '{SILENT_SECONDS}s'")
    connection.autocommit = False


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction that may change tables.

    SQLite changes a table by copying and dropping it; with foreign keys on, that would delete every row that
    refers to it, and they can be turned off only outside of a transaction.
    """
    with engine.execution_options(**WRITING).connect() as connection:
        driver: Any = connection.connection.driver_connection
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            driver.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                yield connection
                if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise DatabaseError(
                        "the migration would leave rows that refer to nothing; nothing was changed"
                    )
        finally:
            if sqlite:
                driver.execute("PRAGMA foreign_keys = ON")


def switch_to_wal(engine: Engine, lock_seconds: float) -> None:
    """Put an SQLite file into write-ahead mode, which lasts; wait while other processes use the file.

    SQLite keeps to its busy timeout here while others read, not while one writes: hence the loop.
    """
    deadline = time.monotonic() + lock_seconds
    while True:
        try:
            with engine.connect().execution_options(**_NO_TRANSACTION) as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                return
        except OperationalError as error:
            locked = getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not locked or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
