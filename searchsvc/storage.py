"""Optuna's own storage, in the database that holds our tables."""

import optuna

from db.session import Database


def optuna_storage(database: Database) -> optuna.storages.RDBStorage:
    """Return Optuna's storage on `database`; its tables are created when missing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.RDBStorage(database.optuna_url, engine_kwargs=database.optuna_engine_options)
