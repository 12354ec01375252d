"""A database that the first version left behind, a study half done in it: upgraded, its study goes on."""

import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
from here_cluster import HereCluster
from optuna.trial import TrialState

from db import results, schema
from db.session import Database
from db.studies import get_study
from searchsvc import executor
from searchsvc.cli.app import run
from searchsvc.controller import run_study
from searchsvc.points import measured_in
from searchsvc.storage import optuna_storage

FIRST = Path(__file__).parent / "data" / "first_schema"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The file, in which the data are looked for where they are on this machine."""
    path = tmp_path / "studies.db"
    shutil.copy(FIRST / "studies.sqlite", path)
    connection = sqlite3.connect(path)
    where = str(FIRST / "manifest.jsonl")
    connection.execute("UPDATE ss_studies SET spec = replace(spec, '/data/manifest.jsonl', ?)", [where])
    connection.commit()
    connection.close()
    return path


def test_it_is_refused_until_it_is_upgraded(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = old.read_bytes()
    assert run(["study", "list", "--db", str(old)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"older version (revision 0001, this program needs {schema.needed_revision()})" in line
    assert line.endswith("run `searchsvc db upgrade`")
    assert old.read_bytes() == before
    assert run(["db", "upgrade", "--db", str(old)]) == 0
    assert run(["study", "list", "--db", str(old)]) == 0
    assert "half" in capsys.readouterr().out


def test_its_studies_go_on_where_they_were(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "Cluster", HereCluster)
    assert run(["db", "upgrade", "--db", str(old)]) == 0
    with Database.open(f"sqlite:///{old}") as database:

        def points(name: str) -> list:
            return measured_in(optuna.load_study(study_name=name, storage=optuna_storage(database)))

        before, tried = points("half"), results.attempts(database, "half")
        assert (len(before), len(tried)) == (5, 5)
        run_study(database, "half")
        after = points("half")
        assert after[:5] == before
        assert len({point.key for point in after}) == len(after) > 5
        assert len(results.attempts(database, "half")) == len(after), "what was evaluated was evaluated again"
        sampled = optuna.load_study(study_name="half/k@b=0.5", storage=optuna_storage(database)).trials
        done = TrialState.COMPLETE
        assert [trial.state for trial in sampled] == [done] * 3 + [TrialState.FAIL] + [done] * 5
        run_study(database, "half")
        assert points("half") == after
        assert len(results.fronts(database, "half")) == 1
        run_study(database, "waiting")
        assert {get_study(database, name).status for name in ("half", "waiting")} == {"done"}
