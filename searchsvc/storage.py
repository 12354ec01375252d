"""Optuna's own storage, in the database that holds our tables."""

import optuna
from sqlalchemy import event

from db.engine import quick_commits
from db.fence import fence
from db.session import Database
from db.values import Lease


def optuna_storage(database: Database, lease: Lease | None = None) -> optuna.storages.RDBStorage:
    """Return Optuna's storage on `database`; its tables are created when missing.

    With a lease, nothing is written once that is lost: LeaseLost is raised instead.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(database.optuna_url, engine_kwargs=database.optuna_engine_options)
    if storage.engine.dialect.name == "sqlite":
        event.listen(storage.engine, "connect", quick_commits)
        storage.engine.dispose()  # connections that are open already
    if lease is not None:
        fence(storage.engine, lease)
    return storage
