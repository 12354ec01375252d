"""`searchsvc dashboard`: the Optuna dashboard on our database."""

from typing import Annotated

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.output import message
from searchsvc.cli.study import open_database


def dashboard(
    db: Url = None,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    allow_writes: Annotated[bool, typer.Option(help="Let visitors change and delete studies.")] = False,
) -> None:
    """Serve the Optuna dashboard on the studies' database (read-only unless asked otherwise)."""
    from searchsvc.dashboard import make_server
    from searchsvc.storage import optuna_storage

    with open_database(db) as database:
        server = make_server(optuna_storage(database), host=host, port=port, allow_writes=allow_writes)
        mode = "writable" if allow_writes else "read-only"
        message(f"dashboard on http://{host}:{port} ({mode}); Ctrl-C ends it")
        server.run()
