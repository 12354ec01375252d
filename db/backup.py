"""Whole copies of a database, made while others use it, and databases made of such copies.

A copy of SQLite is an SQLite file, of PostgreSQL what `pg_dump --format=custom` writes.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import URL

from db import postgres_programs as programs
from db.engine import make_engine, switch_to_wal
from db.errors import NotABackup, NotEmpty, NotFound, Unreachable
from db.reach import reaching
from db.session import LOCK_SECONDS, Database
from db.urls import display, is_sqlite, parse_url

_SQLITE_MAGIC = b"SQLite format 3\x00"
_DUMP_MAGIC = b"PGDMP"


def backup(url: str, file: Path, *, overwrite: bool = False) -> None:
    """Write the state that the database has at one moment to `file`, which appears when it is whole.

    Raises:
        NotFound: there is no such database.
        NotEmpty: the file exists, and is not to be overwritten.
        Unreachable: the database cannot be read, or the file cannot be written.
        ProgramFailed: PostgreSQL's `pg_dump` is missing or has failed.
    """
    if file.exists() and not overwrite:
        raise NotEmpty(f"{file} exists; choose another file, or overwrite it with --force")
    with Database(url) as database:
        if database.is_missing():
            raise NotFound(f"no such database: {database.shown_url}")
    parsed = parse_url(url)
    if is_sqlite(parsed) and file.exists() and file.samefile(parsed.database or ""):
        raise NotEmpty(f"{file} is the database itself; choose another file")
    with _whole(file) as part:
        if is_sqlite(parsed):
            _copy(Path(parsed.database or ""), part)
        else:
            programs.dump(parsed, part)


def restore(url: str, file: Path) -> None:
    """Make a database of a backup.

    Raises:
        NotABackup: the file is none, or one of another kind of database.
        NotEmpty: the database holds tables already.
        Unreachable: the file cannot be read, or the database cannot be written.
        ProgramFailed: PostgreSQL's `pg_restore` is missing or has failed.
    """
    parsed = parse_url(url)
    _check_kind(file, parsed)
    if not _is_empty(parsed):
        raise NotEmpty(f"the database {display(parsed)} is not empty; restore into a new one")
    if not is_sqlite(parsed):
        programs.restore(parsed, file)
        return
    target = Path(parsed.database or "")
    with _whole(target) as part:
        _copy(file, part)
    engine = make_engine(parsed, LOCK_SECONDS)
    with reaching(parsed):
        switch_to_wal(engine, LOCK_SECONDS)
    engine.dispose()


def _check_kind(file: Path, url: URL) -> None:
    try:
        with file.open("rb") as opened:
            head = opened.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise NotABackup(f"{file}: {error.strerror}; name what `searchsvc db backup` wrote") from error
    kinds = {"SQLite": head == _SQLITE_MAGIC, "PostgreSQL": head.startswith(_DUMP_MAGIC)}
    wanted = "SQLite" if is_sqlite(url) else "PostgreSQL"
    found = next((kind for kind, is_kind in kinds.items() if is_kind), None)
    if found is None:
        raise NotABackup(f"{file} is no backup; name what `searchsvc db backup` wrote")
    if found != wanted:
        raise NotABackup(f"{file} is a backup of {found}: it cannot be restored into {display(url)}")
    if found == "SQLite":
        with Database(f"sqlite:///{file.absolute()}") as database:
            if database.found_revision() is None:
                raise NotABackup(f"{file} is an SQLite database, but holds no studies of searchsvc")


def _is_empty(url: URL) -> bool:
    path = Path(url.database or "")
    if is_sqlite(url) and path.parent.is_dir() and not path.exists():
        return not path.with_name(f"{path.name}-wal").exists()  # SQLite would write it into the new file
    engine = make_engine(url, LOCK_SECONDS)
    try:
        with reaching(url), engine.connect() as connection:
            return not inspect(connection).get_table_names()
    finally:
        engine.dispose()


def _copy(source: Path, target: Path) -> None:
    """Copy an SQLite database in one read transaction: writers go on, and what they write is left out."""
    try:
        with (
            closing(sqlite3.connect(source, timeout=LOCK_SECONDS)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
            # one file, which can be read where nothing can be written
            writing.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise Unreachable(f"cannot copy {source} to {target}: {error}") from error


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Yield a path beside `file`; what is there in the end takes the place of `file`."""
    part = file.with_name(f"{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        yield part
        part.replace(file)
    except OSError as error:
        raise Unreachable(f"cannot write {file}: {error.strerror}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)
