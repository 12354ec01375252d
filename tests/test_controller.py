"""One study under its lease, on workers that sleep: what others ask of it is done, and an end is what it was."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from napping import nap, queue_study

from db import queue, results
from db.errors import LeaseLost
from db.owners import current_owner
from db.requests import request
from db.session import Database
from db.studies import get_study
from searchsvc import controller, watch
from searchsvc.controller import run_study
from searchsvc.demo.data import write
from searchsvc.errors import ClusterError, RequestedError
from searchsvc.points import measured_in
from searchsvc.progress import Told
from searchsvc.storage import optuna_storage


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, search=8, test=1)
    return folder / "manifest.jsonl"


@pytest.fixture
def database(empty_url: str, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    nap(monkeypatch.setattr)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.05)
    queue_study(empty_url, manifest)
    with Database.open(empty_url) as opened:
        yield opened


def at(done: int, act: Callable[[], Any]) -> Told:
    """Act once when so many trials are told."""
    return Told(trial=lambda now: act() if now.done == done else None, timed=lambda _done, _all: None)


def trials(database: Database, name: str = "one") -> list[Any]:
    points = measured_in(optuna.load_study(study_name=name, storage=optuna_storage(database)))
    return [(p.number, p.key, p.label, p.params, p.accuracy, p.flops_ratio) for p in points]


def status(database: Database) -> str:
    return get_study(database, "one").status


@pytest.mark.parametrize(("what", "after"), [("pause", "paused"), ("cancel", "cancelled")])
def test_paused_or_cancelled_it_ends_soon_and_run_again_it_is_the_undisturbed_study(
    database: Database, what: Any, after: str, tmp_path: Path, manifest: Path
) -> None:
    with pytest.raises(RequestedError, match=after):
        run_study(database, "one", told=at(5, lambda: request(database, "one", what)))
    assert status(database) == after
    before = trials(database)
    assert 5 <= len(before) < 40
    run_study(database, "one")
    assert status(database) == "done"
    queue_study(f"sqlite:///{tmp_path / 'other.db'}", manifest)
    with Database.open(f"sqlite:///{tmp_path / 'other.db'}") as other:
        run_study(other, "one")
        assert trials(database) == trials(other)
    assert trials(database)[: len(before)] == before


def test_stopped_it_is_done_with_its_best_so_far(database: Database) -> None:
    result = run_study(database, "one", told=at(5, lambda: request(database, "one", "stop")))
    assert result.limit_reached
    assert 5 <= len(result.evaluations) < 40
    study = get_study(database, "one")
    assert (study.status, study.request) == ("done", None)
    assert "stopped early" in study.outcome["summary"]
    assert results.fronts(database, "one")


def test_a_stop_of_a_queued_study_is_done_by_who_takes_it(database: Database) -> None:
    request(database, "one", "stop")
    result = run_study(database, "one")
    assert len(result.evaluations) == 1
    assert get_study(database, "one").status == "done"


def test_an_evaluation_that_takes_for_ever_is_left_when_the_study_is_paused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller.Evaluations, "seconds", 30.0)
    threading.Timer(0.5, request, (database, "one", "pause")).start()
    with pytest.raises(RequestedError, match="was paused"):
        run_study(database, "one")
    assert status(database) == "paused"


def test_a_study_that_was_taken_over_writes_nothing_more(database: Database) -> None:
    seen: list[int] = []

    def take_over() -> None:
        seen.append(len(trials(database)))
        queue.claim(database, "one", owner="far:1:1", seconds=60, is_dead=lambda _: True)

    with pytest.raises(LeaseLost):
        run_study(database, "one", told=at(5, take_over))
    assert len(trials(database)) == seen[0]
    assert get_study(database, "one").lease_owner == "far:1:1"


def test_a_cluster_that_is_out_of_reach_is_no_fault_of_the_study(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise ClusterError("Ray is out of reach")

    monkeypatch.setattr(controller.Evaluations, "_make_executor", fail)
    with pytest.raises(ClusterError):
        run_study(database, "one")
    assert (status(database), get_study(database, "one").error) == ("queued", None)
    lease = queue.claim_next(database, owner=current_owner(), seconds=60)
    assert lease is not None


def test_phases_add_up(database: Database) -> None:
    spent: dict[str, float] = {}
    told = Told(
        trial=lambda _: None,
        timed=lambda _done, _all: None,
        phase=lambda name, seconds: spent.update({name: spent.get(name, 0) + seconds}),
    )
    run_study(database, "one", told=told)
    assert set(spent) == {"starting", "asking", "evaluating", "writing"}
    assert all(seconds > 0.01 for seconds in spent.values())
