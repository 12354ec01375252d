"""Exported profiles as artifacts: read by Optuna and by the dashboard as they were exported."""

import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from db_cases import make_study
from optuna.artifacts import download_artifact, get_all_artifact_meta, upload_artifact
from test_dashboard import request

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


def served(database: Database, **options: Any) -> Any:
    return application(optuna_storage(database), artifacts=ProfileArtifacts(database), **options)


def test_optuna_lists_and_downloads_it(database: Database, study: optuna.Study, tmp_path: Path) -> None:
    (meta,) = get_all_artifact_meta(study)
    assert (meta.filename, meta.mimetype) == ("one-3.yaml", "application/yaml")
    out = tmp_path / "profile.yaml"
    store = ProfileArtifacts(database)
    download_artifact(artifact_store=store, artifact_id=meta.artifact_id, file_path=str(out))
    assert out.read_text() == YAML


def test_the_dashboard_lists_and_serves_it(database: Database, study: optuna.Study) -> None:
    app = served(database)
    detail = json.loads(request(app, "GET", f"/api/studies/{study._study_id}")[1])
    (artifact,) = detail["artifacts"]
    status, body = request(app, "GET", f"/artifacts/{study._study_id}/{artifact['artifact_id']}")
    assert (status, body.decode()) == ("200 OK", YAML)
    assert request(app, "GET", f"/artifacts/{study._study_id}/{'0' * 64}")[0].startswith("404")


def test_no_other_site_reads_it(database: Database, study: optuna.Study) -> None:
    (meta,) = get_all_artifact_meta(study)
    environ: dict[str, Any] = {"PATH_INFO": f"/artifacts/{study._study_id}/{meta.artifact_id}"}
    setup_testing_defaults(environ)
    seen: list[tuple[str, str]] = []
    served(database)(environ, lambda _, headers, exc_info=None: seen.extend(headers))
    assert ("Cross-Origin-Resource-Policy", "same-origin") in seen
    assert "access-control-allow-origin" not in {name.lower() for name, _ in seen}


def test_it_is_there_only_with_its_study(database: Database, study: optuna.Study) -> None:
    other = optuna.create_study(study_name="two", storage=optuna_storage(database))
    (meta,) = get_all_artifact_meta(study)
    path = f"/artifacts/{other._study_id}/{meta.artifact_id}"
    assert request(served(database), "GET", path)[0].startswith("404")


def test_nothing_else_is_stored(database: Database, study: optuna.Study, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<script>")
    with pytest.raises(PermissionError, match="profile export"):
        upload_artifact(
            artifact_store=ProfileArtifacts(database),
            file_path=str(tmp_path / "x.html"),
            study_or_trial=study,
        )


def test_deleting_optunas_study_keeps_the_profile(database: Database, study: optuna.Study) -> None:
    app = served(database, allow_writes=True)
    assert request(app, "POST", f"/api/artifacts/{study._study_id}")[0].startswith("403")
    assert request(app, "DELETE", f"/api/studies/{study._study_id}")[0].startswith("204")
    assert [profile.yaml for profile in results.profiles(database, "one")] == [YAML]
