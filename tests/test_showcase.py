"""What the dashboard shows of a study, as trials arrive: pushed seldom, all at once, and only under the lease."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from db_cases import make_study
from here_cluster import HereCluster
from optuna_dashboard import get_note
from test_guard import Answer

from db import queue, results, studies
from db.errors import LeaseLost
from db.session import Database
from db.values import Lease
from pruners import Pruning
from pruners.pruning import KeepSchedule
from pruners.rankers import UniformRanker
from searchsvc import controller, executor, showcase
from searchsvc.attributes import write_attributes
from searchsvc.cli.app import run
from searchsvc.controller import run_study
from searchsvc.dashboard import application
from searchsvc.figures import front_figure, hypervolume_figure, schedule_figure
from searchsvc.points import on_front
from searchsvc.queries import show_study
from searchsvc.showcase import Showcase
from searchsvc.storage import optuna_storage
from searchsvc.subject import subject_of
from studies.front import hypervolume
from studies.intervals import Interval
from studies.measured import Measured

FIGURES = {"front", "schedule", "hypervolume"}


def point(
    number: int, flops: float, accuracy: float, method: str = "fastv", label: str = "r=0.5"
) -> Measured:
    pruning = Pruning(ranker=UniformRanker(), schedule=KeepSchedule(keep_rates=(1.0, flops)))
    return Measured(
        number=number, key=f"k{number}", method=method, label=label, params={}, accuracy=accuracy,
        pruning=None if method == "baseline" else pruning, flops_ratio=flops, kv_ratio=flops, vision_token_ratio=flops,
        tokens_per_layer=(4.0, 4 * flops), samples=8,
    )  # fmt: skip


POINTS = [
    point(0, 1.0, 0.9, "baseline"),
    point(1, 0.5, 0.8),
    point(2, 0.6, 0.7),
    point(3, 0.5, 0.85),
    point(4, 0.2, 0.4, "random"),
]
INTERVALS = {
    p.key: Interval(low=p.accuracy - 0.1, estimate=p.accuracy, high=p.accuracy + 0.05, level=0.95)
    for p in POINTS
}


def test_the_front_has_bars_and_no_pruning_a_band() -> None:
    figure = front_figure(POINTS, "t", INTERVALS)
    assert [trace.name for trace in figure.data] == ["baseline", "fastv", "random", "Pareto front"]
    front = figure.data[-1]
    assert (list(front.x), list(front.y)) == ([0.2, 0.5, 1.0], [0.4, 0.85, 0.9])
    assert list(front.error_y.array) == [0.05] * 3
    assert list(front.error_y.arrayminus) == [0.1] * 3
    line, band = figure.layout.shapes
    assert (line.y0, line.y1, band.y0, band.y1) == (0.9, 0.9, 0.8, 0.95)
    without = front_figure(POINTS, "t")
    assert without.data[-1].error_y.array is None
    assert len(without.layout.shapes) == 1


def test_hypervolume_grows_by_steps_to_the_fronts_own() -> None:
    (trace,) = hypervolume_figure(POINTS, "t").data
    assert list(trace.x) == [1, 3, 4] or list(trace.x) == [0, 1, 3, 4]
    assert trace.y[-1] == pytest.approx(hypervolume([p.point for p in POINTS]))
    assert list(trace.y) == sorted(trace.y)
    (flat,) = hypervolume_figure([*POINTS, point(5, 0.9, 0.1)], "t").data
    assert flat.x[-1] == 5
    assert flat.y[-1] == flat.y[-2]


def test_lines_of_one_method_can_be_told_apart() -> None:
    colours = [trace.line.color for trace in schedule_figure([*POINTS[1:4:2], point(6, 0.3, 0.5)], "t").data]
    assert len(set(colours)) > 1
    assert [trace.line.color for trace in schedule_figure([POINTS[1], POINTS[4]], "t").data] == [
        "#e07b39",
        "#9e9e9e",
    ]


def test_figures_stay_small() -> None:
    many = [point(0, 1.0, 0.9, "baseline")] + [
        point(n, n / 1001, n % 17 / 17, label="x" * 100) for n in range(1, 1000)
    ]
    assert len(front_figure(many, "t").to_json()) < 60_000
    texts = [text for trace in front_figure(many, "t").data for text in trace.text or ()]
    assert sum(text.endswith("x") for text in texts) == len(on_front(many))
    assert len(hypervolume_figure(many, "t").to_json()) < 40_000


@pytest.fixture
def leased(database: Database) -> Lease:
    make_study(database)
    optuna.create_study(study_name="one", storage=optuna_storage(database))
    return queue.claim(database, "one", owner="me", seconds=60)


def attributes(database: Database) -> dict[str, Any]:
    storage = optuna_storage(database)
    return storage.get_study_system_attrs(storage.get_study_id_from_name("one"))


def test_attributes_are_read_by_optuna_as_written(database: Database, leased: Lease) -> None:
    number = optuna_storage(database).get_study_id_from_name("one")
    optuna_storage(database).set_study_system_attr(number, "there", "before")
    write_attributes(database, leased, number, {"there": "ä" * 2045, "new": 1})
    write_attributes(database, leased, number, {"new": {"a": [1.5, None]}})
    write_attributes(database, leased, number, {})
    assert attributes(database) == {"there": "ä" * 2045, "new": {"a": [1.5, None]}}
    optuna_storage(database).set_study_system_attr(number, "new", 2)
    assert attributes(database)["new"] == 2


def test_without_the_lease_none_is_written(database: Database, leased: Lease) -> None:
    number = optuna_storage(database).get_study_id_from_name("one")
    queue.release(database, leased)
    with pytest.raises(LeaseLost):
        write_attributes(database, leased, number, {"new": 1})
    assert attributes(database) == {}


@pytest.fixture
def created(
    database: Database, database_url: str, tiny_model: Path, tiny_manifest: Path, monkeypatch: Any
) -> Database:
    """A database with a study that is queued, and workers that are threads."""
    monkeypatch.setattr(executor, "Cluster", HereCluster)
    about = ["--model", tiny_model, "--data", tiny_manifest, "--metric", "fidelity", "--batch-size", 4]
    search = ["--method", "fastv", "-O", "layers=[2, 4]", "-O", "ratios=[0.5, 0.75]", "--max-drop", 0.9]
    assert run([*map(str, ["study", "create", "one", *about, *search]), "--db", database_url]) == 0
    return database


def shown(database: Database) -> dict[str, Any]:
    """What the dashboard gets of the study."""
    storage = optuna_storage(database)
    number = storage.get_study_id_from_name("one")
    detail = json.loads(Answer(application(database), "GET", f"/api/studies/{number}").body)
    return detail | {
        "figures": {g["id"]: json.loads(g["graph_object"]) for g in detail["plotly_graph_objects"]}
    }


def test_a_finished_study_is_shown_with_note_names_and_figures(created: Database) -> None:
    result = run_study(created, "one")
    detail = shown(created)
    assert detail["objective_names"] == ["accuracy", "flops_ratio"]
    assert set(detail["figures"]) == FIGURES
    assert "error_y" in detail["figures"]["front"]["data"][-1]
    assert detail["figures"]["hypervolume"]["data"][0]["y"][-1] == pytest.approx(result.hypervolume, abs=1e-5)
    note = detail["note"]["body"]
    best = show_study(created, "one")["best"]
    for said in (
        "Method `fastv`", "metric `fidelity`", "12 `search` samples", f"**trial {best['trial']}**", "meets the goal",
        "searchsvc profile export one --max-drop 0.9",
    ):  # fmt: skip
        assert said in note
    version = detail["note"]["version"]
    run_study(created, "one")
    assert shown(created)["note"]["version"] == version


def test_figures_arrive_while_the_study_runs(created: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third trial waits until the dashboard has shown the second: no push at the end could do that."""
    monkeypatch.setattr(controller, "Showcase", lambda *given: Showcase(*given, period=0.01))
    seen: list[int] = []

    def told(standing: Any) -> None:
        deadline = time.monotonic() + 30
        while standing.done == 3 and not seen:
            study = optuna.load_study(study_name="one", storage=optuna_storage(created))
            if "After 3 schedules" in get_note(study):
                seen.append(len(shown(created)["figures"]))
            assert time.monotonic() < deadline
            time.sleep(0.01)

    run_study(created, "one", told=controller.Told(trial=told, timed=lambda *_: None))
    assert seen == [len(FIGURES)]


