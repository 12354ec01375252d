"""The trials of one Optuna study that this process alone writes: read once, and never read back."""

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

Direction = Literal["maximize", "minimize"]


class TrialLog:
    """What `optuna.Study.add_trial` and `tell` do, without reading back what was just written.

    A trial's number is its place in the log: nobody else adds any.
    """

    def __init__(self, storage: BaseStorage, name: str, directions: Sequence[Direction]) -> None:
        #: the study as Optuna has it. Its sampler is never asked: `studies.asking` proposes
        self.study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=list(directions),
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        #: all of them, in order
        self.trials: list[FrozenTrial] = storage.get_all_trials(self._study_id)
        self._ids: dict[int, int] = {}

    def add(self, trial: FrozenTrial) -> FrozenTrial:
        """Write a trial whole; returns it with its number."""
        number = len(self.trials)
        self._ids[number] = self._storage.create_new_trial(self._study_id, template_trial=trial)
        added = copy.copy(trial)
        added.number = number
        self.trials.append(added)
        return added

    def end(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> FrozenTrial:
        """Write how a running trial ended; returns it."""
        if number not in self._ids:
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        for name, value in (attrs or {}).items():
            self._storage.set_trial_user_attr(self._ids[number], name, value)
        self._storage.set_trial_state_values(self._ids[number], state, values)
        ended = copy.copy(self.trials[number])
        ended.user_attrs = {**ended.user_attrs, **(attrs or {})}
        ended.state, ended.datetime_complete = state, datetime.now()
        if values is not None:
            ended.values = list(values)
        self.trials[number] = ended
        return ended


def values_of(trial: FrozenTrial) -> list[float]:
    """Return a finished trial's values, or the estimate that stands in for a stopped or failed one's.

    Optuna's samplers learn from finished trials alone: proposals are made with these in their place.
    """
    values: list[float] = trial.values if trial.state == TrialState.COMPLETE else trial.user_attrs["estimate"]
    return values
