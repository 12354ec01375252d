"""`searchsvc db`: the database's schema, and copies of the whole."""

from pathlib import Path
from typing import Annotated

import typer

from searchsvc.cli.output import Format, Output, message, show_record
from searchsvc.errors import WRONG_INPUT

app = typer.Typer(no_args_is_help=True, help="The database's schema, and copies of it.")

Url = Annotated[
    str | None, typer.Option("--db", help="Database URL or SQLite file; default: SEARCHSVC_DB_URL.")
]


@app.command()
def upgrade(db: Url = None) -> None:
    """Create the tables, or bring them, and Optuna's, to this version of searchsvc."""
    from searchsvc.maintenance import upgrade_database
    from searchsvc.settings import Settings

    message(f"database at schema {upgrade_database(Settings().database_url(db))}")


@app.command()
def check(output: Output = Format.TABLE, db: Url = None) -> None:
    """Show the versions of the schema and of Optuna's tables; exit status 2 when one is not current."""
    from searchsvc.maintenance import check_database
    from searchsvc.settings import Settings

    found = check_database(Settings().database_url(db))
    show_record(found.record, output, title="searchsvc db check")
    if found.advice:
        message(f"searchsvc: {found.advice}")
        raise typer.Exit(WRONG_INPUT)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write the copy.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    db: Url = None,
) -> None:
    """Copy the whole database, as it is at one moment, while studies go on.

    Of SQLite the copy is an SQLite file; of PostgreSQL it is made by pg_dump, which must be at hand.
    """
    from db.backup import backup as write_backup
    from searchsvc.settings import Settings

    write_backup(Settings().database_url(db), file, overwrite=force)
    message(f"{file}: {file.stat().st_size:,} bytes")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A copy that `searchsvc db backup` wrote.")], db: Url = None
) -> None:
    """Fill a new, empty database from a copy; one that holds anything is refused."""
    from db.backup import restore as read_backup
    from searchsvc.maintenance import check_database
    from searchsvc.settings import Settings

    url = Settings().database_url(db)
    read_backup(url, file)
    found = check_database(url)
    message(f"restored from {file}" + (f"; {found.advice}" if found.advice else ""))
