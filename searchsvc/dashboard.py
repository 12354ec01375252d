"""The Optuna dashboard behind our guard: this machine only, reading only, unless asked otherwise."""

from collections.abc import Callable, Iterable
from typing import Any

import optuna
import optuna_dashboard
from waitress.server import create_server

from searchsvc.errors import ServiceError

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
READING = ("GET", "HEAD")


def application(storage: optuna.storages.BaseStorage, *, allow_writes: bool = False) -> Application:
    """Return optuna-dashboard's WSGI app; without `allow_writes` every request but GET and HEAD gets 403.

    optuna-dashboard itself asks nobody who they are: an anonymous DELETE would remove a study.
    """
    inner: Application = optuna_dashboard.wsgi(storage)
    return inner if allow_writes else _read_only(inner)


def make_server(storage: optuna.storages.BaseStorage, *, host: str, port: int, allow_writes: bool) -> Any:
    """Return a server that listens already and serves with `run()`; only loopback addresses are accepted.

    Raises:
        ServiceError: another address, or a port that is taken.
    """
    if host not in LOOPBACK:
        raise ServiceError(
            f"--host {host}: the dashboard has no log-in, so it is served on 127.0.0.1 only; "
            "reach it from elsewhere by an SSH tunnel"
        )
    try:
        return create_server(application(storage, allow_writes=allow_writes), host=host, port=port)
    except OSError as error:
        raise ServiceError(
            f"--port {port}: cannot listen there ({error.strerror}); choose another port"
        ) from error


def _read_only(inner: Application) -> Application:
    def guarded(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return inner(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This dashboard is read-only; start it with --allow-writes to change studies.\n"]

    return guarded
