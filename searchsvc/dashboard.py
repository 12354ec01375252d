"""The Optuna dashboard behind our guard: this machine only or a token, reading only unless asked."""

import socket
from typing import Any

import optuna
import optuna_dashboard
from waitress.server import create_server

from searchsvc.access import LOOPBACK, Application, guarded
from searchsvc.artifacts import ProfileArtifacts
from searchsvc.errors import ServiceError

#: Bytes that a request may have; notes are the longest.
MAX_REQUEST = 1 << 20


def application(
    storage: optuna.storages.BaseStorage,
    *,
    artifacts: ProfileArtifacts | None = None,
    token: str | None = None,
    allow_writes: bool = False,
) -> Application:
    """Return optuna-dashboard's WSGI app, with artifacts to read, as `guarded` lets people to it.

    optuna-dashboard itself asks nobody who they are: an anonymous DELETE would remove a study.
    """
    return guarded(optuna_dashboard.wsgi(storage, artifacts), token=token, allow_writes=allow_writes)


def make_server(
    storage: optuna.storages.BaseStorage,
    *,
    host: str,
    port: int,
    artifacts: ProfileArtifacts | None = None,
    token: str | None,
    allow_writes: bool,
) -> Any:
    """Return a server that listens already and serves with `run()`.

    Raises:
        ServiceError: an address that others can reach, without a token; or a port that is taken.
    """
    if host not in LOOPBACK and token is None:
        raise ServiceError(
            f"--host {host}: whoever reaches it could read everything; give it a --token-file, or leave it "
            "on 127.0.0.1 and come by an SSH tunnel"
        )
    try:
        bound = _bound(host, port)
    except OSError as error:
        raise ServiceError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another one"
        ) from error
    app = application(storage, artifacts=artifacts, token=token, allow_writes=allow_writes)
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
