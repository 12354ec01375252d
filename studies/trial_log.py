"""The trials of one Optuna study that this process alone writes: read once, and never read back."""

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

#: user attribute of a trial that nobody will end
ORPHAN = "orphan"

Direction = Literal["maximize", "minimize"]
#: User attribute of an Optuna study: the numbers of its failed trials that shall be tried again.
RETRIED = "retried"


class TrialLog:
    """What `optuna.Study.add_trial` does, in two steps, and without reading back what was just written.

    A trial's number is its place in the study: nobody else adds any. It is written whole, once it has ended.
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
        stored = storage.get_all_trials(self._study_id)
        #: all that have ended, in order
        self.trials: list[FrozenTrial] = [trial for trial in stored if not self._is_orphan(trial)]
        self._orphans = len(stored) - len(self.trials)
        self._retried = frozenset(self.study.user_attrs.get(RETRIED, ()))
        self._written = len(self.trials)

    @property
    def standing(self) -> list[FrozenTrial]:
        """Those that count, in order: all but the failed ones that are to be tried again."""
        return [trial for trial in self.trials if trial.number not in self._retried]

    @property
    def retried(self) -> list[FrozenTrial]:
        """The failed ones that are to be tried again."""
        return [trial for trial in self.trials if trial.number in self._retried]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Whether a process of an earlier version, which wrote down what it proposed, died over this trial.

        It is marked as failed, and proposed anew as if it had never been.
        """
        if not trial.state.is_finished():
            self._storage.set_trial_user_attr(trial._trial_id, ORPHAN, True)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            return True
        return ORPHAN in trial.user_attrs

    def add(self, trial: FrozenTrial) -> FrozenTrial:
        """Take in a trial that has ended; returns it with its number. `write` is still to come."""
        added = copy.copy(trial)
        added.number = len(self.trials) + self._orphans
        self.trials.append(added)
        return added

    def write(self) -> None:
        """Write what is not written yet, in order, each trial in one transaction."""
        for trial in self.trials[self._written :]:
            self._storage.create_new_trial(self._study_id, template_trial=trial)
            self._written += 1


def retry_failed(storage: BaseStorage, name: str) -> int:
    """Have the failed trials of a study and its sub-studies tried again by its next run; return how many.

    The trials stay as they are. Nobody may run the study meanwhile.
    """
    failed = failed_trials(storage, name)
    for study_id, numbers in failed.items():
        earlier = storage.get_study_user_attrs(study_id).get(RETRIED, [])
        storage.set_study_user_attr(study_id, RETRIED, [*earlier, *numbers])
    return sum(map(len, failed.values()))


def failed_trials(storage: BaseStorage, name: str) -> dict[int, list[int]]:
    """Return, by Optuna's id of a study and its sub-studies, the numbers of failed trials.

    Those that are to be tried again already are left out, and so are studies without any.
    """
    found = {}
    for study in storage.get_all_studies():
        if study.study_name == name or study.study_name.startswith(f"{name}/"):
            earlier = study.user_attrs.get(RETRIED, ())
            trials = storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.FAIL,))
            found[study._study_id] = [trial.number for trial in trials if trial.number not in earlier]
    return {study_id: numbers for study_id, numbers in found.items() if numbers}


def ended(
    proposal: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A proposal as the trial that it became, with more user attributes."""
    trial = copy.copy(proposal)
    trial.user_attrs = {**proposal.user_attrs, **(attrs or {})}
    trial.state, trial.datetime_complete = state, datetime.now()
    if values is not None:
        trial.values = list(values)
    return trial


def values_of(trial: FrozenTrial) -> list[float]:
    """Return a finished trial's values, or the estimate that stands in for a stopped or failed one's.

    Optuna's samplers learn from finished trials alone: proposals are made with these in their place.
    """
    values: list[float] = trial.values if trial.state == TrialState.COMPLETE else trial.user_attrs["estimate"]
    return values
