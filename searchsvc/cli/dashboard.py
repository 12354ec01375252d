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
        typer.Option(help="File with the token to log in with; default: SEARCHSVC_DASHBOARD_TOKEN."),
    ] = None,
    allow_writes: Annotated[bool, typer.Option(help="Let visitors change and delete studies.")] = False,
) -> None:
    """Serve the Optuna dashboard on the studies' database (read-only unless asked otherwise).

    With a token a browser asks for a name and a password: any name, and the token. Programs send it as
    `Authorization: Bearer TOKEN`. It travels as it is: put TLS in front where the network is not your own.
    """
    from searchsvc.dashboard import make_server
    from searchsvc.settings import Settings
    from searchsvc.tokens import read_token

    token = read_token(token_file, Settings().token)
    with open_database(db) as database:
        server = make_server(database, host=host, port=port, token=token, allow_writes=allow_writes)
        mode = ("writable" if allow_writes else "read-only") + (", with log-in" if token else "")
        shown = f"[{host}]" if ":" in host else host
        message(f"dashboard on http://{shown}:{port} ({mode}); Ctrl-C ends it")
        server.run()
