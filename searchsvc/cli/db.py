"""`searchsvc db`: the database's schema."""

from typing import Annotated

import typer

from searchsvc.cli.output import message

app = typer.Typer(no_args_is_help=True, help="The database's schema.")

Url = Annotated[
    str | None, typer.Option("--db", help="Database URL or SQLite file; default: SEARCHSVC_DB_URL.")
]


@app.command()
def upgrade(db: Url = None) -> None:
    """Create the tables, or bring them to this version of searchsvc."""
    from db.session import upgrade as upgrade_schema
    from searchsvc.settings import Settings

    message(f"database at schema {upgrade_schema(Settings().database_url(db))}")
