"""The dashboard's guard: reading only, this machine only; and what we show in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from searchsvc.dashboard import application, make_server
from searchsvc.errors import ServiceError


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[optuna.storages.RDBStorage]:
    made = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'studies.db'}")
    optuna.create_study(study_name="kept", storage=made, directions=["maximize", "minimize"])
    yield made
    made.remove_session()
    made.engine.dispose()


def request(app: Any, method: str, path: str) -> tuple[str, bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
    setup_testing_defaults(environ)
    status: list[str] = []
    body = b"".join(app(environ, lambda line, headers, exc_info=None: status.append(line)))
    return status[0], body


def test_reading_shows_the_studies(storage: optuna.storages.RDBStorage) -> None:
    status, body = request(application(storage), "GET", "/api/studies")
    assert status.startswith("200")
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["kept"]


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
def test_writing_is_refused(storage: optuna.storages.RDBStorage, method: str) -> None:
    status, body = request(application(storage), method, "/api/studies/1")
    assert status.startswith("403")
    assert b"--allow-writes" in body
    assert len(storage.get_all_studies()) == 1


def test_writing_where_it_is_asked_for(storage: optuna.storages.RDBStorage) -> None:
    status, _ = request(application(storage, allow_writes=True), "DELETE", "/api/studies/1")
    assert status.startswith("204")
    assert storage.get_all_studies() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org"])
def test_only_this_machine(storage: optuna.storages.RDBStorage, host: str) -> None:
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1"):
        make_server(storage, host=host, port=8080, allow_writes=False)
