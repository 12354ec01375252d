"""Stands before a web application that asks nobody anything: who may come in, and what they may do there."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

READING = ("GET", "HEAD")

#: What every answer says to the browser: no other site may frame, read or sniff it, nor learn where one was.
HEADERS = (
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Refusal(NamedTuple):
    """An answer in the application's place."""

    status: str
    text: str
    headers: tuple[tuple[str, str], ...] = ()


NOT_HERE = Refusal("421 Misdirected Request", "Open this dashboard as http://localhost or http://127.0.0.1.")
LOG_IN = Refusal(
    "401 Unauthorized",
    "Log in: the token is the password, with any name; programs send 'Authorization: Bearer TOKEN'.",
    (("WWW-Authenticate", 'Basic realm="searchsvc", charset="UTF-8"'),),
)
READ_ONLY = Refusal(
    "403 Forbidden", "This dashboard is read-only; start it with --allow-writes to change studies."
)
OTHER_SITE = Refusal("403 Forbidden", "Another web site asked for this change.")
NO_UPLOADS = Refusal(
    "403 Forbidden", "A study's files are its exported profiles: `searchsvc profile export` adds one."
)


class Guard:
    """A WSGI application around another one.

    Args:
        inner: what answers those who may come in.
        token: what visitors must know; None: nobody is asked, and only the names of this machine are answered
            to, so that no page on the web can have its own name lead here (DNS rebinding).
        allow_writes: whether methods other than GET and HEAD go through; from other sites' pages none does.
    """

    def __init__(self, inner: Application, *, token: str | None = None, allow_writes: bool = False) -> None:
        self._inner, self._token, self._allow_writes = inner, token, allow_writes

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        refusal = self._refusal(environ)
        if refusal is None:
            return self._inner(environ, _guarded(start_response, environ["PATH_INFO"]))
        headers = [("Content-Type", "text/plain; charset=utf-8"), *refusal.headers]
        _guarded(start_response, environ["PATH_INFO"])(refusal.status, headers)
        return [f"{refusal.text}\n".encode()]

    def _refusal(self, environ: Environ) -> Refusal | None:
        if self._token is None and not is_loopback(_host_of(f"//{environ.get('HTTP_HOST', '')}")):
            return NOT_HERE
        if self._token is not None and not _knows(environ.get("HTTP_AUTHORIZATION", ""), self._token):
            return LOG_IN
        if environ["REQUEST_METHOD"] in READING:
            return None
        if not self._allow_writes:
            return READ_ONLY
        if _from_another_site(environ):
            return OTHER_SITE
        return NO_UPLOADS if environ["PATH_INFO"].startswith("/api/artifacts/") else None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can only be this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _knows(authorization: str, token: str) -> bool:
    """Whether the header holds the token: as a bearer's, or as the password that a browser has asked for."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            return False
        password = decoded.partition(b":")[2]
    elif scheme.lower() == "bearer":
        password = given.encode("latin-1", errors="replace")
    else:
        return False
    return hmac.compare_digest(password, token.encode())


def _from_another_site(environ: Environ) -> bool:
    """Whether a page of another origin has its visitor's browser send this, with the log-in that it keeps."""
    origin = environ.get("HTTP_ORIGIN")
    foreign = origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")
    return foreign or environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none")


def _guarded(start_response: StartResponse, path: str) -> StartResponse:
    """Return a `start_response` that adds our headers and drops what would open an answer to others."""
    ours: Headers = [*HEADERS, ("Cache-Control", _caching(path))]
    if path.startswith("/artifacts/"):
        ours.append(("Content-Security-Policy", "default-src 'none'; sandbox"))
    replaced = {name.lower() for name, _ in ours} | {"access-control-allow-origin"}

    def start(status: str, headers: Headers, *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() not in replaced]
        return start_response(status, kept + ours, *rest)

    return start


def _caching(path: str) -> str:
    """The program's own files may be kept, once they were asked for again; studies are nowhere kept."""
    return "private, no-cache" if path.startswith("/static/") else "no-store"
