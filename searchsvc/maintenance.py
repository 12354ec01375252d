"""The versions of what is in the database, ours and Optuna's, and the way to the current ones."""

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import inspect, text

from db.errors import NotFound, SchemaMismatch
from db.schema import needed_revision
from db.session import Database


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found, and what to do where it is not current."""

    record: dict[str, Any]
    advice: str | None


def check_database(url: str) -> Checked:
    """Say which versions the tables have and which are needed; nothing is changed.

    Raises:
        NotFound: there is no such database, or it holds no table of ours.
        Unreachable: it cannot be opened.
    """
    with Database(url) as database:
        try:
            if database.is_missing():
                raise NotFound(f"no such database: {database.shown_url}; make it with: searchsvc db upgrade")
            database.revision()
            advice = None
        except SchemaMismatch as error:
            advice = str(error)
        theirs, needed, known = _optuna_revisions(database)
        if advice is None and theirs not in (None, needed):
            advice = _optuna_advice(theirs in known)
        record = {
            "database": database.shown_url,
            "schema": database.found_revision(),
            "schema_needed": needed_revision(),
            "optuna_schema": theirs,
            "optuna_schema_needed": needed,
            "optuna": optuna.__version__,
            "current": advice is None,
        }
    return Checked(record=record, advice=advice)


def upgrade_database(url: str) -> str:
    """Make our tables or bring them up to date, and Optuna's where it has any; return the revision of ours.

    Raises:
        Unreachable: the database cannot be opened or written.
        SchemaMismatch: tables are newer than this program, or than the installed Optuna.
    """
    with Database(url) as database:
        theirs, needed, known = (None,) * 3 if database.is_missing() else _optuna_revisions(database)
        if theirs is not None and theirs not in (known or ()):
            raise SchemaMismatch(_optuna_advice(older=False))
        database.upgrade()
        if theirs != needed:
            _upgrade_optuna(database)
    return needed_revision()


def _optuna_revisions(database: Database) -> tuple[str | None, str, list[str]]:
    """Return the revision of Optuna's tables (None: there are none), the needed one, and all known ones."""
    storage = RDBStorage("sqlite://")  # in memory: asked for nothing but what the library knows
    with database.session() as session:
        found = None
        if inspect(session.connection()).has_table("version_info"):
            found = session.scalar(text("SELECT version_num FROM alembic_version"))
    return found, storage.get_head_version(), storage.get_all_versions()


def _upgrade_optuna(database: Database) -> None:
    storage = RDBStorage(
        database.optuna_url, engine_kwargs=database.optuna_engine_options, skip_compatibility_check=True
    )
    try:
        storage.upgrade()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _optuna_advice(older: bool) -> str:
    if older:
        return "Optuna's tables are of an older version: run `searchsvc db upgrade`"
    return f"Optuna's tables are of a newer version than the installed {optuna.__version__}: install that one"
