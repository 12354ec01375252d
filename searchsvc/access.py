"""Who may do what with a WSGI application that asks nobody: a token, reading only, no other site's pages."""

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from searchsvc.errors import ServiceError

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
READING = ("GET", "HEAD")
#: characters; `make secrets` writes 64
SHORTEST_TOKEN = 16
_HEADERS = [
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]


def read_token(path: Path) -> str:
    """Return the token that a file holds.

    Raises:
        ServiceError: there is no such file, or too little in it.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"--token-file {path}: cannot be read ({error})") from error
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise ServiceError(
            f"--token-file {path}: a token has {SHORTEST_TOKEN} ASCII characters or more; write one by "
            f'`python -c "import secrets; print(secrets.token_hex(32))" > {path}`'
        )
    return token


def guarded(inner: Application, *, token: str | None, allow_writes: bool) -> Application:
    """Let through who may: with a token, those that bring it; without one, those that came to this machine.

    The token is a bearer token or, for browsers, the password of basic authentication with any user name.
    Without a token the Host header must name this machine: else a page elsewhere could read it through a name
    that its owner points here (DNS rebinding). Writes need `allow_writes` and a page of our own.
    """

    def guard(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # optuna-dashboard lets every site read artifacts
            dropped = {name.lower() for name, _ in _HEADERS} | {"access-control-allow-origin"}
            kept = [(name, value) for name, value in headers if name.lower() not in dropped]
            return start_response(status, kept + _HEADERS, *rest)

        def refuse(status: str, why: str, *headers: tuple[str, str]) -> Iterable[bytes]:
            start(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
            return [f"{why}\n".encode()]

        if token is None and _host(environ) not in LOOPBACK:
            return refuse("403 Forbidden", "This dashboard is for this machine alone.")
        if token is not None and not _brings(environ, token):
            asked = ("WWW-Authenticate", 'Basic realm="searchsvc", charset="UTF-8"')
            return refuse("401 Unauthorized", "The password is the dashboard's token.", asked)
        if environ["REQUEST_METHOD"] not in READING:
            if not allow_writes:
                return refuse(
                    "403 Forbidden",
                    "This dashboard is read-only; start it with --allow-writes to change studies.",
                )
            if not _of_our_own(environ):
                return refuse("403 Forbidden", "Another site's page may not change studies.")
            if environ["PATH_INFO"].startswith("/api/artifacts/"):
                return refuse("403 Forbidden", "A study's files are what `profile export` has written.")
        return inner(environ, start)

    return guard


def _host(environ: Environ) -> str:
    """The name in the Host header, without its port."""
    host = str(environ.get("HTTP_HOST", ""))
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host).strip("[]").lower()


def _of_our_own(environ: Environ) -> bool:
    """Whether no page of another site sends this: browsers say where from, by one header or the other."""
    if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none"):
        return False
    origin = environ.get("HTTP_ORIGIN")
    return origin is None or urlsplit(origin).netloc.lower() == str(environ.get("HTTP_HOST", "")).lower()


def _brings(environ: Environ, token: str) -> bool:
    kind, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if kind.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())
