"""One database, opened: transactions for reading and for writing, and its URL for Optuna."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.orm import Session

from db.engine import WRITING, engine_options, make_engine, migrating, switch_to_wal
from db.errors import NotFound
from db.reach import reaching
from db.schema import VERSION_TABLE, check_schema, found_revision, migrate
from db.urls import display, is_sqlite, parse_url

LOCK_SECONDS = 30.0


class Database:
    """A connection pool to an SQLite file or a PostgreSQL database; close it, or use it as a context.

    Args:
        url: `sqlite:///PATH`, `postgres://...` or `postgresql://...`.
        lock_seconds: how long a transaction waits for another process's lock (SQLite).

    Raises:
        InvalidUrl: the URL is none that we can use. Nothing is opened before the first transaction.
    """

    def __init__(self, url: str, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self._url = parse_url(url)
        self._lock_seconds = lock_seconds
        self._reader = make_engine(self._url, lock_seconds)
        self._writer = self._reader.execution_options(**WRITING)
        self._at_close = ExitStack()

    @classmethod
    def open(cls, url: str, *, create: bool = True, lock_seconds: float = LOCK_SECONDS) -> Self:
        """Return the database, ready for use.

        Args:
            url: where it is.
            create: make our tables, and an SQLite file, where there are none.
            lock_seconds: as for the class.

        Raises:
            Unreachable: it cannot be opened or written.
            NotFound: there is none, or it holds no table of ours, and it is not to be made.
            SchemaMismatch: its tables are older or newer than this program's.
        """
        database = cls(url, lock_seconds=lock_seconds)
        try:
            if not create and database.is_missing():
                raise NotFound(
                    f"no such database: {database.shown_url}; choose another with --db, or let "
                    "`searchsvc study create` or `searchsvc db upgrade` make it"
                )
            if database.revision() is None:
                database.upgrade()
            database._try_to_write()
        except BaseException:
            database.close()
            raise
        return database

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return display(self._url)

    @property
    def optuna_url(self) -> str:
        """The URL for `optuna.storages.RDBStorage`, password included: not for messages."""
        return self._url.render_as_string(hide_password=False)

    @property
    def optuna_engine_options(self) -> dict[str, Any]:
        """`engine_kwargs` for `optuna.storages.RDBStorage`: waits as long for locks as we do."""
        return engine_options(self._url, self._lock_seconds)

    def revision(self) -> str | None:
        """Return the revision of our tables, None when there are none; errors as in `open`."""
        with reaching(self._url), self._reader.connect() as connection:
            return check_schema(connection)

    def found_revision(self) -> str | None:
        """Return the revision of our tables, also one that this program cannot work with; None: no tables."""
        with reaching(self._url), self._reader.connect() as connection:
            return found_revision(connection)

    def is_missing(self) -> bool:
        """Return whether there is no table of ours, nor, of SQLite, a file; errors as in `open`."""
        path = Path(self._url.database or "")
        if is_sqlite(self._url) and path.parent.is_dir() and not path.exists():
            return True  # looking inside would make the file
        return self.found_revision() is None and self.revision() is None

    def upgrade(self) -> None:
        """Make our tables, or bring older ones up to date; what is up to date stays as it is."""
        with reaching(self._url):
            if is_sqlite(self._url):
                switch_to_wal(self._reader, self._lock_seconds)
            with migrating(self._reader) as connection:
                migrate(connection)

    def _try_to_write(self) -> None:
        """Write something and take it back: what is read-only is found now, and not hours later."""
        with reaching(self._url), self._writer.connect() as connection:
            connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = version_num")
            connection.rollback()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database; what is written in it is dropped."""
        with reaching(self._url), Session(self._reader) as session:
            yield session

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Yield a session that is committed at the end, or rolled back when the block raises.

        On SQLite it holds the only write lock: keep it short, and do not call Optuna inside.
        """
        with reaching(self._url), Session(self._writer) as session, session.begin():
            session.connection()  # begin now, not with the first statement
            yield session

    def at_close(self, act: Callable[[], None]) -> None:
        """Have `act` called when this database is closed: it closes what somebody else has open on it."""
        self._at_close.callback(act)

    def close(self) -> None:
        """Close all connections."""
        self._at_close.close()
        self._reader.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def upgrade(url: str) -> str | None:
    """Make our tables at `url`, or bring them up to date; return their revision (errors as in `open`)."""
    with Database(url) as database:
        database.upgrade()
        return database.revision()


def check(url: str) -> str | None:
    """Return the revision of our tables at `url`, None when there are none yet; creates nothing.

    Raises:
        Unreachable: it cannot be opened.
        SchemaMismatch: its tables are older or newer than this program's.
    """
    with Database(url) as database:
        return None if database.is_missing() else database.revision()
