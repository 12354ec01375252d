"""The verbs as a person types them: what they say, what they change, and how they exit."""

import json
import threading

import optuna
import pytest
from db_cases import make_study
from optuna.trial import TrialState

from db.queue import claim, finish
from db.rows import study_row
from db.session import Database
from db.studies import get_study
from searchsvc.cli.app import run
from searchsvc.storage import optuna_storage
from studies.main_study import DIRECTIONS


@pytest.fixture
def db(database_url: str) -> str:
    return database_url


@pytest.fixture
def database(db: str):
    with Database.open(db) as opened:
        make_study(opened)
        yield opened


def verb(db: str, *words: str) -> int:
    return run(["study", *words, "--db", db])


def end(database: Database, status: str, **facts) -> None:
    finish(database, claim(database, "one", owner="far:1:1", seconds=60, reopen=True), status, **facts)


@pytest.mark.parametrize(
    ("words", "after", "said"),
    [
        (["pause"], "paused", "one: paused"),
        (["cancel"], "cancelled", "one: cancelled"),
        (["stop"], "queued", "one: ends with its best so far when it is taken next"),
    ],
)
def test_a_study_that_nobody_runs(db, database, capsys, words, after, said) -> None:
    assert verb(db, *words, "one") == 0
    assert said in capsys.readouterr().err
    assert get_study(database, "one").status == after


@pytest.mark.parametrize("what", ["pause", "stop", "cancel"])
def test_a_study_that_somebody_runs_hears_of_it(db, database, capsys, what) -> None:
    claim(database, "one", owner="far:1:1", seconds=60)
    assert verb(db, what, "one") == 0
    assert "one: " in capsys.readouterr().err
    study = get_study(database, "one")
    assert (study.status, study.request) == ("running", what)


def test_resume_queues_it_again(db, database, capsys) -> None:
    assert verb(db, "pause", "one") == verb(db, "resume", "one") == 0
    assert capsys.readouterr().err.splitlines() == ["one: paused", "one: queued"]


@pytest.mark.parametrize(
    "words", [["pause"], ["stop"], ["cancel"], ["resume"], ["retry"], ["retry", "--failed"]]
)
def test_what_is_done_is_left_alone_with_one_line(db, database, capsys, words) -> None:
    end(database, "done")
    assert verb(db, *words, "one") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "study one is done" in line.replace("'", "")
    assert get_study(database, "one").status == "done"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_retry_queues_what_failed_or_was_cancelled(db, database, capsys, status) -> None:
    end(database, status, error="no memory" if status == "failed" else None)
    assert verb(db, "retry", "one") == 0
    assert capsys.readouterr().err == "one: queued\n"
    study = get_study(database, "one")
    assert (study.status, study.error) == ("queued", None)


def failing_trials(database: Database) -> optuna.Study:
    study = optuna.create_study(study_name="one", storage=optuna_storage(database), directions=DIRECTIONS)
    attrs = {"key": "k", "method": "fastv", "schedule": {"label": "fastv: K=2"}}
    good = {"state": TrialState.COMPLETE, "values": [0.75, 0.5]}
    for facts in (good, {"state": TrialState.FAIL}):
        trial = optuna.create_trial(user_attrs=attrs | {"reason": "worker-1 is gone"}, **facts)
        study.add_trial(trial)
    return study


def test_retry_failed_notes_which_trials_are_tried_again(db, database, capsys) -> None:
    study = failing_trials(database)
    end(database, "done", outcome={"meets_goal": True, "summary": "one: found"})
    assert verb(db, "retry", "one", "--failed") == 0
    assert capsys.readouterr().err == "one: queued; trials that had failed and are tried again: 1\n"
    assert study.user_attrs["retried"] == [1]
    assert get_study(database, "one").status == "queued"
    claim(database, "one", owner="far:1:1", seconds=60)
    assert verb(db, "retry", "one", "--failed") == 2
    assert "no failed schedule" in capsys.readouterr().err


OUTCOME = {
    "meets_goal": False,
    "summary": "one: nothing cheaper",
    "closest": ["trial 3 (x): 0.0100 too much"],
}


