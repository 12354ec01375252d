"""The verbs that steer a study, whoever runs it, each with what to say of it."""

from db import queue, requests, studies
from db.owners import current_owner
from db.session import Database
from db.values import Request
from searchsvc.errors import ServiceError
from searchsvc.storage import optuna_storage
from studies.trial_log import failed_trials, retry_failed

#: Long enough to note which trials are tried again, in seconds.
_NOTING_SECONDS = 30.0

_RUNNING = {
    "pause": "pauses as soon as who runs it has heard of it",
    "stop": "stops after the trial that is under way, with its best so far",
    "cancel": "is cancelled as soon as who runs it has heard of it",
}
_IDLE = {
    "pause": "paused",
    "stop": "ends with its best so far when it is taken next, by `searchsvc serve` or `study run`",
    "cancel": "cancelled",
}


def ask(database: Database, name: str, what: Request) -> str:
    """Ask whoever runs a study to pause, stop or cancel it; return what to tell.

    Raises:
        NotFound, StudyFinished: no such study, or it has ended.
    """
    study = requests.request(database, name, what)
    return f"{name}: {(_RUNNING if study.status == 'running' else _IDLE)[what]}"


def resume(database: Database, name: str) -> str:
    """Queue a paused study again, or take back what was asked of it; return what to tell.

    Raises:
        NotFound, StudyFinished: no such study, or it has ended.
    """
    return f"{name}: {requests.resume(database, name).status}"


def retry(database: Database, name: str, *, failed: bool) -> str:
    """Queue a failed or cancelled study again; return what to tell.

    Args:
        database: where it is.
        name: the study's.
        failed: have its failed schedules tried again, too; then any study that has some is queued.

    Raises:
        NotFound, StudyBusy: no such study, or somebody runs it now.
        ServiceError: there is nothing to try again.
    """
    study = studies.get_study(database, name)
    ended = study.status in ("failed", "cancelled")
    if not ended and not failed:
        raise ServiceError(f"study {name} is {study.status}; --failed tries its failed schedules again")
    if not ended and not failed_trials(optuna_storage(database), name):
        raise ServiceError(f"study {name} is {study.status} and has no failed schedule to try again")
    # held, so that nobody begins to run it while it is noted what is tried again
    lease = queue.claim(database, name, owner=current_owner(), seconds=_NOTING_SECONDS, reopen=True)
    count = retry_failed(optuna_storage(database, lease), name) if failed else 0
    queue.release(database, lease)
    again = f"; trials that had failed and are tried again: {count}" if failed else ""
    return f"{name}: queued{again}"
