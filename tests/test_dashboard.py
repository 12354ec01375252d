"""The dashboard behind its guard, on both databases: reading only, this machine only, unless asked otherwise."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from db_cases import sqlite_url
from test_guard import TOKEN, Answer

from db.session import Database, upgrade
from searchsvc.dashboard import application, make_server
from searchsvc.errors import ServiceError
from searchsvc.storage import optuna_storage


@pytest.fixture(autouse=True)
def kept(request: pytest.FixtureRequest) -> None:
    """A study in the database, where the test has one."""
    if "database" in request.fixturenames:
        storage = optuna_storage(request.getfixturevalue("database"))
        optuna.create_study(study_name="kept", storage=storage, directions=["maximize", "minimize"])


def number(database: Database) -> int:
    return optuna_storage(database).get_study_id_from_name("kept")


def test_reading_shows_the_studies(database: Database) -> None:
    answer = Answer(application(database), "GET", "/api/studies")
    assert answer.status == 200
    assert [study["study_name"] for study in json.loads(answer.body)["study_summaries"]] == ["kept"]


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
def test_writing_is_refused(database: Database, method: str) -> None:
    assert Answer(application(database), method, f"/api/studies/{number(database)}").status == 403
    assert len(optuna_storage(database).get_all_studies()) == 1


def test_writing_where_it_is_asked_for(database: Database) -> None:
    app = application(database, allow_writes=True)
    assert Answer(app, "DELETE", f"/api/studies/{number(database)}").status == 204
    assert optuna_storage(database).get_all_studies() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::"])
def test_only_this_machine_without_a_token(database: Database, host: str) -> None:
    with pytest.raises(ServiceError, match=r"--token-file .*127\.0\.0\.1"):
        make_server(database, host=host, port=0)


@contextmanager
def listening(database: Database, **options: Any) -> Iterator[Any]:
    server = make_server(database, port=0, **options)
    try:
        yield server
    finally:
        server.task_dispatcher.shutdown()
        server.close()
        server.trigger.close()


def test_everybody_with_one(database: Database) -> None:
    with listening(database, host="0.0.0.0", token=TOKEN) as server:
        assert server.effective_port


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "in use"), ("no.such.host.invalid", "not known")])
def test_where_it_cannot_listen(database: Database, host: str, reason: str) -> None:
    with listening(database, host="127.0.0.1") as taken:
        port = int(taken.effective_port)
        with pytest.raises(ServiceError, match=f"--port {port}: cannot listen there .*{reason}"):
            make_server(database, host=host, port=port, token=TOKEN)


def get(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_command_asks_for_its_token_and_never_shows_it(tmp_path: Path) -> None:
    """As typed, in a process of its own: what it prints, whoever calls and with whatever, holds no token."""
    upgrade(sqlite_url(tmp_path))
    token, wrong = tmp_path / "token", "wrong-but-still-a-secret"
    token.write_text(TOKEN)
    port = free_port()
    command = ["dashboard", "--db", sqlite_url(tmp_path), "--host", "0.0.0.0", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "searchsvc", *command, "--token-file", str(token)],
        stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    address = f"http://127.0.0.1:{port}/api/studies"
    try:
        assert get(address) == 401
        assert get(address, Authorization=f"Bearer {wrong}") == 401
        assert get(address, Authorization=f"Bearer {TOKEN}") == 200
        assert get(f"{address}/no-such", Authorization=f"Bearer {TOKEN}") == 404
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert "read-only, with log-in" in first
    assert TOKEN not in first + rest
    assert wrong not in first + rest
    assert process.returncode == 0


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
