"""Tell a database that is out of reach from a fault of ours, and say the first in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from db.errors import Unreachable
from db.urls import display, is_sqlite, secrets

#: SQLite result codes (their extended forms begin with the same name) and what they mean to a person.
_SQLITE = {
    "SQLITE_READONLY": "it is read-only; make the file and its folder writable or choose another with --db",
    "SQLITE_BUSY": "another process keeps it locked; try again when that one has ended",
    "SQLITE_LOCKED": "another process keeps it locked; try again when that one has ended",
    "SQLITE_NOTADB": "the file is not an SQLite database; choose another with --db",
    "SQLITE_CORRUPT": "the file is damaged; restore it from a copy or choose another with --db",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk reports an input/output error",
    "SQLITE_PERM": "access is not permitted",
    "SQLITE_PROTOCOL": "its locks do not work; is the file on a network disk?",
}
#: SQLSTATE classes: connection, authorisation, no such database, resources, operator intervention; then a
#: read-only server, a transaction that was silent for too long, and missing rights.
_POSTGRESQL = ("08", "28", "3D", "53", "57", "25006", "25P03", "42501")


@contextmanager
def reaching(url: URL) -> Iterator[None]:
    """Run a block that talks to the database; raise `Unreachable` where the database is at fault.

    Errors in our own SQL, and broken constraints, pass through unchanged.
    """
    try:
        yield
    except DBAPIError as error:
        reason = _sqlite_reason(url, error) if is_sqlite(url) else _postgresql_reason(error)
        if reason is None:
            raise
        for secret in secrets(url):
            reason = reason.replace(secret, "***")
        raise Unreachable(f"cannot use the database {display(url)}: {reason}") from error


def _sqlite_reason(url: URL, error: DBAPIError) -> str | None:
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith("SQLITE_CANTOPEN"):
        return _cannot_open(Path(url.database or ""))
    return next((reason for code, reason in _SQLITE.items() if name.startswith(code)), None)


def _cannot_open(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it or choose another with --db"
    if path.is_dir():
        return "it is a folder; name a file in it"
    return f"it cannot be opened for writing; check the permissions of {path.parent}"


def _postgresql_reason(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    never_connected = state is None and type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    if not never_connected and not str(state or "").startswith(_POSTGRESQL):
        return None
    return " ".join(str(error.orig).split("\n", 1)[0].split())
