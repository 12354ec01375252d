"""The compose file's own commands, started as it says, on real PostgreSQL: a study goes through them."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from composed import PATIENCE, Composed, free_port
from databases import PostgresServer
from sqlalchemy import make_url
from test_deployment import COMPOSE, ORDER

from searchsvc.demo.data import write

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(400)]


ROLE = "searchsvc_composed"


@contextmanager
def with_a_password(postgres: PostgresServer, password: str) -> Iterator[None]:
    """A role that must bring its password, as in the compose file's own server."""
    rules = Path(postgres.read("SHOW hba_file"))
    before = rules.read_text()
    postgres.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
    try:
        asked = f"local all {ROLE} scram-sha-256\nhost all {ROLE} all scram-sha-256\n"
        rules.write_text(asked + before)
        postgres.run("SELECT pg_reload_conf()")
        yield
    finally:
        rules.write_text(before)
        postgres.run("SELECT pg_reload_conf()", f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


@pytest.fixture
def service(postgres: PostgresServer, tmp_path: Path) -> Iterator[Composed]:
    """Everything but `postgres` itself, in whose place the tests' server stands."""
    ray, metrics, dashboard = (str(free_port()) for _ in range(3))
    composed = Composed(COMPOSE, tmp_path, {})
    with (
        with_a_password(postgres, composed.secrets["postgres_password"]),
        postgres.database() as url,
        composed,
    ):
        named = make_url(url).set(drivername="postgresql", username=ROLE, password=None)
        postgres.run(f"ALTER DATABASE {named.database} OWNER TO {ROLE}")
        composed.places |= {
            "postgresql://searchsvc@postgres/searchsvc": named.render_as_string(hide_password=False),
            "ray-head:6379": f"127.0.0.1:{ray}",
            "--port=6379": f"--port={ray}",
            "0.0.0.0": "127.0.0.1",
            "9090": metrics,
            "8080": dashboard,
        }
        yield composed


def fetched(service: Composed, port: str, path: str, token: str | None) -> tuple[int, str]:
    """Status and text of a page at one of the compose file's ports."""
    request = urllib.request.Request(f"http://127.0.0.1:{service.places[port]}{path}")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_study_goes_through_the_services(service: Composed, tmp_path: Path) -> None:
    assert ORDER[:2] == ["postgres", "migrate"]
    service.complete("migrate")
    for name in ORDER[2:]:
        # two Ray nodes that start at the same moment take the same names for their sockets, if they share /tmp
        service.start(name, printed="Ray runtime started" if name == "ray-worker" else "")
    manifest = write(tmp_path / "data", search=8, test=1)
    spec = [
        "--model",
        "demo",
        "--data",
        str(manifest),
        "--method",
        "fastv",
        "-O",
        "layers=[2]",
        "-O",
        "ratios=[0.5]",
    ]
    counts = ["--search-samples", "8", "--test-samples", "1"]
    created = service.call("migrate", "searchsvc", "study", "create", "first", *spec, *counts)
    assert created.returncode == 0, created.stderr
    waited = service.call("migrate", "searchsvc", "study", "wait", "first")
    assert waited.returncode in (0, 5), waited.stderr + service.log("controller")
    shown = service.call("migrate", "searchsvc", "study", "show", "first", "--output", "json")
    assert json.loads(shown.stdout)["status"] == "done", shown.stdout

    assert fetched(service, "8080", "/api/studies", None)[0] == 401
    status, body = fetched(service, "8080", "/api/studies", service.secrets["dashboard_token"])
    assert (status, "first" in body) == (200, True)
    status, body = fetched(service, "9090", "/metrics", None)
    assert (status, "searchsvc_" in body) == (200, True)

    for name in ("controller", "dashboard"):
        service.running[name].send_signal(signal.SIGTERM)
    assert service.running["controller"].wait(PATIENCE) == 0, service.log("controller")
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log")) + created.stderr + waited.stderr
    assert [name for name, secret in service.secrets.items() if secret in logs] == []
