"""`searchsvc dashboard`: the Optuna dashboard on our database."""

from pathlib import Path
from typing import Annotated

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.output import message
from searchsvc.cli.study import open_database


def dashboard(
    db: Url = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SEARCHSVC_DASHBOARD_TOKEN_FILE",
            help="File with the token that visitors must bring: as a bearer token, or as the password.",
        ),
    ] = None,
    allow_writes: Annotated[bool, typer.Option(help="Let visitors change and delete studies.")] = False,
) -> None:
    """Serve the Optuna dashboard on the studies' database (read-only unless asked otherwise)."""
    from searchsvc.access import read_token
    from searchsvc.artifacts import ProfileArtifacts
    from searchsvc.dashboard import make_server
    from searchsvc.storage import optuna_storage

    token = None if token_file is None else read_token(token_file)
    with open_database(db) as database:
        server = make_server(
            optuna_storage(database),
            host=host,
            port=port,
            artifacts=ProfileArtifacts(database),
            token=token,
            allow_writes=allow_writes,
        )
        mode = ("writable" if allow_writes else "read-only") + ("" if token is None else ", with a token")
        shown = f"[{host}]" if ":" in host else host
        message(f"dashboard on http://{shown}:{port} ({mode}); Ctrl-C ends it")
        server.run()
