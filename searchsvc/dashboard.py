"""The Optuna dashboard behind our guard: this machine only, reading only, unless asked otherwise."""

import socket
from typing import Any

import optuna_dashboard
from waitress.server import create_server

from db.session import Database
from searchsvc.artifacts import ProfileArtifacts
from searchsvc.errors import ServiceError
from searchsvc.guard import Application, Guard, is_loopback
from searchsvc.storage import optuna_storage

#: Bytes that a request may have; notes are the longest.
MAX_REQUEST = 1 << 20


def application(database: Database, *, token: str | None = None, allow_writes: bool = False) -> Application:
    """Return optuna-dashboard's WSGI app behind a guard (`searchsvc.guard.Guard`).

    optuna-dashboard itself asks nobody who they are: an anonymous DELETE would remove a study.
    """
    inner = optuna_dashboard.wsgi(optuna_storage(database), ProfileArtifacts(database))
    return Guard(inner, token=token, allow_writes=allow_writes)


def make_server(
    database: Database,
    *,
    host: str,
    port: int,
    token: str | None = None,
    allow_writes: bool = False,
) -> Any:
    """Return a server that listens already and serves with `run()`.

    Args:
        database: the studies.
        host: address to listen on; one that others can reach needs a token.
        port: 0 takes a free one, `effective_port` of the server.
        token: what visitors must know; None: nobody is asked.
        allow_writes: whether studies may be changed and deleted.

    Raises:
        ServiceError: an address that others can reach, without a token; or one that is not to be had.
    """
    if token is None and not is_loopback(host):
        raise ServiceError(
            f"--host {host}: others could reach the dashboard, and nobody would be asked who they are; give "
            "--token-file FILE (or SEARCHSVC_DASHBOARD_TOKEN), or stay on 127.0.0.1 and come by an SSH tunnel"
        )
    try:
        bound = _bound(host, port)
    except OSError as error:
        raise ServiceError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another one"
        ) from error
    app = application(database, token=token, allow_writes=allow_writes)
    return create_server(app, sockets=[bound], ident=None, max_request_body_size=MAX_REQUEST)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket with that address; waitress would leave one open where it is not to be had."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
