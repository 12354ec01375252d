"""Database URLs: the two kinds we take, how they are completed, and how they are shown in messages."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from db.errors import InvalidUrl

_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SECRET_KEYS = ("password", "sslpassword")


def parse_url(text: str) -> URL:
    """Return the completed URL: PostgreSQL through psycopg 3, SQLite with an absolute path.

    Raises:
        InvalidUrl: the text is no URL, names another kind of database, or an SQLite database in memory.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise InvalidUrl("a database URL reads sqlite:///PATH or postgresql://USER@HOST/NAME") from error
    if url.drivername in _POSTGRESQL:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise InvalidUrl(f"the database must be SQLite or PostgreSQL, not {url.drivername!r}: {display(url)}")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise InvalidUrl(f"an SQLite database needs the path of a file, sqlite:///PATH: {display(url)}")
    return url.set(drivername="sqlite", database=str(Path(url.database).absolute()))


def with_password(text: str, password: str) -> str:
    """Return the URL as text with this password; one that it carries already stays.

    Raises:
        InvalidUrl: as `parse_url` does.
    """
    url = parse_url(text)
    return (url if url.password else url.set(password=password)).render_as_string(hide_password=False)


def is_sqlite(url: URL) -> bool:
    """Return whether the (parsed) URL names an SQLite file."""
    return url.get_backend_name() == "sqlite"


def display(url: URL) -> str:
    """Return the URL for messages, any password replaced by ***."""
    secrets = {key: "***" for key in _SECRET_KEYS if key in url.query}
    shown = url.update_query_dict(secrets).render_as_string(hide_password=True)
    return shown.replace("%2A%2A%2A", "***")


def secrets(url: URL) -> list[str]:
    """Return the passwords that the URL carries, so that they can be struck from a driver's message."""
    found = [url.password or ""]
    for key in _SECRET_KEYS:
        value = url.query.get(key, ())
        found.extend([value] if isinstance(value, str) else value)
    return [secret for secret in found if secret]
