"""Exported profiles as artifacts: read by Optuna and by the dashboard as they were exported."""

import json
from pathlib import Path

import optuna
import pytest
from db_cases import make_study
from optuna.artifacts import download_artifact, get_all_artifact_meta, upload_artifact
from test_guard import Answer

from db import results
from db.session import Database
from db.values import NewProfile
from searchsvc.artifacts import ProfileArtifacts, attach
from searchsvc.dashboard import application
from searchsvc.storage import optuna_storage

YAML = "schema: searchsvc/pruning-profile/v1\nname: one-3  # é\n"


@pytest.fixture
def study(database: Database) -> optuna.Study:
    make_study(database)
    made = optuna.create_study(study_name="one", storage=optuna_storage(database))
    new = NewProfile(name="one-3", yaml=YAML, numbers={}, study="one", trial=3)
    for _ in range(2):  # exported again, it is the same one
        attach(database, results.save_profile(database, new))
    return made


def test_optuna_lists_and_downloads_it(database: Database, study: optuna.Study, tmp_path: Path) -> None:
    (meta,) = get_all_artifact_meta(study)
    assert (meta.filename, meta.mimetype) == ("one-3.yaml", "application/yaml")
    out = tmp_path / "profile.yaml"
    store = ProfileArtifacts(database)
    download_artifact(artifact_store=store, artifact_id=meta.artifact_id, file_path=str(out))
    assert out.read_text() == YAML


def test_the_dashboard_lists_and_serves_it(database: Database, study: optuna.Study) -> None:
    app = application(database)
    detail = json.loads(Answer(app, "GET", f"/api/studies/{study._study_id}").body)
    (artifact,) = detail["artifacts"]
    answer = Answer(app, "GET", f"/artifacts/{study._study_id}/{artifact['artifact_id']}")
    assert (answer.status, answer.body.decode()) == (200, YAML)
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert Answer(app, "GET", f"/artifacts/{study._study_id}/{'0' * 64}").status == 404


def test_it_is_there_only_with_its_study(database: Database, study: optuna.Study) -> None:
    other = optuna.create_study(study_name="two", storage=optuna_storage(database))
    (meta,) = get_all_artifact_meta(study)
    path = f"/artifacts/{other._study_id}/{meta.artifact_id}"
    assert Answer(application(database), "GET", path).status == 404


def test_nothing_else_is_stored(database: Database, study: optuna.Study, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<script>")
    with pytest.raises(PermissionError, match="profile export"):
        upload_artifact(
            artifact_store=ProfileArtifacts(database),
            file_path=str(tmp_path / "x.html"),
            study_or_trial=study,
        )


def test_deleting_optunas_study_keeps_the_profile(database: Database, study: optuna.Study) -> None:
    app = application(database, allow_writes=True)
    assert Answer(app, "DELETE", f"/api/studies/{study._study_id}").status == 204
    assert [profile.yaml for profile in results.profiles(database, "one")] == [YAML]