def test_pushes_are_seldom(created: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of milliseconds is shown when it begins and when it ends, however many trials it has."""
    pushes = []
    real = showcase.write_attributes
    monkeypatch.setattr(showcase, "write_attributes", lambda *given: pushes.append(given) or real(*given))
    run_study(created, "one")
    assert 1 <= len(pushes) <= 3


def test_no_trial_waits_for_a_push(created: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    study = studies.get_study(created, "one")
    lease = queue.claim(created, "one", owner="me", seconds=60)
    optuna.create_study(
        study_name="one", storage=optuna_storage(created), directions=["maximize", "minimize"]
    )
    begun, go_on = threading.Event(), threading.Event()
    real = showcase.write_attributes

    def slow(*given: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        real(*given)

    monkeypatch.setattr(showcase, "write_attributes", slow)
    with Showcase(created, subject_of(study), lease) as case:
        case.show(POINTS[:2])
        assert begun.wait(30)
        case.show(POINTS)  # comes back at once, though a push is under way
        go_on.set()
    assert len(shown(created)["figures"]["front"]["data"]) == 4, "the newest is there in the end"


def test_a_lost_lease_ends_it_and_nothing_is_overwritten(created: Database) -> None:
    run_study(created, "one")
    before = shown(created)
    study = studies.get_study(created, "one")
    lease = queue.claim(created, "one", owner="me", seconds=60, reopen=True)
    queue.release(created, lease)
    case = Showcase(created, subject_of(study), lease, period=0)

    def push() -> None:
        with case:
            for _ in range(3):
                case.show(POINTS)
                time.sleep(0.05)

    with pytest.raises(LeaseLost):
        push()
    assert shown(created)["figures"] == before["figures"]


def test_what_ends_a_study_is_not_hidden(created: Database) -> None:
    study = studies.get_study(created, "one")
    lease = queue.claim(created, "one", owner="me", seconds=60)
    optuna.create_study(
        study_name="one", storage=optuna_storage(created), directions=["maximize", "minimize"]
    )
    queue.release(created, lease)

    def interrupted() -> None:
        with Showcase(created, subject_of(study), lease) as case:
            case.show(POINTS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_intervals_are_those_of_the_stored_scores(created: Database) -> None:
    run_study(created, "one")
    front = shown(created)["figures"]["front"]
    (baseline,) = [e.evaluation for e in results.evaluations(created, "one") if e.evaluation.pruning is None]
    from studies.intervals import interval

    band = front["layout"]["shapes"][1]
    found = interval(baseline.scores)
    assert (band["y0"], band["y1"]) == (
        pytest.approx(found.low, abs=1e-5),
        pytest.approx(found.high, abs=1e-5),
    )
