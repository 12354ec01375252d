"""Studies on the embedded model whose workers only sleep, in threads of this process."""

from pathlib import Path

from here_cluster import HereCluster

from bench.simulated import SimulatedEvaluations
from db.session import Database
from db.studies import create_study
from searchsvc import controller, executor
from searchsvc.storage import optuna_storage
from searchsvc.subject import read_subject
from studies.spec import StudySpec

SEARCH = {"method": "pareto", "trials": 40, "sampler": "tpe", "rankers": ["last"]}


class Naps(SimulatedEvaluations):
    """Two batches of 20 ms."""

    seconds, batches = 0.02, 2


def nap(patch=setattr) -> None:
    """Have this process's studies run so."""
    patch(executor, "Cluster", HereCluster)
    patch(controller, "Evaluations", Naps)


def queue_study(url: str, manifest: Path, name: str = "one", **changes) -> None:
    """Queue a study of eight scenes."""
    spec = {
        "name": name,
        "model": {"id": "demo"},
        "data": {"path": str(manifest), "split": {"search": 8, "test": 1}},
        "search": SEARCH,
        "max_new_tokens": 1,
    }
    made = StudySpec.parse(spec | changes, "test")
    with Database.open(url) as database:
        subject = read_subject(made)
        create_study(
            database, name, made.model_dump(mode="json"), model=subject.model, dataset=subject.dataset
        )
        optuna_storage(database)
