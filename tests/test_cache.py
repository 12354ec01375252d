"""`searchsvc cache` on a study that ran: the key explained from the real content, what is shown, what goes."""

import csv
import hashlib
import io
import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from here_cluster import HereCluster

from db import results
from db.session import Database
from db.studies import create_study, delete_study, get_study
from searchsvc import executor
from searchsvc.cli.app import run
from searchsvc.controller import run_study
from searchsvc.points import measured_in
from searchsvc.storage import optuna_storage
from searchsvc.subject import read_subject, stored_spec
from studies.measured import Measured


def create(name: str, db: Path, model: Path, manifest: Path) -> None:
    """Queue a study of a few evaluations: no pruning, two schedules, and chance at the better one."""
    given = [
        "--model",
        model,
        "--data",
        manifest,
        "--metric",
        "fidelity",
        "--batch-size",
        4,
        "--max-drop",
        0.9,
    ]
    search = ["--method", "fastv", "-O", "layers=[2, 4]", "-O", "ratios=[0.5]"]
    assert run(["study", "create", name, *map(str, [*given, *search]), "--db", str(db)]) == 0


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_manifest: Path) -> Path:
    """A database with two studies that share their evaluations; the second was created and ran later."""
    db = tmp_path_factory.mktemp("cache") / "studies.db"
    with pytest.MonkeyPatch.context() as patch, Database.open(f"sqlite:///{db}") as database:
        patch.setattr(executor, "Cluster", HereCluster)
        for name in ("one", "two"):
            create(name, db, tiny_model, tiny_manifest)
            run_study(database, name)
    return db


