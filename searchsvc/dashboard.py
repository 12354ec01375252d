"""The Optuna dashboard behind our guard: this machine only or a token, reading only unless asked."""

from typing import Any

import optuna
import optuna_dashboard
from waitress.server import create_server

from searchsvc.access import LOOPBACK, Application, guarded
from searchsvc.errors import ServiceError


def application(
    storage: optuna.storages.BaseStorage, *, token: str | None = None, allow_writes: bool = False
) -> Application:
    """Return optuna-dashboard's WSGI app as `guarded` lets people to it.

    optuna-dashboard itself asks nobody who they are: an anonymous DELETE would remove a study.
    """
    return guarded(optuna_dashboard.wsgi(storage), token=token, allow_writes=allow_writes)


def make_server(
    storage: optuna.storages.BaseStorage, *, host: str, port: int, token: str | None, allow_writes: bool
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
        app = application(storage, token=token, allow_writes=allow_writes)
        return create_server(app, host=host, port=port)
    except ValueError as error:  # waitress has looked the name up in vain
        raise ServiceError(f"--host {host}: there is no such address; 127.0.0.1 is this machine") from error
    except OSError as error:
        raise ServiceError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another port"
        ) from error
