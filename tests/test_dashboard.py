"""The dashboard's guard: reading only, this machine only; and what we show in it."""

import base64
import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from db.session import Database
from searchsvc.access import read_token
from searchsvc.cli.app import run
from searchsvc.dashboard import application, make_server
from searchsvc.errors import ServiceError


@pytest.fixture
def storage() -> optuna.storages.BaseStorage:
    made = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="kept", storage=made, directions=["maximize", "minimize"])
    return made


def request(app: Any, method: str, path: str, **headers: str) -> tuple[str, bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    setup_testing_defaults(environ)
    status: list[str] = []
    answer = app(environ, lambda line, headers, exc_info=None: status.append(line))
    body = b"".join(answer)
    getattr(answer, "close", lambda: None)()
    return status[0], body


def test_reading_shows_the_studies(storage: optuna.storages.BaseStorage) -> None:
    status, body = request(application(storage), "GET", "/api/studies")
    assert status.startswith("200")
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["kept"]


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
def test_writing_is_refused(storage: optuna.storages.BaseStorage, method: str) -> None:
    status, body = request(application(storage), method, "/api/studies/0")
    assert status.startswith("403")
    assert b"--allow-writes" in body
    assert len(storage.get_all_studies()) == 1


def test_writing_where_it_is_asked_for(storage: optuna.storages.BaseStorage) -> None:
    status, _ = request(application(storage, allow_writes=True), "DELETE", "/api/studies/0")
    assert status.startswith("204")
    assert storage.get_all_studies() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org"])
def test_elsewhere_only_with_a_token(storage: optuna.storages.BaseStorage, host: str) -> None:
    with pytest.raises(ServiceError, match="--token-file"):
        make_server(storage, host=host, port=8080, token=None, allow_writes=False)


TOKEN = "0123456789abcdef-"


def test_a_host_that_does_not_exist_is_one_line(storage: optuna.storages.BaseStorage) -> None:
    with pytest.raises(ServiceError, match="cannot listen there"):
        make_server(storage, host="no.such.host.invalid", port=8080, token=TOKEN, allow_writes=False)


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
def test_the_address_that_is_printed_can_be_opened(
    storage: optuna.storages.BaseStorage,
    host: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Server:
        run = staticmethod(lambda: None)

    monkeypatch.setattr("searchsvc.dashboard.make_server", lambda *_, **__: Server)
    with Database.open(f"sqlite:///{tmp_path / 'x.db'}"):
        pass
    assert run(["dashboard", "--host", host, "--db", f"{tmp_path / 'x.db'}"]) == 0
    assert f"http://{shown}:8080 " in capsys.readouterr().err


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, "401"),
        ("", "401"),
        (f"Bearer {TOKEN}", "200"),
        (f"bearer {TOKEN}", "200"),
        (f"Bearer {TOKEN}x", "401"),
        ("Bearer ", "401"),
        (f"Digest {TOKEN}", "401"),
        (TOKEN, "401"),
        (basic(f"anybody:{TOKEN}"), "200"),
        (basic(f":{TOKEN}"), "200"),
        (basic(TOKEN), "401"),
        (basic("anybody:"), "401"),
        ("Basic not-base64!", "401"),
        ("Basic /w==", "401"),
    ],
)
@pytest.mark.parametrize("path", ["/dashboard/", "/api/studies", "/static/bundle.js", "/artifacts/1/2/3"])
def test_nothing_is_shown_without_the_token(
    storage: optuna.storages.BaseStorage, path: str, authorization: str | None, status: str
) -> None:
    given = {} if authorization is None else {"authorization": authorization}
    line, body = request(application(storage, token=TOKEN), "GET", path, host="example.org", **given)
    if status == "401":
        assert line.startswith("401")
        assert body == b"The password is the dashboard's token.\n"
    else:
        assert not line.startswith(("401", "403"))


def test_the_token_alone_does_not_let_anybody_write(storage: optuna.storages.BaseStorage) -> None:
    line, _ = request(
        application(storage, token=TOKEN), "DELETE", "/api/studies/0", authorization=f"Bearer {TOKEN}"
    )
    assert line.startswith("403")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", "200"),
        ("localhost", "200"),
        ("LOCALHOST:1", "200"),
        ("[::1]:8080", "200"),
        ("evil.example:8080", "403"),
        ("127.0.0.1.evil.example", "403"),
    ],
)
def test_a_page_elsewhere_cannot_read_it_by_a_name_that_points_here(
    storage: optuna.storages.BaseStorage, host: str, status: str
) -> None:
    assert request(application(storage), "GET", "/api/studies", host=host)[0].startswith(status)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"sec_fetch_site": "cross-site"}, "403"),
        ({"sec_fetch_site": "same-site"}, "403"),
        ({"sec_fetch_site": "same-origin"}, "204"),
        ({"origin": "http://evil.example"}, "403"),
        ({"origin": "http://127.0.0.1:9"}, "403"),
        ({"origin": "null"}, "403"),
        ({"origin": "http://127.0.0.1:8080"}, "204"),
        ({}, "204"),
    ],
    ids=str,
)
def test_another_sites_page_cannot_write(
    storage: optuna.storages.BaseStorage, said: dict[str, str], status: str
) -> None:
    app = application(storage, allow_writes=True)
    answer = request(app, "DELETE", "/api/studies/0", host="127.0.0.1:8080", **said)
    assert answer[0].startswith(status)


def test_answers_are_neither_kept_nor_framed(storage: optuna.storages.BaseStorage) -> None:
    environ: dict[str, Any] = {"PATH_INFO": "/api/studies"}
    setup_testing_defaults(environ)
    seen: list[tuple[str, str]] = []
    application(storage)(environ, lambda _, headers, exc_info=None: seen.extend(headers))
    assert {("X-Frame-Options", "DENY"), ("Cache-Control", "no-store")} <= set(seen)
    assert len({name for name, _ in seen}) == len(seen)


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ServiceError, match="cannot be read"):
        read_token(path)
    path.write_text("short\n")
    with pytest.raises(ServiceError, match="16 ASCII characters or more") as raised:
        read_token(path)
    assert "short" not in str(raised.value)
    path.write_text("zwölf mal zwölf zeichen", encoding="utf-8")
    with pytest.raises(ServiceError, match="ASCII"):
        read_token(path)
    path.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert read_token(path) == TOKEN
