"""The version of our tables: what this program needs, what a database has, and the way between them."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select

from db.errors import SchemaMismatch
from db.models import PREFIX

#: Optuna keeps its own version in `alembic_version` of the same database.
VERSION_TABLE = "ss_alembic_version"
_MIGRATIONS = Path(__file__).parent / "migrations"
#: Any number, but the same in every process: who holds it migrates (PostgreSQL).
_ADVISORY_LOCK = 0x55_5EA2C4
# Alembic hands its context to env.py through a module-wide variable.
_one_at_a_time = threading.Lock()


def is_ours(name: str | None) -> bool:
    """Return whether a table of that name belongs to our models (the version table is Alembic's)."""
    return name is not None and name.startswith(PREFIX) and name != VERSION_TABLE


def include_object(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
    """Alembic's filter: of the tables it finds, only ours."""
    return kind != "table" or is_ours(name)


def alembic_config(connection: Connection | None = None) -> Config:
    """Return the configuration for Alembic's commands on a connection whose transaction the caller holds."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def needed_revision() -> str:
    """Return the revision that this program works with."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise SchemaMismatch(f"no migrations in {_MIGRATIONS}: the installation is damaged")
    return head


def found_revision(connection: Connection) -> str | None:
    """Return the revision that the database says it has, whatever it is; None where it says nothing."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def check_schema(connection: Connection) -> str | None:
    """Return the database's revision, or None when it holds no table of ours yet.

    Raises:
        SchemaMismatch: the tables are older or newer than this program's.
    """
    revision, needed = _revision(connection), needed_revision()
    if revision not in (None, needed):
        raise SchemaMismatch(
            f"the database is of an older version (revision {revision}, this program needs {needed}): "
            "run `searchsvc db upgrade`"
        )
    return revision


def migrate(connection: Connection) -> None:
    """Bring our tables to this program's revision, inside the caller's (write) transaction.

    Raises:
        SchemaMismatch: the tables are newer than this program.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    _revision(connection)
    with _one_at_a_time:
        command.upgrade(alembic_config(connection), "head")


def _revision(connection: Connection) -> str | None:
    """Return the database's revision if this program knows it, None when there is no table of ours."""
    revision = found_revision(connection)
    if revision is None and any(is_ours(name) for name in inspect(connection).get_table_names()):
        raise SchemaMismatch(
            f"the database holds our tables without their version ({VERSION_TABLE}): "
            "restore it from a copy or choose another with --db"
        )
    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    if revision is not None and revision not in {script.revision for script in scripts}:
        raise SchemaMismatch(
            f"the database is of a newer version (revision {revision} is unknown here): "
            "install the newer searchsvc; its `searchsvc db upgrade` brings databases up to date"
        )
    return revision
