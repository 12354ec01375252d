"""Follows a study that somebody else runs, by looking at the database until it has ended."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from db import studies
from db.errors import Unreachable
from db.session import Database
from db.values import Study
from searchsvc.storage import optuna_storage
from studies.measured import details

#: How often it is looked, in seconds.
POLL_SECONDS = 1.0
#: States that a study does not leave by itself.
ENDED = ("done", "failed", "cancelled")

#: Told of every change: a line for people.
OnChange = Callable[[str], None]


def wait_for(database: Database, name: str, on_change: OnChange = lambda _: None) -> Study:
    """Return the study when it has ended; a paused one is waited for.

    A database that goes out of reach meanwhile is waited for, too.

    Raises:
        NotFound: there is no such study, or it was deleted.
    """
    *_, last = _states(database, name, on_change)
    return last


def new_trials(
    database: Database, name: str, on_change: OnChange = lambda _: None
) -> Iterator[dict[str, Any]]:
    """Yield a row for every trial of the main study, as they are written, until the study has ended.

    Raises:
        NotFound: there is no such study, or it was deleted.
    """
    storage = optuna.storages.get_storage(optuna_storage(database))  # reads finished trials once
    shown = 0
    for _ in _states(database, name, on_change):
        if name in {found.study_name for found in storage.get_all_studies()}:
            study_id = storage.get_study_id_from_name(name)
            trials = storage.get_all_trials(study_id, deepcopy=False)[shown:]
            shown += len(trials)
            yield from map(_row, trials)


def _states(database: Database, name: str, on_change: OnChange) -> Iterator[Study]:
    """Yield the study again and again, the last time when it has ended."""
    said: str = ""
    study = studies.get_study(database, name)
    while True:
        status: str = study.status
        if status != said:
            on_change(f"{name}: {status}")
            said = status
        yield study
        if study.status in ENDED:
            return
        time.sleep(POLL_SECONDS)
        try:
            study = studies.get_study(database, name)
        except Unreachable as error:
            if said != "unreachable":
                on_change(f"{error}; waiting")
            said = "unreachable"


def _row(trial: FrozenTrial) -> dict[str, Any]:
    """One trial; of a failed one or one that was given up there are no values."""
    accuracy, flops_ratio = trial.values if trial.state == TrialState.COMPLETE else (None, None)
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "schedule": details(trial).get("label"),
        "accuracy": accuracy,
        "flops_ratio": flops_ratio,
        "reason": trial.user_attrs.get("reason"),
    }