@pytest.mark.parametrize(
    ("status", "facts", "code", "said"),
    [
        ("done", {"outcome": {"meets_goal": True, "summary": "one: found"}}, 0, ["one: done", "one: found"]),
        ("done", {"outcome": OUTCOME}, 5, ["closest: trial 3 (x): 0.0100 too much", "searchsvc: one: nothing cheaper"]),
        ("failed", {"error": "no memory"}, 2, ["searchsvc: study one failed: no memory"]),
        ("cancelled", {}, 130, ["one: cancelled"]),
    ],
)  # fmt: skip
def test_wait_waits_and_exits_as_the_run_would_have(db, database, capsys, status, facts, code, said) -> None:
    timer = threading.Timer(1.2, end, (database, status), facts)
    timer.start()
    assert verb(db, "wait", "one") == code
    assert not timer.is_alive()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "one: queued"
    for line in said:
        assert line in lines


@pytest.mark.parametrize("output", ["json", "table", "csv", "yaml"])
def test_tail_prints_trials_until_the_end(db, database, capsys, output) -> None:
    timer = threading.Timer(1.2, lambda: (failing_trials(database), end(database, "done")))
    timer.start()
    assert verb(db, "tail", "one", "--output", output) == 0
    timer.join()
    shown = capsys.readouterr().out.splitlines()
    if output == "json":
        rows = [json.loads(line) for line in shown]
        assert [(row["trial"], row["state"], row["accuracy"]) for row in rows] == [
            (0, "complete", 0.75),
            (1, "fail", None),
        ]
        assert rows[1]["reason"] == "worker-1 is gone"
    elif output == "table":
        assert shown[0].startswith("0  complete  fastv: K=2  0.7500  0.5000")
    elif output == "csv":
        assert shown[0] == "trial,state,schedule,accuracy,flops_ratio,reason"
        assert len(shown) == 3
    else:
        assert [line for line in shown if line.startswith("- ")] == ["- trial: 0", "- trial: 1"]


def test_preflight_finds_what_would_fail(db, tiny_model, tiny_manifest, capsys) -> None:
    manifest = tiny_manifest.with_name("own.jsonl")
    manifest.write_text(tiny_manifest.read_text())
    given = ["--model", str(tiny_model), "--data", str(manifest), "--metric", "fidelity", "--method", "fastv"]
    assert verb(db, "create", "one", *given, "--batch-size", "4", "--hours", "1e-9") == 0
    capsys.readouterr()

    def checks(status: int):
        assert verb(db, "preflight", "one", "--output", "json") == status
        return {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}

    found = checks(0)
    assert list(found) == ["database", "data and model", "one forward", "memory", "hours"]
    assert "12 search and 8 test samples" in found["data and model"]["found"]
    assert "LlavaForConditionalGeneration" in found["one forward"]["found"]
    assert "GiB" in found["memory"]["found"]
    assert "the limit of 1e-09 hours ends it earlier" in found["hours"]["found"]
    with Database.open(db) as database, database.begin() as session:
        row = study_row(session, "one")
        row.spec = row.spec | {"workers": row.spec["workers"] | {"cache_memory": 2**50}}
    assert not checks(2)["memory"]["ok"]
    manifest.write_text("".join(tiny_manifest.read_text().splitlines(keepends=True)[1:]))
    found = checks(2)
    assert list(found) == ["database", "data and model"]
    assert "changed since the study was created" in found["data and model"]["found"]


def test_clone_is_the_same_spec_with_changes(db, tiny_study, capsys) -> None:
    assert verb(db, "create", "one", *tiny_study, "--method", "p-sigmoid", "--batch-size", "4") == 0
    changes = ["--set", "search.trials=40", "--set", "goal.max_drop=0.2", "--priority", "3"]
    assert verb(db, "clone", "one", "two", *changes) == 0
    assert "two: p-sigmoid" in capsys.readouterr().err
    with Database.open(db) as database:
        one, two = get_study(database, "one"), get_study(database, "two")
    assert (two.status, two.priority, one.priority) == ("queued", 3, 0)
    changed = one.spec | {
        "name": "two",
        "search": one.spec["search"] | {"trials": 40},
        "goal": one.spec["goal"] | {"max_drop": 0.2},
    }
    assert two.spec == changed
    for bad, said in (
        (["one", "two"], "already"),
        (["on", "three"], "did you mean 'one'"),
        (["one", "three", "--set", "search.trails=3"], "trails"),
        (["one", "three", "--set", "search.trials"], "KEY=VALUE"),
    ):
        assert verb(db, "clone", *bad) == 2
        assert said in capsys.readouterr().err
