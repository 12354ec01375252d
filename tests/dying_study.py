"""A study in a process of its own that dies at its n-th commit, as a coordinator does under kill -9."""

import itertools
import os
import pickle
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage
from synthetic_study import evaluate, key_of, make_context

from pruners.pruning import Pruning
from studies.driver import run_search
from studies.measured import Evaluation
from studies.searches.base import SearchOptions

DIED = 9


class DiskEvaluator:
    """Remembers evaluations in files, as the service does in its database; `computed` lists those it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def computed(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split() if log.exists() else []

    def __call__(self, pruning: Pruning | None) -> Evaluation:
        key = key_of(pruning)
        path = self.folder / key
        if not path.exists():
            path.write_bytes(pickle.dumps(evaluate(pruning)))
            with (self.folder / "log").open("a") as log:
                log.write(f"{key}\n")
        return pickle.loads(path.read_bytes())


def open_storage(folder: Path) -> RDBStorage:
    """SQLite without waiting for the disk: a process that dies loses nothing the system has been handed."""
    storage = RDBStorage(f"sqlite:///{folder / 'study.db'}")

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def fast(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    storage.engine.dispose()
    return storage


def run_until(folder: Path, options: SearchOptions, last_commit: int | None = None) -> int:
    """Run the study; os._exit before the commit number `last_commit`, else return how many there were."""
    storage = open_storage(folder)
    commits = itertools.count()

    @sqlalchemy.event.listens_for(storage.engine, "commit")
    def die(_):
        if next(commits) == last_commit:
            os._exit(DIED)

    run_search(options, make_context(storage, evaluate=DiskEvaluator(folder)))
    return next(commits)
