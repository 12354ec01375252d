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

from db.engine import prepare_connection
from db.errors import SchemaMismatch
from db.fence import fence
from db.session import Database
from db.values import Lease

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


def optuna_storage(database: Database, lease: Lease | None = None) -> RDBStorage:
    """Return Optuna's storage on `database`, closed with it; its tables are created when missing.

    All callers share one. With a lease it is one of its own, that writes nothing once the lease is lost:
    LeaseLost is raised instead.

    Raises:
        SchemaMismatch: the tables are of another version of Optuna.
    """
    with _one_at_a_time:
        if lease is not None:
            storage = _opened(database)
            fence(storage.engine, lease)
            return storage
        if database not in _storages:
            _storages[database] = _opened(database)
            database.at_close(lambda: _forget(database))
        return _storages[database]


def _opened(database: Database) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _connected(database)
    event.listen(storage.engine, "connect", prepare_connection)
    storage.engine.dispose()  # connections that are open already
    database.at_close(lambda: _close(storage))
    return storage


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


def _forget(database: Database) -> None:
    _storages.pop(database, None)


def _close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()
