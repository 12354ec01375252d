"""`searchsvc serve` on real studies, with workers that sleep: crashes change neither trials nor the front."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from db_cases import REPOSITORY
from napping import queue_study
from sqlalchemy import create_engine, text
from test_serve import TESTS, Served, until

from db import results
from db.session import Database
from db.studies import get_study
from searchsvc.cli.app import run
from searchsvc.demo.data import write
from searchsvc.points import measured_in
from searchsvc.storage import optuna_storage

NAPPING = (sys.executable, TESTS / "simulated_child.py")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, search=8, test=1)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'x.db'}"
    queue_study(url, manifest)
    served = Served(url, "--once", command=NAPPING)
    assert served.process.wait(100) == 0
    served.close()
    return url


def trials(url: str) -> list[Any]:
    with Database.open(url) as database:
        points = measured_in(optuna.load_study(study_name="one", storage=optuna_storage(database)))
        return [(p.number, p.key, p.method, p.label, p.params, p.accuracy, p.flops_ratio) for p in points]


def ended(url: str) -> int:
    """Finished trials, read beside whoever writes them."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        count = connection.execute(text("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")).scalar_one()
    engine.dispose()
    return int(count)


@pytest.fixture
def serve(url: str) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*options: object, **more: Any) -> Served:
        started.append(Served(url, *options, command=NAPPING, **more))
        return started[-1]

    yield start
    for served in started:
        served.close()


@pytest.fixture
def url(empty_url: str, manifest: Path) -> str:
    queue_study(empty_url, manifest)
    return empty_url


def assert_as_undisturbed(url: str, undisturbed: str) -> None:
    assert trials(url) == trials(undisturbed)
    with Database.open(url) as database, Database.open(undisturbed) as other:
        assert [f.points for f in results.fronts(database, "one")] == [
            f.points for f in results.fronts(other, "one")
        ]
        assert get_study(database, "one").outcome == get_study(other, "one").outcome
        made = [attempt.key for attempt in results.attempts(database, "one") if attempt.error is None]
        assert len(made) == len(set(made)), "an evaluation was made twice"


def test_controllers_that_are_killed_change_nothing(
    url: str, undisturbed: str, serve: Callable[..., Served]
) -> None:
    for wanted in (4, 15):
        served = serve()
        until(lambda wanted=wanted: ended(url) >= wanted)
        served.process.kill()
        before = trials(url)
    assert serve("--once").process.wait(100) == 0
    assert len(before) < len(trials(url))
    assert trials(url)[: len(before)] == before
    assert_as_undisturbed(url, undisturbed)


def test_on_ray_a_study_runs_on_the_cluster_that_the_controller_started(
    tmp_path: Path, tiny_study: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "ray.db"
    search = ["--method", "random", "-O", "budgets=[0.5]", "--max-drop", "0.9"]
    create = ["study", "create", "a", *tiny_study, *search, "--db", str(db)]
    assert run(create) == 0
    serve = [sys.executable, "-m", "searchsvc", "serve", "--once", "--port", "0", "--db", str(db)]
    done = subprocess.run(serve, capture_output=True, text=True, timeout=150, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in done.stderr.splitlines()]
    assert {entry["study"] for entry in log if entry.get("how") == "done"} == {"a"}
    assert not [entry for entry in log if entry["event"] == "output"]
    assert run(["study", "wait", "a", "--db", str(db)]) == 0
    assert "a: " in capsys.readouterr().err


def test_who_slept_in_the_midst_of_a_study_changes_nothing(
    url: str, undisturbed: str, serve: Callable[..., Served]
) -> None:
    first = serve(lease=15)
    until(lambda: ended(url) >= 4)
    (pid,) = [entry["pid"] for entry in first.events("claimed")]
    for process in (first.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    slept = ended(url)
    second = serve(lease=15)
    until(lambda: ended(url) >= slept + 2)
    os.kill(pid, signal.SIGCONT)
    with Database.open(url) as database:
        until(lambda: get_study(database, "one").status == "done")
    os.kill(first.process.pid, signal.SIGCONT)
    until(lambda: first.events("ended"))
    assert first.events("ended")[0]["how"] == "lost"
    assert [served.end() for served in (first, second)] == [0, 0]
    assert_as_undisturbed(url, undisturbed)
