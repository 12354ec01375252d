"""What `study create` stores: everything resolved, so that the study can run from anywhere."""

import json
from pathlib import Path

import pytest

from db.session import Database
from db.studies import get_study
from searchsvc.cli.app import run

SPEC = """\
name: written
model: {{id: {model}}}
data: {{path: {data}, metric: fidelity}}
search: {{method: p-sigmoid, budgets: [0.5], trials: 7}}
workers: {{batch_size: 4}}
"""


def stored(db: Path, name: str) -> dict:
    with Database.open(f"sqlite:///{db}") as database:
        return get_study(database, name).spec


def test_local_paths_are_stored_absolute(
    tmp_path: Path, tiny_model: Path, tiny_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "data").symlink_to(tiny_manifest.parent)
    monkeypatch.chdir(tmp_path)
    given = ["--model", "model", "--data", "data/manifest.jsonl", "--method", "vtw", "--metric", "fidelity"]
    assert run(["study", "create", "near", *given, "--db", "x.db"]) == 0
    spec = stored(tmp_path / "x.db", "near")
    assert spec["model"]["id"] == str(tmp_path / "model")
    assert spec["data"]["path"] == str(tmp_path / "data" / "manifest.jsonl")


def test_flags_win_over_the_file_and_defaults_are_filled_in(
    tmp_path: Path, tiny_model: Path, tiny_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(model=tiny_model, data=tiny_manifest))
    flags = ["--spec", str(path), "--seed", "3", "-O", "trials=5", "--max-drop", "0.05"]
    assert run(["study", "create", *flags, "--db", str(tmp_path / "x.db")]) == 0
    said = capsys.readouterr().err
    assert "12 search and 8 test samples" in said
    assert "minutes" in said
    spec = stored(tmp_path / "x.db", "written")
    assert (spec["search"]["trials"], spec["search"]["seed"], spec["search"]["sampler"]) == (5, 3, "skopt-ei")
    assert spec["search"]["budgets"] == [0.5]
    assert spec["goal"]["max_drop"] == 0.05
    assert spec["workers"] == {
        "count": 1,
        "gpus_per_worker": 0.0,
        "batch_size": 4,
        "threads": 1,
        "parallel_trials": 1,
        "batch_timeout": 1800.0,
        "cache_memory": None,
    }


def test_goals_by_flag_win_over_the_file_and_say_that_the_front_is_timed(
    tmp_path: Path, tiny_model: Path, tiny_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.yaml"
    written = SPEC.format(model=tiny_model, data=tiny_manifest)
    path.write_text(written + "goal: {max_drop: 0.3, max_latency_ratio: 0.9}\n")
    goals = ["--goal", "max-latency-ratio=0.7", "--goal", "max-drop=0.2"]
    assert run(["study", "create", "--spec", str(path), *goals, "--db", str(tmp_path / "x.db")]) == 0
    assert "and then the timing of its front" in capsys.readouterr().err
    goal = {"max_drop": 0.2, "max_latency_ratio": 0.7}
    assert stored(tmp_path / "x.db", "written")["goal"] == goal
    off = ["study", "create", "off", "--spec", str(path), "--goal", "max-latency-ratio=null"]
    assert run([*off, "--db", str(tmp_path / "x.db")]) == 0
    assert "timing" not in capsys.readouterr().err
    assert stored(tmp_path / "x.db", "off")["goal"] == {"max_drop": 0.3, "max_latency_ratio": None}


def test_the_metric_is_the_one_that_the_rows_name(
    tmp_path: Path, tiny_model: Path, tiny_manifest: Path
) -> None:
    manifest = tiny_manifest.with_name("fidelity.jsonl")
    rows = [json.loads(line) | {"metric": "fidelity"} for line in tiny_manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", str(tiny_model), "--data", str(manifest), "--method", "vtw"]
    assert run(["study", "create", "own", *given, "--db", str(tmp_path / "x.db")]) == 0
    assert stored(tmp_path / "x.db", "own")["data"]["metric"] == "fidelity"


def test_the_demo_model_has_the_same_defaults_from_a_file_and_from_flags(
    tmp_path: Path, tiny_manifest: Path
) -> None:
    spec = tmp_path / "demo.yaml"
    spec.write_text(
        f"name: file\nmodel: {{id: demo}}\ndata: {{path: {tiny_manifest}}}\nsearch: {{method: vtw}}\n"
    )
    from searchsvc.creation import _spec

    from_file, from_both = _spec(spec, {}, []), _spec(spec, {"search.seed": 0}, [])
    assert from_file == from_both
    assert from_file.max_new_tokens == 1
