"""The note and figures of a study in the dashboard: up to date while it runs, rarely written, never without the lease."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from napping import nap, queue_study
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from db import queue, studies
from db.errors import LeaseLost
from db.owners import current_owner
from db.session import Database
from searchsvc import showcase
from searchsvc.controller import run_study
from searchsvc.demo.data import write
from searchsvc.points import on_front
from searchsvc.progress import Standing, Told
from searchsvc.showcase import MOST_OF_TIME, PAUSE, Showcase
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject, subject_of
from studies.driver import SearchResult
from studies.measured import Measured


def study_in(database: Database) -> optuna.Study:
    return optuna.load_study(study_name="one", storage=optuna_storage(database))


def figures(study: optuna.Study) -> dict[str, Any]:
    stored = get_plotly_graph_objects(study._storage.get_study_system_attrs(study._study_id))
    return {name: json.loads(text) for name, text in stored.items()}


@dataclass
class Run:
    """A study that was run to its end, its figures written after every trial."""

    database: Database
    result: SearchResult
    #: after each trial: how many are done, what the note says, and how many are drawn
    seen: list[tuple[int, str, int]]

    @property
    def subject(self) -> Subject:
        return subject_of(studies.get_study(self.database, "one"))

    @property
    def points(self) -> list[Measured]:
        return self.result.evaluations


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("study")
    write(folder, search=8, test=1)
    url = f"sqlite:///{folder / 'studies.db'}"
    queue_study(url, folder / "manifest.jsonl")
    seen: list[tuple[int, str, int]] = []
    with Database.open(url) as database, pytest.MonkeyPatch.context() as patch:
        nap(patch.setattr)
        patch.setattr(showcase, "PAUSE", 0.0)
        patch.setattr(showcase, "MOST_OF_TIME", 1.0)

        def look(now: Standing) -> None:
            study = study_in(database)
            drawn = figures(study).get("hypervolume", {"data": [{"x": []}]})["data"][0]["x"]
            seen.append((now.done, get_note(study), len(drawn)))

        told = Told(trial=look, timed=lambda _done, _all: None)
        result = run_study(database, "one", told=told)
        patch.undo()
        yield Run(database, result, seen)


def test_a_study_is_shown_while_it_runs(ran: Run) -> None:
    counts = [drawn for _, _, drawn in ran.seen]
    assert counts == sorted(counts)
    assert len(set(counts)) > 10
    done, text, drawn = ran.seen[-1]
    assert f"{drawn} of about" in text
    assert "the best so far is trial" in text
    assert done > drawn > 10


def test_an_ended_study_is_shown_whole(ran: Run) -> None:
    study, result = study_in(ran.database), ran.result
    text, shown = get_note(study), figures(study)
    assert studies.get_study(ran.database, "one").outcome["summary"] in text
    assert "`demo` (sha256 " in text
    assert "searchsvc profile export one --max-drop" in text
    assert all(f"| {member.number} | {member.method} |" in text for member in result.front)
    assert study.metric_names == ["accuracy", "flops_ratio"]
    assert set(shown) == {"front", "hypervolume", "schedule"}
    assert shown["hypervolume"]["data"][0]["y"][-1] == pytest.approx(result.hypervolume)
    assert len(shown["schedule"]["data"]) == min(8, len(result.front))
    traces = {trace["name"]: trace for trace in shown["front"]["data"]}
    assert {"baseline", "random", "uniform", "Pareto front"} <= set(traces)
    assert len(traces["Pareto front"]["error_y"]["arrayminus"]) == len(result.front)
    assert len(traces["baseline"]["error_y"]["array"]) == 1


class Clock:
    """Goes on only when told, and by `cost` while the figures are written."""

    def __init__(self) -> None:
        self.now, self.cost = 1000.0, 0.0

    def __call__(self) -> float:
        return self.now


def test_it_is_written_once_in_a_pause_and_takes_little_of_the_time(
    ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, written = Clock(), list[str]()
    made = Showcase(ran.database, optuna_storage(ran.database), ran.subject, clock=clock)

    def publish(points: Any, verdict: str, latencies: Any) -> None:
        written.append(verdict)
        clock.now += clock.cost

    monkeypatch.setattr(made, "publish", publish)

    def update_after(seconds: float, verdict: str) -> bool:
        clock.now += seconds
        made.update(ran.points, verdict)
        return written[-1:] == [verdict]

    assert not update_after(0, "at the start")
    assert not update_after(PAUSE - 0.1, "too early")
    assert update_after(0.1, "first")
    assert not update_after(PAUSE - 0.1, "too early again")
    clock.cost = 1.0
    assert update_after(0.1, "a slow one")
    assert not update_after(1 / MOST_OF_TIME - 0.1, "too soon after a slow one")
    assert update_after(0.1, "after a slow one")


def test_schedules_are_drawn_again_only_when_the_front_has_changed(
    ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, saved = Showcase(ran.database, optuna_storage(ran.database), ran.subject), list[str]()
    monkeypatch.setattr(made, "_save", lambda part, figure: saved.append(part))
    made.publish(ran.points, "now", {})
    assert saved == ["front", "hypervolume", "schedule"]
    made.publish(ran.points, "then", {})
    assert saved[3:] == ["front", "hypervolume"]
    made.publish([point for point in ran.points if point != on_front(ran.points)[-1]], "later", {})
    assert saved[5:] == ["front", "hypervolume", "schedule"]


def test_nothing_is_written_without_the_lease(ran: Run) -> None:
    database = ran.database
    lease = queue.claim(database, "one", owner=current_owner(), seconds=60, reopen=True)
    made = Showcase(database, optuna_storage(database, lease), ran.subject)
    made.publish(ran.points, "Held", {})
    assert "\nHeld.\n" in get_note(study_in(database))
    queue.claim(database, "one", owner="far:1:1", seconds=60, is_dead=lambda _: True)
    with pytest.raises(LeaseLost):
        made.publish(ran.points, "Lost", {})
    assert "\nHeld.\n" in get_note(study_in(database))


def test_who_has_lost_a_study_does_not_show_it_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nap(monkeypatch.setattr)
    monkeypatch.setattr(showcase, "PAUSE", 0.0)
    monkeypatch.setattr(showcase, "MOST_OF_TIME", 1e9)  # shown at every trial, however slow this machine is
    write(tmp_path, search=8, test=1)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    queue_study(url, tmp_path / "manifest.jsonl")
    with Database.open(url) as database:

        def take_over(now: Standing) -> None:
            if now.done == 3:
                queue.claim(database, "one", owner="far:1:1", seconds=60, is_dead=lambda _: True)

        with pytest.raises(LeaseLost):
            run_study(database, "one", told=Told(trial=take_over, timed=lambda _done, _all: None))
        assert get_note(study_in(database)).count("2 of about") == 1
