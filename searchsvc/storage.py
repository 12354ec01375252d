"""Optuna's own storage, in the database that holds our tables."""

import random
import threading
import time
from weakref import WeakKeyDictionary

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from db.engine import quick_commits
from db.errors import SchemaMismatch
from db.session import Database

#: How often making Optuna's tables is tried while other processes make them, too.
_TRIES = 30


class _Storage(RDBStorage):
    """Optuna's, but where it cannot be made it leaves no connection open."""

    def __init__(self, database: Database) -> None:
        try:
            super().__init__(database.optuna_url, engine_kwargs=database.optuna_engine_options)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise


_one_at_a_time = threading.Lock()
_storages: WeakKeyDictionary[Database, RDBStorage] = WeakKeyDictionary()


def optuna_storage(database: Database) -> RDBStorage:
    """Return Optuna's storage on `database`, one for all callers, closed with it.

    Its tables are created when missing.

    Raises:
        SchemaMismatch: the tables are of another version of Optuna.
    """
    with _one_at_a_time:
        if database not in _storages:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            storage = _storages[database] = _connected(database)
            if storage.engine.dialect.name == "sqlite":
                event.listen(storage.engine, "connect", quick_commits)
                storage.engine.dispose()  # connections that are open already
            database.at_close(lambda: _close(database))
        return _storages[database]


def _connected(database: Database, tries: int = _TRIES) -> RDBStorage:
    try:
        return _Storage(database)
    except RuntimeError as error:
        raise SchemaMismatch(
            "Optuna's tables in the database are of another version than the installed Optuna "
            f"{optuna.__version__} works with; see `searchsvc db check`"
        ) from error
    except (DBAPIError, StorageInternalError):
        # Optuna looks which tables are missing and makes them: of several processes at once all may fail.
        if tries == 1:
            raise
        time.sleep(random.uniform(0.01, 0.1))
        return _connected(database, tries - 1)


def _close(database: Database) -> None:
    storage = _storages.pop(database, None)
    if storage is not None:
        storage.remove_session()
        storage.engine.dispose()
