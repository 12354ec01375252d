"""The pages of `searchsvc serve`: `/healthz` and `/metrics`."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from waitress.server import create_server

from searchsvc.errors import ServiceError

#: Returns what `/healthz` shows; the service is well when its "status" is not "stuck".
Health = Callable[[], dict[str, Any]]
Application = Callable[..., Iterable[bytes]]


def application(registry: CollectorRegistry, health: Health) -> Application:
    """Return the WSGI application; it only reads, and tells no name of a study."""
    metrics: Application = make_wsgi_app(registry)

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/healthz":
            shown = health()
            status = "503 Service Unavailable" if shown["status"] == "stuck" else "200 OK"
            start_response(status, [("Content-Type", "application/json")])
            return [json.dumps(shown).encode() + b"\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/healthz and /metrics\n"]

    return serve


@contextmanager
def served(registry: CollectorRegistry, health: Health, host: str, port: int) -> Iterator[int]:
    """Serve the pages in a thread while the block runs; yields the port, which may be asked for as 0.

    Raises:
        ServiceError: nobody can listen there.
    """
    try:
        server = create_server(application(registry, health), host=host, port=port, threads=2)
    except ValueError as error:  # waitress looks the host up
        raise ServiceError(f"--host {host}: no address of this machine") from error
    except OSError as error:
        raise ServiceError(
            f"--port {port}: cannot listen on {host} ({error.strerror}); choose another"
        ) from error
    thread = threading.Thread(target=server.run, name="pages", daemon=True)
    thread.start()
    try:
        yield int(getattr(server, "effective_port", port))
    finally:
        server.close()
