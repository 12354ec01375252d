"""The guard before the dashboard: who comes in, what they may do, and what every answer says to a browser."""

import base64
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from searchsvc.guard import Guard

TOKEN = "0123456789abcdef0123"


class Answer:
    def __init__(self, app: Any, method: str, path: str, **headers: str) -> None:
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, **headers}
        setup_testing_defaults(environ)
        if environ["HTTP_HOST"] == "none":
            del environ["HTTP_HOST"]
        self.body = b"".join(app(environ, self._start))

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        self.status, self.headers = int(status.split()[0]), dict(headers)
        assert len(self.headers) == len(headers), "a header twice"


def behind(**options: Any) -> Any:
    """A guard before an application that always answers, openly."""

    def inner(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Access-Control-Allow-Origin", "*"), ("cache-control", "public")])
        return [b"inside"]

    return Guard(inner, **options)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8080", "[::1]:8080", "127.0.0.1:22222", "LOCALHOST"]
)
def test_this_machines_names_are_answered_to(host: str) -> None:
    assert Answer(behind(), "GET", "/", HTTP_HOST=host).body == b"inside"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "localhost@evil.example",
     "192.168.1.2", "0.0.0.0", "[::1", "", "none"],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    """A page on the web may have its own name lead to 127.0.0.1, but not change what the browser calls it."""
    assert Answer(behind(), "GET", "/api/studies", HTTP_HOST=host).status == 421
    assert Answer(behind(token=TOKEN), "GET", "/api/studies", HTTP_HOST=host).status == 401


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(f":{TOKEN}"), basic(f"anna:{TOKEN}")],
)
def test_the_token_lets_in(authorization: str) -> None:
    app = behind(token=TOKEN)
    assert Answer(app, "GET", "/", HTTP_HOST="gpu-7", HTTP_AUTHORIZATION=authorization).body == b"inside"


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", f"Bearer  {TOKEN}", TOKEN, f"Digest {TOKEN}",
     f"Bearer {TOKEN.upper()}", "Bearer é", "Basic", "Basic !", f"Basic {TOKEN}", basic(TOKEN), basic(f"{TOKEN}:"),
     basic(f"anna:{TOKEN}:"), basic("é:é")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/dashboard", "/static/bundle.js", "/api/studies", "/artifacts/1/ab"])
def test_nothing_else_does(authorization: str, path: str) -> None:
    answer = Answer(behind(token=TOKEN, allow_writes=True), "GET", path, HTTP_AUTHORIZATION=authorization)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert b"inside" not in answer.body


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda *both: compared.append(both))
    assert Answer(behind(token=TOKEN), "GET", "/", HTTP_AUTHORIZATION="Bearer x").status == 401
    assert compared == [(b"x", TOKEN.encode())]


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH", "OPTIONS", "get", "TRACE"])
def test_reading_is_all_that_is_allowed(method: str, token: str | None) -> None:
    known = f"Bearer {token}"
    answer = Answer(behind(token=token), method, "/api/studies/1", HTTP_AUTHORIZATION=known)
    assert answer.status == 403
    assert b"--allow-writes" in answer.body
    allowed = behind(token=token, allow_writes=True)
    assert Answer(allowed, method, "/api/studies/1", HTTP_AUTHORIZATION=known).body == b"inside"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"HTTP_ORIGIN": "http://127.0.0.1:8080", "HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
        ({"HTTP_ORIGIN": "http://evil.example"}, 403),
        ({"HTTP_ORIGIN": "http://127.0.0.1:9999"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
        ({"HTTP_ORIGIN": "http://[bad"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, 403),
    ],
)
def test_other_sites_change_nothing_with_a_visitors_log_in(headers: dict[str, str], status: int) -> None:
    app = behind(token=TOKEN, allow_writes=True)
    known = {"HTTP_HOST": "127.0.0.1:8080", "HTTP_AUTHORIZATION": basic(f"anna:{TOKEN}")}
    assert Answer(app, "POST", "/api/studies", **known, **headers).status == status


def test_nobody_uploads_files() -> None:
    answer = Answer(behind(allow_writes=True), "POST", "/api/artifacts/1")
    assert (answer.status, b"profile export" in answer.body) == (403, True)


@pytest.mark.parametrize("options", [{}, {"token": TOKEN}], ids=["let in", "refused"])
@pytest.mark.parametrize("path", ["/api/studies", "/static/bundle.js", "/artifacts/1/ab"])
def test_every_answer_is_closed_to_other_sites(options: dict[str, str], path: str) -> None:
    headers = Answer(behind(**options), "GET", path).headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == ("private, no-cache" if "static" in path else "no-store")
    assert "Access-Control-Allow-Origin" not in headers
    assert ("sandbox" in headers.get("Content-Security-Policy", "")) is path.startswith("/artifacts/")