def points(db: Path, name: str = "one") -> list[Measured]:
    with Database.open(f"sqlite:///{db}") as database:
        return measured_in(optuna.load_study(study_name=name, storage=optuna_storage(database)))


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, output: str = "json") -> Any:
    capsys.readouterr()
    assert run([*map(str, arguments), "--output", output]) == 0
    text = capsys.readouterr().out
    return yaml.safe_load(text) if output in ("json", "yaml") else text


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_what_is_explained_hashes_to_the_key(
    ran: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = points(ran)
    assert len({point.method for point in told}) >= 4
    for point in told:
        record = shown(capsys, "cache", "explain", "one", point.number, "--db", ran, output=output)
        text = json.dumps(record["content"], sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest() == record["key"] == point.key
        assert (record["in_database"], record["studies"]) == (True, ["one", "two"])


def test_the_explanation_says_what_was_evaluated(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Database.open(f"sqlite:///{ran}") as database:
        study = get_study(database, "one")
    subject = read_subject(stored_spec(study))
    seen = set()
    for point in points(ran):
        content = shown(capsys, "cache", "explain", "one", point.number, "--db", ran)["content"]
        assert content["model"] == subject.model.fingerprint
        assert content["dataset"] == subject.search.sha256 != study.dataset.sha256
        assert (content["split"], content["metric"]) == ("search", "fidelity")
        assert content["settings"] == asdict(subject.settings)
        effect = content["pruning"]
        if point.pruning is None:
            assert effect is None
            continue
        assert effect["tokens"] == {"16": list(point.pruning.schedule.counts(16))}
        assert effect["position_ids"] == "keep"
        assert effect["ranker"] == point.pruning.ranker.model_dump(mode="json")
        assert effect["recovery"] is None
        seen.add(effect["ranker"]["type"])
    assert seen == {"attention", "random", "uniform"}


def test_a_table_explains_every_part_in_a_line(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = shown(capsys, "cache", "explain", "one", 1, "--db", ran)
    lines = csv.DictReader(
        io.StringIO(shown(capsys, "cache", "explain", "one", 1, "--db", ran, output="csv"))
    )
    rows = {row["field"]: row["value"] for row in lines}
    assert rows["key"] == record["key"]
    assert json.loads(rows["content.pruning.tokens.16"]) == record["content"]["pruning"]["tokens"]["16"]
    assert {f"content.settings.{name}" for name in record["content"]["settings"]} < rows.keys()


def test_a_running_trial_is_explained_before_it_is_in_the_database(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = copied(ran, tmp_path)
    key, number = points(db)[1].key, len(points(db))
    with Database.open(f"sqlite:///{db}") as database:
        main = optuna.load_study(study_name="one", storage=optuna_storage(database))
        attrs = main.trials[1].user_attrs
        main.add_trial(optuna.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attrs))
        with database.begin() as session:
            for statement in (
                "DELETE FROM ss_study_evaluations WHERE evaluation_id IN"
                f" (SELECT id FROM ss_evaluations WHERE key = '{key}')",
                f"DELETE FROM ss_evaluations WHERE key = '{key}'",
            ):
                session.connection().exec_driver_sql(statement)
    record = shown(capsys, "cache", "explain", "one", number, "--db", db)
    assert (record["key"], record["in_database"], record["studies"]) == (key, False, [])


def delete(db: Path, *names: str) -> None:
    with Database.open(f"sqlite:///{db}") as database:
        for name in names:
            delete_study(database, name)


def copied(db: Path, folder: Path) -> Path:
    """The database in one file of its own."""
    there = sqlite3.connect(folder / "copy.db")
    here = sqlite3.connect(db)
    here.backup(there)
    here.close()
    there.close()
    return folder / "copy.db"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no", "0"], "no study 'no'"),
        (["one", "99"], "study one has no trial 99: its trials are 0 to"),
        (["one", "-1"], "-1"),
        (["one", "first"], "'trial'"),
        (["queued", "0"], "study queued has no trial yet; run it with: searchsvc study run queued"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(
    ran: Path, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    db = copied(ran, tmp_path)
    with Database.open(f"sqlite:///{db}") as database:
        study = get_study(database, "one")
        create_study(database, "queued", study.spec, model=study.model, dataset=study.dataset)
    refused(capsys, ["cache", "explain", *arguments, "--db", str(db)], said)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    capsys.readouterr()
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(
    ("changed", "said"),
    [("evaluator", "was made by another version of searchsvc (evaluator 3 here)"), ("data", "changed since")],
)
def test_another_key_is_never_explained_as_the_trials(
    ran: Path, changed: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if changed == "evaluator":
        monkeypatch.setattr("studies.keys.REVISION", 3)
    else:
        monkeypatch.setattr("studies.samples.Sample.sha256", "other")
    refused(capsys, ["cache", "explain", "one", "0", "--db", str(ran)], said)


def test_the_models_weights_are_not_read(
    ran: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchsvc.subject.fingerprint", None)
    assert shown(capsys, "cache", "explain", "one", 0, "--db", ran)["in_database"] is True


def test_show_counts_what_the_studies_evaluated(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (group,) = shown(capsys, "cache", "show", "--db", ran)["groups"]
    number = len({point.key for point in points(ran)})
    assert (group["evaluations"], group["unused"], group["studies"]) == (number, 0, 2)
    assert group["samples"] == 12 * number
    with Database.open(f"sqlite:///{ran}") as database:
        seconds = [used.evaluation.seconds for used in results.evaluations(database, "one")]
    assert group["seconds"] == pytest.approx(sum(seconds), abs=1e-3)
    assert (group["split"], group["metric"], len(group["fingerprint"]), len(group["dataset"])) == (
        "search", "fidelity", 64, 64,
    )  # fmt: skip
    assert group["first_made"] <= group["last_made"]
    table = shown(capsys, "cache", "show", "--db", ran, output="table")
    assert "Remembered: " in table
    assert group["fingerprint"][:12] in table
    assert group["fingerprint"] not in table.replace("\n", "")
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "cache", "show", "--db", ran, output="csv"))))
    assert [row["fingerprint"] for row in rows] == [group["fingerprint"]]
    assert (
        yaml.safe_load(json.dumps([group]))
        == shown(capsys, "cache", "show", "--db", ran, output="yaml")["groups"]
    )


#: arguments of `cache prune`, studies that are deleted first, whether the evaluations go
PRUNES = {
    "used by two": (["--unused"], (), False),
    "used by one": (["--unused"], ("one",), False),
    "used by none": (["--unused"], ("one", "two"), True),
    "used by none, too young": (["--older-than", "1"], ("one", "two"), False),
    "used by none, too young for one condition": (["--unused", "--older-than", "1"], ("one", "two"), False),
    "used by one, of the model": (["--model", "MODEL"], ("two",), False),
    "used by none, of the model": (["--model", "MODEL"], ("one", "two"), True),
    "used by none, tried": (["--unused", "--dry-run"], ("one", "two"), False),
}


@pytest.mark.parametrize("case", PRUNES)
def test_prune_deletes_only_what_no_study_uses(
    ran: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, deleted, goes = PRUNES[case]
    db = copied(ran, tmp_path)
    delete(db, *deleted)
    (before,) = shown(capsys, "cache", "show", "--db", db)["groups"]
    given = [before["fingerprint"][:12] if word == "MODEL" else word for word in arguments]
    capsys.readouterr()
    assert run(["cache", "prune", *given, "--db", str(db), "--output", "json"]) == 0
    out, err = capsys.readouterr()
    removed = json.loads(out)["groups"]
    number, tried = before["evaluations"], "--dry-run" in given
    if goes or tried:
        assert removed == [{name: before[name] for name in removed[0]}]
        assert f"{'would delete' if tried else 'deleted'} {number} evaluations of" in err
        assert f"{'would free' if tried else 'freed'} {before['bytes']:,} bytes" in err
    else:
        assert removed == []
        assert "deleted 0 evaluations" in err
    kept = len(deleted) < 2
    assert (f"kept, because a study uses them: {number}" in err) == kept
    assert shown(capsys, "cache", "show", "--db", db)["groups"] == ([] if goes else [before])


@pytest.fixture(scope="module")
def unused(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same memory without a study."""
    db = copied(ran, tmp_path_factory.mktemp("unused"))
    delete(db, "one", "two")
    return db


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to delete: --unused, --older-than DAYS or --model FINGERPRINT"),
        (["--dry-run"], "say what to delete"),
        (["--older-than", "0"], "--older-than"),
        (["--older-than", "soon"], "--older-than"),
        (["--older-than", "9" * 20], "--older-than"),
        (["--model", ""], "--model ''"),
        (["--model", "%%%%"], "4 to 64 hexadecimal digits"),
        (["--model", "abc"], "4 to 64 hexadecimal digits"),
        (["--model", "0" * 64], "no model's fingerprint begins with"),
        (["--unused", "--model", "0" * 64], "see `searchsvc cache show`"),
    ],
)
def test_prune_without_a_good_condition_deletes_nothing(
    unused: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shown(capsys, "cache", "show", "--db", unused)
    assert before["groups"][0]["unused"] == before["groups"][0]["evaluations"] > 0
    refused(capsys, ["cache", "prune", *arguments, "--db", str(unused)], said)
    assert shown(capsys, "cache", "show", "--db", unused) == before


def test_what_was_pruned_is_evaluated_again_and_the_same(
    ran: Path, tmp_path: Path, tiny_model: Path, tiny_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an evaluation goes between the look and the link of a study that is about to use it."""
    db = copied(ran, tmp_path)
    before = {point.key: (point.accuracy, point.flops_ratio) for point in points(db)}
    delete(db, "one", "two")
    create("three", db, tiny_model, tiny_manifest)
    find = results.find_evaluation

    def find_then_prune(database: Database, key: str) -> Any:
        found = find(database, key)
        if found is not None:
            assert run(["cache", "prune", "--unused", "--db", str(db)]) == 0
        return found

    monkeypatch.setattr(executor, "Cluster", HereCluster)
    monkeypatch.setattr(results, "find_evaluation", find_then_prune)
    with Database.open(f"sqlite:///{db}") as database:
        run_study(database, "three")
    after = points(db, "three")
    assert {point.key: (point.accuracy, point.flops_ratio) for point in after} == before
    with Database.open(f"sqlite:///{db}") as database:
        assert not any(used.cached for used in results.evaluations(database, "three"))
