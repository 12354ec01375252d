"""A study from its creation to its profile and its end, typed as a person types it, on every kind of database."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from db_cases import make_study
from here_cluster import HereCluster
from optuna.artifacts import get_all_artifact_meta

from db import results
from db.session import Database
from searchsvc import executor
from searchsvc.cli.app import run
from searchsvc.controller import run_study
from searchsvc.storage import optuna_storage


@pytest.fixture
def typed(database_url: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on the database; returns what it prints as JSON where it prints any."""

    def run_it(*words: object) -> Any:
        capsys.readouterr()
        assert run([*map(str, words), "--db", database_url]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        return json.loads(out) if out else None

    return run_it


def test_a_whole_study(
    typed: Any, database: Database, tiny_model: Path, tiny_manifest: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(executor, "Cluster", HereCluster)
    about = ["--model", tiny_model, "--data", tiny_manifest, "--metric", "fidelity", "--batch-size", 4]
    search = ["--method", "fastv", "-O", "layers=[2, 4]", "-O", "ratios=[0.5]", "--max-drop", 0.9]
    for name in ("one", "two"):
        typed("study", "create", name, *about, *search)
    run_study(database, "one")

    json_ = ("--output", "json")
    listed = typed("study", "list", *json_)["studies"]
    assert [(row["name"], row["status"]) for row in listed] == [("one", "done"), ("two", "queued")]
    trials = optuna.load_study(study_name="one", storage=optuna_storage(database)).trials
    shown = typed("study", "show", "one", *json_)
    assert listed[0]["evaluations"] == shown["trials"] == len(trials) > 5
    assert listed[1]["evaluations"] == 0
    points = typed("study", "front", "one", *json_)["points"]
    assert len(points) == shown["front_members"]
    (front,) = results.fronts(database, "one")
    assert {point["trial"] for point in points} == {member["trial"] for member in front.points}
    assert front.hypervolume == shown["hypervolume"]

    (group,) = typed("cache", "show", *json_)["groups"]
    assert (group["evaluations"], group["studies"]) == (len(trials), 1)
    assert typed("cache", "explain", "one", 1, *json_)["in_database"]
    profile = tmp_path / "profile.yaml"
    typed("profile", "export", "one", "--knee", "-o", profile)
    assert results.profiles(database, "one")[0].yaml == profile.read_text()
    (artifact,) = get_all_artifact_meta(optuna.load_study(study_name="one", storage=optuna_storage(database)))
    assert artifact.filename.startswith("one-")

    typed("study", "delete", "one", "--yes")
    assert [row["name"] for row in typed("study", "list", *json_)["studies"]] == ["two"]
    assert optuna.get_all_study_names(optuna_storage(database)) == []
    typed("cache", "prune", "--unused", *json_)
    assert typed("cache", "show", *json_)["groups"] == []


@pytest.mark.parametrize(
    ("words", "names", "said"),
    [
        ([], ["s0", "s1", "s2", "s3", "s4"], ""),
        (["--limit", 5], ["s0", "s1", "s2", "s3", "s4"], ""),
        (["--limit", 2], ["s0", "s1"], "studies 1 to 2 of 5; go on with --offset 2"),
        (["--limit", 2, "--offset", 3], ["s3", "s4"], "studies 4 to 5 of 5"),
        (["--offset", 4], ["s4"], "studies 5 to 5 of 5"),
        (["--offset", 9], [], "none of 5"),
    ],
    ids=str,
)
def test_pages(
    database: Database, database_url: str, capsys: Any, words: list, names: list, said: str
) -> None:
    for number in range(5):
        make_study(database, f"s{number}")
    assert run([*map(str, ["study", "list", *words]), "--output", "json", "--db", database_url]) == 0
    shown = capsys.readouterr()
    assert [row["name"] for row in json.loads(shown.out)["studies"]] == names
    assert shown.err.strip() == said
