"""What `study create` stores: everything resolved, so that the study can run from anywhere."""

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
    assert spec["workers"] == {"count": 1, "gpus_per_worker": 0.0, "batch_size": 4, "threads": 1}
